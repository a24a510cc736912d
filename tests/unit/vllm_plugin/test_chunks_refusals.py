"""Who cannot reuse chunks hears all reasons at once, and what to set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

from mygo.errors import ConfigError
from mygo.vllm_plugin.chunks import refusals
from mygo.vllm_plugin.settings import CHUNK_WORKER, SCHEDULER, ChunkSettings, TierSettings, engine_arguments

CHUNKS = ChunkSettings(host_bytes=2**20)
FULL = FullAttentionSpec(block_size=32, num_kv_heads=1, head_size=8, dtype=torch.float32)


def configured(model: Path, **arguments: Any) -> VllmConfig:
    ours = engine_arguments(chunks=CHUNKS, tiers=TierSettings(admission_window=0, protect_short=False))
    made = EngineArgs(
        model=str(model),
        skip_tokenizer_init=True,
        block_size=32,
        **{"enforce_eager": True, **ours, **arguments},
    ).create_engine_config()
    assert isinstance(made, VllmConfig)
    return made


def kv_cache(*specs: FullAttentionSpec) -> KVCacheConfig:
    groups = [KVCacheGroupSpec([f"layer {number}"], spec) for number, spec in enumerate(specs)]
    return KVCacheConfig(num_blocks=4, kv_cache_tensors=[], kv_cache_groups=groups)


@pytest.mark.parametrize("eager", [True, False])
def test_engines_of_our_arguments_are_accepted_whether_compiled_or_not(tiny_model: Path, eager: bool) -> None:
    refusals.check(configured(tiny_model, enforce_eager=eager), kv_cache(FULL))


@pytest.mark.parametrize("is_ahead", [False, True])
def test_engines_need_our_scheduler_whether_they_schedule_ahead_or_not(
    tiny_model: Path, is_ahead: bool
) -> None:
    config = configured(tiny_model)
    config.scheduler_config.async_scheduling = is_ahead
    refusals.check(config, kv_cache(FULL))
    config.scheduler_config.scheduler_cls = None
    with pytest.raises(ConfigError, match=f"scheduler_cls is None: set it to {SCHEDULER}"):
        refusals.check(config, kv_cache(FULL))


def test_all_reasons_are_told_at_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tiny_model, worker_cls="auto")
    config.parallel_config.enable_dbo = True
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    with pytest.raises(ConfigError) as refused:
        refusals.check(config, kv_cache(FULL, FULL))
    for reason in (
        "full attention",
        "enable_dbo",
        "VLLM_USE_V2_MODEL_RUNNER=0",
        f"set it to {CHUNK_WORKER}",
        "Set it to 0",
    ):
        assert reason in str(refused.value)
