"""The sections of cache and reuse as the engine is told of them."""

from __future__ import annotations

import pytest

from mygo.config import parse
from mygo.errors import ConfigError
from mygo.prompt import neutral
from mygo.serve.worker import chunk_settings, engine_environment, tier_settings
from mygo.vllm_plugin.settings import ChunkSettings, PluginSettings, TierSettings, engine_arguments


def test_tiers_of_the_configuration_reach_the_plugin() -> None:
    config = parse({"cache": {"host_bytes": 7, "disk_path": "/kv", "disk_bytes": 9, "policy": "lru"}})
    told = engine_arguments("/s", tiers=tier_settings(config))["kv_transfer_config"]
    read = PluginSettings.parse(told["kv_connector_extra_config"]).tiers
    assert read == TierSettings(host_bytes=7, disk_path="/kv", disk_bytes=9, policy="lru")


def test_disk_has_no_size_when_it_has_no_folder() -> None:
    assert tier_settings(parse({})) == TierSettings(host_bytes=2**30)


def test_chunks_take_memory_only_where_something_may_be_blended() -> None:
    assert chunk_settings(parse({"reuse": {"chunk_share": 0.4}})) == ChunkSettings()
    config = parse(
        {
            "reuse": {"mode": "blend", "chunk_share": 0.4, "repair_share": 0.2, "method": "spread"},
            "cache": {"host_bytes": 10**8},
        }
    )
    told = engine_arguments("/s", chunks=chunk_settings(config))
    read = PluginSettings.parse(told["kv_transfer_config"]["kv_connector_extra_config"]).chunks
    assert read == ChunkSettings(host_bytes=4 * 10**7, repair_share=0.2, method="spread")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.77])
def test_chunks_and_prompts_share_one_budget_of_memory_and_one_of_disk(share: float) -> None:
    cache = {"host_bytes": 2**30 + 1, "disk_path": "/kv", "disk_bytes": 10**12 + 1}
    config = parse({"reuse": {"mode": "blend", "chunk_share": share}, "cache": cache})
    tiers, chunks = tier_settings(config), chunk_settings(config)
    assert tiers.host_bytes + chunks.host_bytes == 2**30 + 1
    assert tiers.disk_bytes + chunks.disk_bytes == 10**12 + 1
    assert (tiers.disk_path, chunks.disk_path) == ("/kv", "/kv/chunks")
    assert chunks.host_bytes == int(share * (2**30 + 1)) and chunks.disk_bytes == int(share * (10**12 + 1))


def test_blending_is_refused_without_host_memory() -> None:
    with pytest.raises(ConfigError, match=r"set cache\.host_bytes"):
        parse({"reuse": {"mode": "blend"}, "cache": {"host_bytes": 0}})


def test_prompts_have_no_tier_where_chunks_take_all() -> None:
    cache = {"host_bytes": 2**24, "disk_path": "/kv", "disk_bytes": 2**25}
    config = parse({"reuse": {"mode": "blend", "chunk_share": 1}, "cache": cache})
    assert chunk_settings(config).disk_bytes == 2**25
    told = engine_arguments("/s", tiers=tier_settings(config))["kv_transfer_config"]
    assert PluginSettings.parse(told["kv_connector_extra_config"]).tiers == TierSettings()


def test_engine_finds_what_it_needs_in_its_environment_wherever_it_runs() -> None:
    """A worker of a cluster that was joined does not have the environment of the server process."""
    assert engine_environment(parse({}), [2, 3]) == {"VLLM_CPU_OMP_THREADS_BIND": "2,3"}
    blending = parse({"reuse": {"mode": "blend"}, "workers": {"device": "cuda"}})
    assert engine_environment(blending, [2, 3]) == {"VLLM_USE_V2_MODEL_RUNNER": "0"}


@pytest.mark.parametrize("fillers", [False, True])
def test_engine_knows_the_neutral_documents_where_copies_are_made_behind_them(fillers: bool) -> None:
    found = chunk_settings(parse({"reuse": {"mode": "blend", "fillers": fillers}})).fillers
    assert found == (neutral.VERSION if fillers else "")
