"""vLLM's own scheduler and KV cache with MyGO's plugin, driven step by step: the one file of this room
that touches vLLM's internals.

Does what vLLM's ``EngineCore`` does around its scheduler (hash a request's blocks, add, schedule,
update with what the model said, abort), except that there is no model: the caller says how many
tokens each sequence gets, and they are drawn from the request's id and their position.
"""

from __future__ import annotations

import functools
import json
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.envs import enable_envs_cache
from vllm.utils.gc_utils import freeze_gc_heap
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from mygo.emulation.settings import EngineSettings
from mygo.emulation.timing import Chunk
from mygo.types import GenerateRequest, RequestId
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
    cached_tokens: int | None
    """With the first tokens: leading prompt tokens that came from the cache."""
    finished: bool


class VllmScheduler:
    """One engine's scheduler, block pool and plugin. Steps alternate: ``schedule``, then ``complete``."""

    def __init__(self, settings: EngineSettings, sink: ReportSink) -> None:
        self._settings = settings
        config = _vllm_config(settings)
        block_tokens = settings.block_tokens
        # one block is vLLM's placeholder, which holds nothing
        blocks = settings.device_tokens // block_tokens + 1
        config.cache_config.num_gpu_blocks = blocks
        spec = FullAttentionSpec(block_size=block_tokens, num_kv_heads=1, head_size=8, dtype=torch.float32)
        self._scheduler = Scheduler(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=block_tokens,
            hash_block_size=block_tokens,
        )
        self._hash_blocks = _block_hasher(block_tokens)
        self._scheduler.connector.report_to(sink)
        self._admitted_tokens: dict[str, int] = {}
        """Of admitted requests: tokens that were held when they were admitted."""

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

    def add(self, request: GenerateRequest) -> None:
        """Enqueue a request whose prompt fits the engine."""
        params: dict[str, Any] = {}
        if request.spans:
            params["mygo"] = {
                "spans": [[span.key, span.end_tokens, span.salt] for span in request.spans],
                "answer_domain": request.answer_domain,
            }
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

    def reset_cache(self) -> bool:
        """Forget all cached KV; False, and nothing is forgotten, while requests hold blocks."""
        return bool(self._scheduler.reset_prefix_cache())

    def schedule(self) -> Scheduled:
        """vLLM's next scheduling pass."""
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
        return Scheduled(output, chunks, sequences, context_tokens, [RequestId(name) for name in fresh])

    def complete(self, scheduled: Scheduled, tokens: int = 1) -> dict[RequestId, Produced]:
        """The step is over: requests whose prompt is computed each get ``tokens`` tokens.

        More than one is right only where ``decoding`` said so.
        """
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
            ),
        )
        produced: dict[RequestId, Produced] = {}
        for batch in outputs.values():
            for output in batch.outputs:
                stats = output.prefill_stats
                finished = output.finish_reason is not None
                if finished:
                    self._admitted_tokens.pop(output.request_id, None)
                produced[RequestId(output.request_id)] = Produced(
                    list(output.new_token_ids), stats.num_cached_tokens if stats else None, finished
                )
        return produced

    def decoding(self) -> Decoding | None:
        """What could be decoded in one go; None if anything else is to be done.

        While nobody waits, no prompt is computed, no sequence ends and free blocks suffice, a scheduling
        pass decides nothing: it gives every running request its next token.
        """
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

    def decode(self, steps: int) -> dict[RequestId, Produced]:
        """Decode ``steps`` steps of what ``decoding`` returned, in at most two scheduling passes.

        The first computes one token and is given all but the last of the new ones; the second computes
        those. The blocks taken, and so those evicted, are the same as one by one.
        """
        if steps == 1:
            return self.complete(self.schedule())
        first = self.complete(self.schedule(), tokens=steps - 1)
        last = self.complete(self.schedule())
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


@functools.lru_cache
def _vllm_config(settings: EngineSettings) -> Any:
    """A VllmConfig for a model that is never loaded. Built once: it takes longer than a whole engine."""
    with tempfile.TemporaryDirectory(prefix="mygo-emulated-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(_model_config(settings)), encoding="utf-8")
        return AsyncEngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            max_model_len=settings.max_context_tokens,
            max_num_batched_tokens=settings.step_tokens,
            long_prefill_token_threshold=settings.long_prefill_tokens,
            max_num_seqs=settings.max_running,
            enforce_eager=True,
            async_scheduling=False,
            # the scheduler is given its blocks; this only keeps vLLM from looking at a device
            kv_cache_memory_bytes=2**20,
            **engine_arguments(sibling_hold=settings.sibling_hold),
        ).create_engine_config()


def _model_config(settings: EngineSettings) -> Mapping[str, Any]:
    """As small as vLLM accepts: nothing of it but the context's length matters to a scheduler."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "num_hidden_layers": 1,
        "vocab_size": settings.vocabulary,
        "max_position_embeddings": settings.max_context_tokens,
        "torch_dtype": "float32",
    }
