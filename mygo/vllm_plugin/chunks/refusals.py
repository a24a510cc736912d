"""Engines that cannot reuse chunks, told at start-up."""

from __future__ import annotations

from collections.abc import Iterator

from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig

from mygo.errors import ConfigError
from mygo.vllm_plugin.settings import CHUNK_WORKER, SCHEDULER

ARCHITECTURES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
"""Those whose attention layers turn their keys just before they use them, and do nothing else to them."""


def check(config: VllmConfig, kv_cache_config: KVCacheConfig) -> None:
    """Raises ConfigError with everything that stands against it."""
    reasons = list(_reasons(config, kv_cache_config))
    if reasons:
        raise ConfigError(
            f"chunks.host_bytes: this engine cannot reuse chunks: {'; '.join(reasons)}. Set it to 0 to serve "
            "without"
        )


def _reasons(config: VllmConfig, kv_cache_config: KVCacheConfig) -> Iterator[str]:
    model, parallel, cache = config.model_config, config.parallel_config, config.cache_config
    if model.architecture not in ARCHITECTURES:
        yield f"{model.architecture} is none of {', '.join(sorted(ARCHITECTURES))}"
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1 or type(groups[0].kv_cache_spec) is not FullAttentionSpec:
        yield "its layers do not all have full attention"
    elif groups[0].kv_cache_spec.sliding_window is not None:
        yield "its layers have a sliding window"
    if parallel.pipeline_parallel_size > 1:
        yield "pipeline parallelism"
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        yield "context parallelism"
    if parallel.use_ubatching:
        yield "batches in two halves: leave enable_dbo and ubatch_size out"
    if config.speculative_config is not None:
        yield "speculative decoding"
    if cache.cache_dtype not in ("auto", str(model.dtype).removeprefix("torch.")):
        yield f"KV of type {cache.cache_dtype} in a model of {model.dtype}"
    if config.use_v2_model_runner:
        yield "vLLM's second model runner: set VLLM_USE_V2_MODEL_RUNNER=0"
    scheduler_cls = config.scheduler_config.scheduler_cls
    # vLLM's own lets who shares blocks of a chunk that is lost go on as if they were filled
    if scheduler_cls != SCHEDULER:
        yield f"scheduler_cls is {scheduler_cls}: set it to {SCHEDULER}"
    if parallel.worker_cls != CHUNK_WORKER:
        yield f"worker_cls is {parallel.worker_cls}: set it to {CHUNK_WORKER}"
