"""vLLM's own scheduler and KV cache with MyGO's plugin, driven step by step.

Does what vLLM's ``EngineCore`` does around its scheduler (hash a request's blocks, add, schedule,
update with what the model said, abort), except that there is no model: the caller says how many
tokens each sequence gets, and they are drawn from the request's id and their position.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from vllm import SamplingParams
from vllm.envs import enable_envs_cache
from vllm.utils.gc_utils import freeze_gc_heap
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from mygo.emulation.chunks import VirtualChunks
from mygo.emulation.connector import EmulatedConnector
from mygo.emulation.copier import Copy
from mygo.emulation.profile import EngineProfile
from mygo.emulation.settings import EngineSettings
from mygo.emulation.timing import Chunk
from mygo.emulation.vllm_config import vllm_config
from mygo.types import ChunkUse, GenerateRequest, RequestId, Tier
from mygo.vllm_plugin import spans
from mygo.vllm_plugin.beside_model import StepReport
from mygo.vllm_plugin.filling import FillerNews
from mygo.vllm_plugin.reporter import ReportSink
from mygo.vllm_plugin.settings import engine_arguments

# Fibonacci hashing (Knuth, TAOCP 3, 6.4): neighbours land far apart in the upper bits.
_MIX = 0x9E3779B97F4A7C15


@dataclass(slots=True)
class Scheduled:
    """What one scheduling pass put into a step."""

    output: Any
    """vLLM's SchedulerOutput."""
    chunks: list[Chunk]
    """Prompts that the step computes tokens of."""
    sequences: int
    """Requests that decode."""
    context_tokens: int
    """KV tokens that the decoding requests read together."""
    admitted: list[RequestId]
    """Requests that left the queue in this pass."""
    begins_s: float
    """When the computation may begin: blocks may first have to be copied away."""
    beside: list[Copy] = field(default_factory=list)
    """Loads that run beside the computation, which needs them layer by layer."""
    chunks_s: float = 0.0
    """Seconds that loads from chunks take, also beside the computation."""

    @property
    def empty(self) -> bool:
        return not self.output.num_scheduled_tokens


@dataclass(frozen=True, slots=True)
class Decoding:
    """The running requests, when each of them only has its next token to compute and nobody waits."""

    sequences: int
    context_tokens: int
    steps: int
    """Steps until the first of them ends, or until their tokens would not fit any more."""


@dataclass(slots=True)
class Produced:
    """What a step gave one request."""

    token_ids: list[int]
    cached_tokens: dict[Tier, int] | None
    """With the first tokens: leading prompt tokens that came from the cache, by the tier that held them."""
    finished: bool
    chunks: ChunkUse | None = None
    """With the last tokens, as is ``fillers``."""
    fillers: FillerNews | None = None


