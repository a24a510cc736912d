"""Emulated workers are configured like others, refused early, and never pass for real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mygo import config as configs
from mygo.config import Config
from mygo.errors import ConfigError
from mygo.serve import emulated_worker

SHIPPED = Path(__file__).parents[3] / "configs" / "emulated.yaml"
DIRECTORY: Any = None


def _config(**workers: Any) -> Config:
    return configs.parse({"workers": {"device": "emulated", **workers}})


def test_answers_carry_a_notice_when_workers_are_emulated_and_only_then() -> None:
    (notice,) = _config(emulated_time_scale=4).workers.notices
    assert "emulated" in notice
    assert "llama-3-8b-h100" in notice
    assert "x4" in notice
    assert Config().workers.notices == ()


def test_deployment_reserves_no_cpu_and_is_routed_to_as_a_real_worker() -> None:
    config = configs.load(SHIPPED)
    deployment = emulated_worker.deployment(config, DIRECTORY)._bound_deployment
    assert deployment.num_replicas == 16
    assert deployment.ray_actor_options["num_cpus"] == 0
    router = deployment._deployment_config.request_router_config.request_router_class
    assert router == "mygo.serve.pinned:PinnedRouter"


def test_profile_is_refused_before_anything_starts_when_it_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="llama-3-8b-h100"):
        emulated_worker.deployment(_config(emulated_profile="h200"), DIRECTORY)


def test_settings_are_refused_before_anything_starts_when_the_cache_holds_no_block() -> None:
    config = configs.parse({"workers": {"device": "emulated"}, "model": {"kv_cache_bytes": 2**20}})
    with pytest.raises(ConfigError, match=r"model\.kv_cache_bytes"):
        emulated_worker.deployment(config, DIRECTORY)


def test_shipped_config_holds_as_many_tokens_as_it_says() -> None:
    config = configs.load(SHIPPED)
    (settings, profile, scale, _) = emulated_worker.deployment(config, DIRECTORY)._bound_deployment.init_args
    assert settings.device_tokens == 262_144
    assert profile.name == "llama-3-8b-h100"
    assert scale == 10
