"""The registry, the check of prompts, and reading a server's counters; no server is started."""

from pathlib import Path

import pytest

from benchmarks.systems import BASELINE, SYSTEMS, choose, mygo_cluster
from benchmarks.systems.mygo_cluster import is_same, is_same_but_for_order
from benchmarks.systems.system import Settings, Throttle
from benchmarks.systems.throttle import GPUS, ratios
from benchmarks.systems.vllm_server import samples
from mygo.config import CacheConfig, ModelConfig
from mygo.errors import ConfigError
from mygo.types import PUBLIC, Prompt, Segment, SegmentKey, SegmentKind


def prompt(*documents: tuple[int, ...]) -> Prompt:
    parts = [(SegmentKind.SYSTEM, (1, 2)), *((SegmentKind.DOCUMENT, each) for each in documents)]
    parts.append((SegmentKind.TURN, (3,)))
    return Prompt(tuple(Segment(kind, ids, SegmentKey("k"), PUBLIC) for kind, ids in parts))


def test_every_system_is_registered_under_its_name() -> None:
    assert BASELINE in SYSTEMS
    assert all(system.name == name and system.summary for name, system in SYSTEMS.items())


def test_mygo_rows_with_tiers_configure_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, dict[str, object]] = {}
    monkeypatch.setattr(mygo_cluster, "start_cluster", lambda folder, **sections: started.update(sections))
    settings = Settings(
        ModelConfig(), tmp_path, tmp_path, (1,), 1_000_000, 1000, ("a",), Throttle("h100", 1e-4, 1e-3)
    )
    SYSTEMS["mygo-tiers-lru"].start(tmp_path, settings)
    cache = CacheConfig.model_validate(started["cache"])
    assert (cache.host_bytes, cache.disk_bytes, cache.policy) == (1_000_000, 5_000_000, "lru")
    assert cache.disk_path == tmp_path / "kv"
    assert (cache.host_load_s_per_byte, cache.disk_read_s_per_byte) == pytest.approx((1e-7, 1e-6))
    SYSTEMS["mygo"].start(tmp_path, settings)
    assert CacheConfig.model_validate(started["cache"]).host_bytes == 0


def test_system_is_refused_with_its_nearest_name_when_unknown() -> None:
    assert choose(["mygo", "mygo"]) == ["mygo", "mygo"]
    with pytest.raises(ConfigError, match="did you mean vllm-prefix"):
        choose(["vllm-prefx"])
    with pytest.raises(ConfigError, match="at least one"):
        choose([])


def test_prompt_is_the_same_only_with_the_same_ids() -> None:
    whole = prompt((10, 11), (20, 21))
    assert is_same(whole, [1, 2, 10, 11, 20, 21, 3])
    assert not is_same(whole, [1, 2, 20, 21, 10, 11, 3])


@pytest.mark.parametrize(
    ("ids", "same"),
    [
        ([1, 2, 10, 11, 20, 21, 3], True),
        ([1, 2, 20, 21, 10, 11, 3], True),
        ([1, 2, 10, 11, 10, 11, 3], False),
        ([1, 2, 10, 11, 20, 21], False),
        ([1, 2, 10, 11, 20, 21, 3, 4], False),
        ([2, 1, 10, 11, 20, 21, 3], False),
    ],
)
def test_prompt_is_the_same_but_for_order(ids: list[int], same: bool) -> None:
    assert is_same_but_for_order(prompt((10, 11), (20, 21)), ids) is same


def test_counters_are_read_from_prometheus_text() -> None:
    text = (
        "# HELP vllm:x_total words\n"
        'vllm:x_total{engine="0",source="host"} 3.0\n'
        "process_open_fds 7.0\n"
        'vllm:y{le="+Inf"} 1e+06\n'
    )
    assert samples(text) == [
        ("vllm:x_total", {"engine": "0", "source": "host"}, 3.0),
        ("process_open_fds", {}, 7.0),
        ("vllm:y", {"le": "+Inf"}, 1e6),
    ]


def test_throttle_keeps_the_ratio_to_computing() -> None:
    throttle = GPUS["h100"].throttle(0.002)
    assert throttle.host_s_per_token == pytest.approx(0.07 * 0.002)
    assert throttle.disk_s_per_token == pytest.approx(0.5 * 0.002)
    with pytest.raises(ConfigError, match="did you mean h100"):
        ratios("h10")
