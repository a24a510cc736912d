"""The KV connector that vLLM loads: wiring only. What it decides lies in its neighbours.

vLLM makes one for the scheduler and one for each worker. On the scheduler's side a request passes
through, in this order: ``on_new_request`` (identity, ledger), ``get_num_new_matched_tokens`` in each step
until it is admitted (sibling hold, what to load), ``update_state_after_alloc`` (admitted),
``request_finished_all_groups``. Each step ends with ``take_events``, where changes are reported. The
worker's side only moves KV between tiers, and without any does nothing.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from dataclasses import replace
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.metrics.cache_hit_source import CacheHitSource
from vllm.v1.outputs import KVConnectorOutput
from vllm.v1.request import Request, RequestStatus

from mygo.errors import BadRequest, ConfigError
from mygo.tree.keys import segment_key
from mygo.types import Tier, WorkerLoad
from mygo.vllm_plugin import identity, spans, versions
from mygo.vllm_plugin.beside_model import BesideModel, StepMetadata, StepReport
from mygo.vllm_plugin.chunks import refusals
from mygo.vllm_plugin.chunks.chunks import Chunks
from mygo.vllm_plugin.device_cache import DeviceCache
from mygo.vllm_plugin.ledger import Ledger
from mygo.vllm_plugin.reporter import Reporter, ReportSink
from mygo.vllm_plugin.retirement import Retirement
from mygo.vllm_plugin.settings import PluginSettings
from mygo.vllm_plugin.siblings import SiblingHold
from mygo.vllm_plugin.spans import SegmentMap
from mygo.vllm_plugin.tiers.tiers import Tiers
from mygo.vllm_plugin.wire import Assess, Done, Hello, Look, Observe, Purge

logger = logging.getLogger(__name__)

# A busy engine tells so often what it holds, not in each step: the router hears of it twice a second anyway.
REPORT_EVERY_S = 0.05


class MygoConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """See ``settings.engine_arguments`` for how to load it.

    Raises UntestedVersion or ConfigError at start-up; nothing that a request brings raises later,
    because an exception here would end the engine.
    """

    # vLLM passes the last argument by this very name
    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        versions.check()
        super().__init__(vllm_config, role, kv_cache_config)
        self._settings = PluginSettings.parse(self._kv_transfer_config.kv_connector_extra_config)
        self.tier_settings = self._settings.tiers
        self._requests: dict[str, Request] = {}
        self.report_every_s = REPORT_EVERY_S
        self._reported_s = 0.0
        self._prefilling: dict[str, Request] = {}
        """Those that wait, or have prompt tokens left to be computed."""
        self._maps: dict[str, SegmentMap] = {}
        self._uncomputed_tokens: dict[str, int] = {}
        """Of waiting requests: prompt tokens that nobody holds or is computing, when last looked."""
        self._reporter: ReportSink | None = None
        self._commander: Reporter | None = None  # where commands come from: the same socket
        if self._settings.chunks.host_bytes:
            refusals.check(vllm_config, kv_cache_config)
        if role == KVConnectorRole.WORKER:
            self._worker = BesideModel(vllm_config, kv_cache_config, self._settings)

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        """Layers wait for KV between graphs only; the one of a step has too few rows for scattered tokens."""
        settings = PluginSettings.parse(extra_config)
        layerwise = settings.tiers.host_bytes and settings.tiers.layerwise
        return bool(layerwise or settings.chunks.host_bytes)

    def bind_kv_cache_manager(self, kv_cache_manager: KVCacheManager) -> None:
        """The scheduler has built its cache: everything that depends on it begins here."""
        super().bind_kv_cache_manager(kv_cache_manager)
        self._cache = DeviceCache(kv_cache_manager, self._kv_cache_config)
        self._siblings = SiblingHold(self._cache)
        self._tiers = self._make_tiers(kv_cache_manager)
        self.appraise = self._tiers.appraise
        self.expect = self._tiers.keeper.tree.waiting.expect
        self._cache.when_cleared(self._tiers.cleared)
        self._chunks = self._make_chunks(kv_cache_manager)
        self._ledger = Ledger(self._cache.block_tokens, self._tier_of, self._cache.event_id)
        self._tiers.tag_with(self._ledger.tags_of)
        self._retirement = Retirement(self._ledger, self._cache, self._tiers, time.monotonic)
        if self._settings.mygo_socket is not None:
            reporter = Reporter(self._settings.mygo_socket, self._hello(), self._tiers.counters)
            self.report_to(reporter)
            self._commander = reporter
            reporter.start()

    def _make_tiers(self, kv_cache_manager: KVCacheManager) -> Tiers:
        return Tiers(
            self._settings.tiers,
            self._vllm_config,
            self._kv_cache_config,
            kv_cache_manager,
            self._cache,
            time.perf_counter,
        )

    def _make_chunks(self, kv_cache_manager: KVCacheManager) -> Chunks:
        parts = self._vllm_config, self._kv_cache_config, kv_cache_manager, self._cache, self._tiers
        return Chunks(self._settings.chunks, *parts)

    def _hello(self) -> Hello:
        return Hello(
            epoch=uuid.uuid4().hex,
            block_tokens=self._cache.block_tokens,
            device_tokens=self._cache.capacity_tokens,
            pid=os.getpid(),
            data_parallel_rank=self._vllm_config.parallel_config.data_parallel_index,
        )

    def report_to(self, sink: ReportSink) -> None:
        """Publish to ``sink`` from now on. Once, before the first request; a socket does it by itself."""
        if not self._cache.publishes_events:
            raise ConfigError(
                "the engine has no cache events to report: "
                "set kv_events_config as mygo.vllm_plugin.settings.engine_arguments does"
            )
        self._reporter = sink
        self._cache.tee(self._ledger.observe, self._cleared)

    def _tier_of(self, block_hash: bytes) -> Tier | None:
        """The fastest tier that holds a block."""
        return Tier.DEVICE if self._cache.is_resident(block_hash) else self._tiers.tier_of(block_hash)

    # --- scheduler side --------------------------------------------------------------------------

    @property
    def requires_kv_delivery(self) -> bool:
        """Nobody waits for KV from us, so a preempted request may finish with what it computed."""
        return False

    def on_new_request(self, request: Request) -> None:
        shared = 0
        try:
            segments = spans.parse(request.kv_transfer_params, request.num_prompt_tokens)
        except BadRequest as error:
            # Whose tokens these are is unknown, so nobody may share them.
            logger.error("request %s: %s; it is served without sharing", request.request_id, error)
            identity.isolate(request)
            segments = None
        if segments is not None:
            identity.narrow(request, segments.spans, self._cache.hash_tokens, segments.lonely_tokens)
            shared = self._retirement.begin(request, segments.spans)
            if shared < len(segments.spans):
                block = self._retirement.lonely_block(request.request_id)
                identity.isolate(request, block * self._cache.block_tokens // self._cache.hash_tokens)
        ends = [span.end_tokens for span in segments.spans] if segments is not None else []
        device_tokens = self._tiers.begin(request, ends)
        if self._reporter is not None and segments is not None:
            # behind what is shared, and where chunks are reused, blocks are not what the keys promise
            if shared == len(segments.spans):
                self._maps[request.request_id] = segments
            self._ledger.begin(request.request_id, segments.spans[:shared], self._cache.hashes(request))
        if segments is not None and shared == len(segments.spans):
            self._chunks.begin(request, segments)
        if self._reporter is not None:
            self._requests[request.request_id] = self._prefilling[request.request_id] = request
            self._uncomputed_tokens[request.request_id] = request.num_prompt_tokens - device_tokens
            self._reporter.publish([], self._load())

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """Tokens to load, and whether before the request runs. None: skip it in this step, ask again."""
        leader = (
            self._siblings.leader_of(request, num_computed_tokens) if self._settings.sibling_hold else None
        )
        if request.request_id in self._uncomputed_tokens:
            shared_tokens = self._siblings.shared_tokens(request, leader) if leader else num_computed_tokens
            self._uncomputed_tokens[request.request_id] = max(0, request.num_prompt_tokens - shared_tokens)
        if leader:
            return None, False
        loaded_tokens, before_it_runs = self._tiers.matched(request, num_computed_tokens)
        if loaded_tokens is None:
            return None, False
        chunk_tokens = self._chunks.matched(request, num_computed_tokens, loaded_tokens)
        return (None, False) if chunk_tokens is None else (loaded_tokens + chunk_tokens, before_it_runs)

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        self._siblings.admitted(request)
        chunk_tokens = self._chunks.loaded_tokens(request) if num_external_tokens else 0
        self._tiers.admitted(request, blocks, num_external_tokens - chunk_tokens)
        named = self._chunks.admitted(request)
        if named is not None and request.request_id in self._requests:
            self._ledger.finish(request.request_id)
            self._ledger.begin(request.request_id, named.spans, self._cache.hashes(request), named.seen)

    def get_external_cache_hit_sources(
        self, request: Request, num_external_tokens: int
    ) -> dict[CacheHitSource, int]:
        chunk_tokens = self._chunks.loaded_tokens(request)
        sources = self._tiers.sources(request, num_external_tokens - chunk_tokens)
        host_tokens = sources.get(CacheHitSource.HOST, 0) + chunk_tokens
        return sources | {CacheHitSource.HOST: host_tokens} if host_tokens else sources

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        self._siblings.stepped(scheduler_output.num_scheduled_tokens)
        for request_id in scheduler_output.preempted_req_ids or ():
            if request_id in self._requests:
                self._prefilling[request_id] = self._requests[request_id]
        chunks = self._chunks.plan_step(scheduler_output)
        return StepMetadata(self._tiers.plan_step(scheduler_output, only_computes=not chunks.loads), chunks)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        if connector_output.invalid_block_ids:
            self._chunks.loads_failed()
        report = connector_output.kv_connector_worker_meta
        if report is not None:
            assert isinstance(report, StepReport)
            self._chunks.heard(report.chunks)
            connector_output = replace(connector_output, kv_connector_worker_meta=report.tiers)
        self._tiers.heard(connector_output)

    def has_pending_push_work(self) -> bool:
        has_commands = self._commander is not None and self._commander.has_commands
        return self._tiers.busy or self._chunks.busy or has_commands

    def take_events(self) -> tuple[()]:
        """The step is over; the cache's events were taken just before. We add none of our own."""
        self._chunks.step_ended()
        for tier, blocks in self._tiers.step_ended().items():
            self._ledger.observe(map(self._cache.event_id, blocks), tier)
        answers = self._obey()
        # the last request's step may be the last one for hours
        if not self._requests or answers or time.monotonic() - self._reported_s >= self.report_every_s:
            self._report()
        if self._commander is not None:
            for answer in answers:
                self._commander.answer(answer)
        return ()

    def _obey(self) -> list[Done]:
        """Carry out what the worker asked for since the last step."""
        answers: list[Done] = []
        for command in self._commander.take_commands() if self._commander is not None else ():
            match command:
                case Look():
                    seen = self._tiers.view(command.top, self._ledger.describe)
                    answers.append(Done(command.number, seen))
                case Purge():
                    self._retirement.purge(command.tags)
                    self._retirement.doom(self._chunks.purge(command.tags))
                    answers.append(Done(command.number))
                case Observe() | Assess():
                    answers.append(self._chunks.obey(command))
        return answers

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Also called for aborted requests. Blocks are freed at once and stay cached.

        Nothing is reported yet: the step's own events come first. An abort is followed by a step, if
        only an empty one.
        """
        request_id = request.request_id
        self._siblings.finished(request_id)
        self._retirement.finished(request_id)
        reused = self._chunks.finished(request)
        account = self._tiers.finished(request)
        told: dict[str, Any] | None = None
        if self._requests.pop(request_id, None) is not None:
            del self._uncomputed_tokens[request_id]
            self._prefilling.pop(request_id, None)
            segments = self._maps.pop(request_id, None)
            if segments is not None:
                if reused is None or not reused.approximate:
                    self._register_answer(request, segments)
                # only who knows our segment map is told: beside us, another connector may have its say
                told = account.as_params() if account is not None else None
                if told is not None and reused is not None:
                    told["mygo"] |= reused.as_params()
            self._ledger.finish(request_id)
        return False, told

    def reset_cache(self) -> bool:
        self._tiers.reset()
        self._chunks.reset()
        self._ledger.observe_all()
        self._report()
        return True

    def shutdown(self) -> None:
        if self._role == KVConnectorRole.WORKER:
            self._worker.shutdown()
            return
        if self._reporter is not None:
            self._reporter.close()
        self._tiers.shutdown()
        self._chunks.shutdown()

    def _register_answer(self, request: Request, segments: SegmentMap) -> None:
        """The generated ids become a segment, as the next turn of a conversation will name it."""
        answer = _answer_ids(request)
        if segments.answer_domain is None or not answer:
            return
        key = segment_key(segments.spans[-1].key, segments.answer_domain, answer)
        end_tokens = request.num_prompt_tokens + len(answer)
        self._ledger.extend(request.request_id, key, end_tokens, self._cache.hashes(request))

    def _cleared(self) -> None:
        self._ledger.observe_all()
        self._report()

    def _report(self) -> None:
        if self._reporter is not None:
            self._reported_s = time.monotonic()
            self._reporter.publish(self._ledger.take_events(), self._load())

    def _load(self) -> WorkerLoad:
        waiting = queued_tokens = 0
        for request_id, request in list(self._prefilling.items()):
            left_tokens = request.num_prompt_tokens - request.num_computed_tokens
            if request.status != RequestStatus.RUNNING:
                waiting += 1
                queued_tokens += self._uncomputed_tokens[request_id]
            elif left_tokens > 0:
                queued_tokens += left_tokens
            else:
                del self._prefilling[request_id]
        return WorkerLoad(
            waiting,
            len(self._requests) - waiting,
            queued_tokens,
            self._cache.free_tokens,
            host_tokens_per_s=self._tiers.tokens_per_s(Tier.HOST),
            disk_tokens_per_s=self._tiers.tokens_per_s(Tier.DISK),
        )

    # --- worker side -----------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._worker.register_kv_caches(kv_caches)

    def attach_runner(self, runner: Any) -> None:
        """See ``BesideModel``; a worker of ours calls it."""
        self._worker.attach_runner(runner)

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        self._worker.begin(kv_connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        self._worker.load(self._connector_metadata)

    def wait_for_layer_load(self, layer_name: str) -> None:
        self._worker.wait_for_layer(layer_name)

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """KV is stored in whole blocks, once it is computed."""

    def wait_for_save(self) -> None:
        self._worker.save(self._connector_metadata)

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._worker.failed_blocks()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        return self._worker.finished(finished_req_ids)

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        return self._worker.report()


def _answer_ids(request: Request) -> list[int]:
    """The generated ids without the token that ended them."""
    answer = list(request.output_token_ids)
    sampling = request.sampling_params
    if answer and request.status == RequestStatus.FINISHED_STOPPED and sampling is not None:
        endings = {sampling.eos_token_id, *(sampling.stop_token_ids or ())}
        if answer[-1] in endings:
            answer.pop()
    return answer