class VllmScheduler:
    """One engine's scheduler, block pool and plugin. Steps alternate: ``schedule``, then ``complete``.

    Of ``profile`` only what concerns the tiers matters here: bytes per token, layers, speeds of the links.
    """

    def __init__(self, settings: EngineSettings, profile: EngineProfile, sink: ReportSink) -> None:
        self._settings = settings
        kv_bytes = profile.kv_bytes_per_token
        tiers = replace(
            settings.tiers,
            host_load_s_per_byte=profile.host_load_s_per_token / kv_bytes,
            disk_read_s_per_byte=profile.disk_load_s_per_token / kv_bytes,
        )
        config = vllm_config(replace(settings, tiers=tiers))
        block_tokens = settings.block_tokens
        # one block is vLLM's placeholder, which holds nothing
        blocks = settings.device_tokens // block_tokens + 1
        config.cache_config.num_gpu_blocks = blocks
        spec = FullAttentionSpec(
            block_size=block_tokens,
            num_kv_heads=1,
            head_size=1,
            dtype=torch.int8,
            page_size_padded=max(2, -(-kv_bytes // profile.layers)) * block_tokens,
        )
        layers = [f"layer {number}" for number in range(profile.layers)]
        make = config.scheduler_config.get_scheduler_cls()
        self._scheduler = make(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(layers, spec)]
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=block_tokens,
            hash_block_size=block_tokens,
        )
        self._hash_blocks = _block_hasher(block_tokens)
        self._chunks = VirtualChunks(profile)
        self._connector: EmulatedConnector = self._scheduler.connector
        self._connector.report_to(sink)
        self._admitted_tokens: dict[str, int] = {}
        """Of admitted requests: tokens that were held when they were admitted."""
        self._heard = False

    @property
    def device_tokens(self) -> int:
        """Capacity of the KV cache."""
        return (
            int(self._scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1) * self._settings.block_tokens
        )

    @property
    def unfinished(self) -> int:
        """Requests that were added and have not ended."""
        return int(self._scheduler.get_num_unfinished_requests())

    @property
    def has_work(self) -> bool:
        """False if a scheduling pass would have nothing to do and nothing to tell."""
        return bool(self._scheduler.has_requests())

    @property
    def next_transfer_end_s(self) -> float | None:
        """When something ends that is under way between tiers; None while nothing is."""
        ends_s = (self._connector.next_end_s, self._chunks.next_end_s)
        return min((end_s for end_s in ends_s if end_s is not None), default=None)

    @property
    def has_news(self) -> bool:
        """The last step heard of transfers, or left some to be begun: another pass need not wait for any."""
        worker = self._connector.worker
        return self._heard or (worker is not None and worker.has_deferred)

    def add(self, request: GenerateRequest) -> None:
        """Enqueue a request whose prompt fits the engine."""
        params = spans.params(request)
        self._scheduler.add_request(
            Request(
                request_id=request.request_id,
                prompt_token_ids=request.token_ids,
                sampling_params=SamplingParams(
                    max_tokens=request.sampling.max_tokens,
                    ignore_eos=True,
                    extra_args={"kv_transfer_params": params} if params else None,
                ),
                pooling_params=None,
                arrival_time=0.0,
                cache_salt=request.spans[0].salt if request.spans else None,
                block_hasher=self._hash_blocks,
            )
        )

    def abort(self, request_id: RequestId) -> None:
        """End a request; its full blocks stay cached. Unknown ids are ignored."""
        self._scheduler.finish_requests(request_id, RequestStatus.FINISHED_ABORTED)
        self._admitted_tokens.pop(request_id, None)
        self._connector.loaded.pop(request_id, None)

    def reset_cache(self) -> bool:
        """Forget all cached KV; False, and nothing is forgotten, while requests hold blocks."""
        return bool(self._scheduler.reset_prefix_cache(reset_connector=True))

    def schedule(self, now_s: float) -> Scheduled:
        """vLLM's next scheduling pass. Transfers that it asks for begin."""
        self._connector.clock.now_s = now_s
        output = self._scheduler.schedule()
        fresh = [entry.req_id for entry in output.scheduled_new_reqs]
        began = {*fresh, *output.scheduled_cached_reqs.resumed_req_ids}
        chunks: list[Chunk] = []
        sequences = context_tokens = 0
        for request_id, tokens in output.num_scheduled_tokens.items():
            request = self._scheduler.requests[request_id]
            before = request.num_computed_tokens - tokens  # the pass has advanced it already
            if request_id in began:
                self._admitted_tokens[request_id] = before
            elif request.num_output_tokens and before == request.num_tokens - tokens:
                sequences += 1
                context_tokens += before
                continue
            cached_tokens = self._admitted_tokens[request_id]
            chunks.append(Chunk(cached_tokens, before - cached_tokens, tokens))
        admitted = [RequestId(name) for name in fresh]
        scheduled = Scheduled(output, chunks, sequences, context_tokens, admitted, now_s)
        worker, step = self._connector.worker, output.kv_connector_metadata
        chunks_s = self._chunks.begin(step.chunks, now_s)
        if worker is not None:
            meta = step.tiers
            worker.copier.waited_until_s = now_s
            worker.handle_preemptions(meta)
            scheduled.begins_s = max(now_s, worker.copier.waited_until_s)
            self._connector.clock.now_s = scheduled.begins_s
            worker.start_kv_transfers(meta)
            scheduled.beside = [worker.copier.copy_of(job_id) for job_id in sorted(meta.layerwise_jobs)]
        if self._settings.chunks.layerwise:
            scheduled.chunks_s = chunks_s
        else:
            scheduled.begins_s += chunks_s
            self._chunks.held_up(chunks_s)
        return scheduled

    def held_up(self, seconds: float) -> None:
        """A step's computation ended so much later for what was loaded from chunks beside it."""
        self._chunks.held_up(seconds)

    def complete(self, scheduled: Scheduled, now_s: float, tokens: int = 1) -> dict[RequestId, Produced]:
        """The step is over: requests whose prompt is computed each get ``tokens`` tokens.

        More than one is right only where ``decoding`` said so.
        """
        self._connector.clock.now_s = now_s
        moved = self._moved(scheduled)
        sampled: list[list[int]] = []
        for request_id in scheduled.output.num_scheduled_tokens:
            request = self._scheduler.requests.get(request_id)
            ready = request is not None and request.num_computed_tokens >= request.num_tokens
            sampled.append(self._draw(request, tokens) if ready else [])
        names = list(scheduled.output.num_scheduled_tokens)
        outputs = self._scheduler.update_from_output(
            scheduled.output,
            ModelRunnerOutput(
                req_ids=names,
                req_id_to_index={request_id: index for index, request_id in enumerate(names)},
                sampled_token_ids=sampled,
                kv_connector_output=moved,
            ),
        )
        produced: dict[RequestId, Produced] = {}
        for batch in outputs.values():
            for output in batch.outputs:
                stats = output.prefill_stats
                finished = output.finish_reason is not None
                if finished:
                    self._admitted_tokens.pop(output.request_id, None)
                cached = self._by_tier(output.request_id, stats.num_cached_tokens) if stats else None
                told = (output.kv_transfer_params or {}).get("mygo", {})
                produced[RequestId(output.request_id)] = Produced(
                    list(output.new_token_ids),
                    cached,
                    finished,
                    ChunkUse(**told["chunks"]) if "chunks" in told else None,
                    FillerNews(**told["fillers"]) if "fillers" in told else None,
                )
        return produced

    def _moved(self, scheduled: Scheduled) -> KVConnectorOutput | None:
        """What the worker's half of the plugin tells the scheduler's at the end of a step."""
        worker = self._connector.worker
        chunks = self._chunks.report(self._connector.clock.now_s)
        self._heard = bool(chunks)
        if worker is None:
            return KVConnectorOutput(kv_connector_worker_meta=StepReport(None, chunks)) if chunks else None
        worker.finish_layerwise()
        worker.prepare_store_kv(scheduled.output.kv_connector_metadata.tiers)
        sent, received = worker.get_finished(set())
        meta = worker.build_connector_worker_meta()
        self._heard |= meta is not None
        report = StepReport(meta, chunks) if meta is not None or chunks else None
        return KVConnectorOutput(
            finished_sending=sent, finished_recving=received, kv_connector_worker_meta=report
        )

    def _by_tier(self, request_id: str, cached_tokens: int) -> dict[Tier, int]:
        loaded = self._connector.loaded.pop(request_id, {})
        return {Tier.DEVICE: cached_tokens - sum(loaded.values()), **loaded}

    def decoding(self) -> Decoding | None:
        """What could be decoded in one go; None if anything else is to be done.

        While nobody waits, no prompt is computed, no sequence ends and free blocks suffice, a scheduling
        pass decides nothing: it gives every running request its next token. With tiers it does: each block
        that fills is stored, and policies learn from what steps cost.
        """
        tiers, chunks = self._settings.tiers, self._settings.chunks
        if tiers.host_bytes or tiers.device_policy != "vllm" or chunks.host_bytes:
            return None
        running, waiting = self._scheduler.get_request_counts()
        if waiting or not running:
            return None
        block_tokens = self._settings.block_tokens
        context_tokens = 0
        steps = self._settings.step_tokens // running + 1
        if 0 < self._settings.long_prefill_tokens < steps:
            steps = self._settings.long_prefill_tokens + 1
        for request in self._scheduler.running:
            if not request.num_output_tokens or request.num_computed_tokens != request.num_tokens - 1:
                return None
            left = min(
                request.max_tokens - request.num_output_tokens,
                self._settings.max_context_tokens - request.num_tokens,
            )
            steps = min(steps, left)
            context_tokens += request.num_computed_tokens
        free_blocks = int(self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks())
        steps = min(steps, (free_blocks // running - 1) * block_tokens)
        return Decoding(running, context_tokens, steps) if steps > 1 else None

    def decode(self, steps: int, now_s: float) -> dict[RequestId, Produced]:
        """Decode ``steps`` steps of what ``decoding`` returned, in at most two scheduling passes; the last
        step ends at ``now_s``.

        The first computes one token and is given all but the last of the new ones; the second computes
        those. The blocks taken, and so those evicted, are the same as one by one.
        """
        if steps == 1:
            return self.complete(self.schedule(now_s), now_s)
        first = self.complete(self.schedule(now_s), now_s, tokens=steps - 1)
        last = self.complete(self.schedule(now_s), now_s)
        return {
            request_id: Produced([*first[request_id].token_ids, *end.token_ids], None, end.finished)
            for request_id, end in last.items()
        }

    def _draw(self, request: Any, tokens: int) -> list[int]:
        """Token ids that depend on the request's id and their positions alone."""
        seed = zlib.crc32(request.request_id.encode())
        first = request.num_output_tokens
        return [
            ((seed + position) * _MIX % 2**64 >> 32) % self._settings.vocabulary
            for position in range(first, first + tokens)
        ]


def settle_process() -> None:
    """What vLLM's engine process does once it has started: settings are read from the environment no
    more, and what lives now is no garbage. Steps become faster by a quarter; only for a process that does
    nothing but emulate."""
    enable_envs_cache()
    freeze_gc_heap()


@functools.lru_cache
def _block_hasher(block_tokens: int) -> Any:
    # the parent of every first block, which vLLM keeps in its module
    init_none_hash(get_hash_fn_by_name(engine_arguments()["prefix_caching_hash_algo"]))
    return get_request_block_hasher(block_tokens, _hash_block)


def _hash_block(block: tuple[bytes, tuple[int, ...], tuple[Any, ...] | None]) -> bytes:
    """64 bits, for this process only, in a tenth of the time of SHA-256 over CBOR.

    Hashes decide nothing but equality, and nobody attacks an emulation.
    """
    return hash(block).to_bytes(8, "little", signed=True)
