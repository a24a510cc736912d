"""What chunk reuse uses of vLLM's insides, so that an upgrade fails here and says where."""

from __future__ import annotations

import inspect
from typing import Any


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_runner_prepares_a_step_as_scattered_steps_expects() -> None:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    assert _parameters(GPUModelRunner._prepare_inputs) == [
        "self",
        "scheduler_output",
        "num_scheduled_tokens",
    ]
    build = _parameters(GPUModelRunner._build_attention_metadata)
    assert build[:4] == ["self", "num_tokens", "num_reqs", "max_query_len"] and "slot_mappings" in build
    step = inspect.getsource(GPUModelRunner.execute_model)
    stages = [
        ".handle_preemptions(kv_connector_metadata)",
        "self._update_states(",
        "self._prepare_inputs(scheduler_output, num_scheduled_tokens_np)",
        "self._build_attention_metadata(",
        "self._preprocess(",
        "self.maybe_get_kv_connector_output(",
        "self._model_forward(",
    ]
    places = [step.index(stage) for stage in stages]
    assert places == sorted(places)


def test_connector_loads_before_and_is_asked_for_failures_after_the_model() -> None:
    from vllm.v1.worker.kv_connector_model_runner_mixin import KVConnectorModelRunnerMixin

    source = inspect.getsource(KVConnectorModelRunnerMixin._get_kv_connector_output)
    assert "start_after_forward = not scheduler_output.has_sync_kv_loads" in source
    assert source.index("yield output") < source.index(".wait_for_save()")
    assert source.index(".wait_for_save()") < source.index(".get_block_ids_with_load_errors()")


def test_every_way_to_share_a_block_passes_the_coordinator() -> None:
    from vllm.v1.core.kv_cache_coordinator import KVCacheCoordinator
    from vllm.v1.core.kv_cache_manager import KVCacheManager

    assert _parameters(KVCacheCoordinator.cache_blocks) == ["self", "request", "num_computed_tokens"]
    for function in (KVCacheManager.allocate_slots, KVCacheManager.cache_blocks):
        assert "self.coordinator.cache_blocks(request," in inspect.getsource(function)


def test_scheduler_asks_the_device_then_us_and_plans_before_it_counts() -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    schedule = inspect.getsource(Scheduler.schedule)
    places = [
        schedule.index(stage)
        for stage in (
            "self._get_local_prefix_cache_hit(request)",
            "self.connector.get_num_new_matched_tokens(",
            "num_external_computed_tokens=num_external_computed_tokens",
            "self.connector.update_state_after_alloc(",
            "self._build_kv_connector_meta(self.connector, scheduler_output)",
            "self._update_after_schedule(scheduler_output)",
        )
    ]
    assert places == sorted(places)


def test_attention_layers_call_their_rotary_module_with_positions_query_and_key() -> None:
    from vllm.model_executor.models.llama import LlamaAttention
    from vllm.model_executor.models.mistral import MistralAttention
    from vllm.model_executor.models.qwen2 import Qwen2Attention
    from vllm.model_executor.models.qwen3 import Qwen3Attention
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl
    from vllm.v1.attention.backends.flash_attn import FlashAttentionImpl
    from vllm.v1.attention.backends.triton_attn import TritonAttentionImpl

    for attention in (LlamaAttention, MistralAttention, Qwen2Attention, Qwen3Attention):
        source = inspect.getsource(attention.forward)
        assert source.index("self.rotary_emb(positions, q, k)") < source.index("self.attn(q, k, v)")
    for backend in (CPUAttentionBackendImpl, FlashAttentionImpl, TritonAttentionImpl):
        arguments = ["self", "layer", "key", "value", "kv_cache", "slot_mapping"]
        assert _parameters(backend.do_kv_cache_update) == arguments


def test_compiled_models_compute_without_compiled_code_when_a_step_says_so() -> None:
    from vllm.compilation import decorators
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    call = inspect.getsource(decorators._support_torch_compile)
    assert "get_forward_context().skip_compiled:\n            return self.forward(*args, **kwargs)" in call
    step = inspect.getsource(GPUModelRunner.execute_model)
    assert step.index("skip_compiled=") < step.index("self._model_forward(")
