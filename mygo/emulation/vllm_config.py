"""vLLM's configuration of an emulated engine."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs

from mygo.emulation.connector import EmulatedConnector
from mygo.emulation.native import NativeConnector
from mygo.emulation.settings import EngineSettings
from mygo.vllm_plugin.settings import engine_arguments


@functools.lru_cache
def vllm_config(settings: EngineSettings) -> Any:
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
            block_size=settings.block_tokens,
            enforce_eager=True,
            async_scheduling=False,
            # the scheduler is given its blocks; this only keeps vLLM from looking at a device
            kv_cache_memory_bytes=2**20,
            **_plugin_arguments(settings),
        ).create_engine_config()


def _plugin_arguments(settings: EngineSettings) -> dict[str, Any]:
    arguments = engine_arguments(
        sibling_hold=settings.sibling_hold, tiers=settings.tiers, chunks=settings.chunks
    )
    connector = NativeConnector if settings.vllm_offloading else EmulatedConnector
    arguments["kv_transfer_config"] |= {
        "kv_connector": connector.__name__,
        "kv_connector_module_path": connector.__module__,
    }
    if settings.vllm_offloading:
        arguments.pop("scheduler_cls", None)
    return arguments


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
