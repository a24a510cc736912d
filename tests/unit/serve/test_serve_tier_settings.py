"""The sections of cache and reuse as the engine is told of them."""

from __future__ import annotations

from mygo.config import parse
from mygo.serve.worker import chunk_settings, tier_settings
from mygo.vllm_plugin.settings import ChunkSettings, PluginSettings, TierSettings, engine_arguments


def test_tiers_of_the_configuration_reach_the_plugin() -> None:
    cache = parse({"cache": {"host_bytes": 7, "disk_path": "/kv", "disk_bytes": 9, "policy": "lru"}}).cache
    told = engine_arguments("/s", tiers=tier_settings(cache))["kv_transfer_config"]
    read = PluginSettings.parse(told["kv_connector_extra_config"]).tiers
    assert read == TierSettings(host_bytes=7, disk_path="/kv", disk_bytes=9, policy="lru")


def test_disk_has_no_size_when_it_has_no_folder() -> None:
    assert tier_settings(parse({}).cache) == TierSettings(host_bytes=2**30)


def test_chunks_take_memory_only_where_something_may_be_blended() -> None:
    assert chunk_settings(parse({"reuse": {"host_bytes": 9}})) == ChunkSettings()
    config = parse({"reuse": {"mode": "blend", "host_bytes": 9, "repair_share": 0.2}})
    told = engine_arguments("/s", chunks=chunk_settings(config))
    read = PluginSettings.parse(told["kv_transfer_config"]["kv_connector_extra_config"]).chunks
    assert read == ChunkSettings(host_bytes=9, repair_share=0.2)


def test_chunks_lie_on_the_caches_disk_if_they_have_room_there() -> None:
    sections = {"reuse": {"mode": "blend", "disk_bytes": 5}, "cache": {"disk_path": "/kv"}}
    chunks = chunk_settings(parse(sections))
    assert (chunks.disk_path, chunks.disk_bytes) == ("/kv/chunks", 5)
    assert chunk_settings(parse(sections | {"reuse": {"mode": "blend"}})).disk_path is None
