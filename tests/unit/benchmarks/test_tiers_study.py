"""The tiers study: what is the same for all systems, and what is compared."""

from __future__ import annotations

import pytest

from benchmarks.tiers.compare import lines, verdicts
from benchmarks.tiers.plan import (
    ABLATIONS,
    MYGO,
    NATIVE,
    PREFIX_ONLY,
    SMOKE,
    SYSTEMS,
    UNBOUNDED,
    Cell,
    Setting,
    Size,
    engine_settings,
    systems,
)
from mygo.errors import ConfigError
from mygo.simulation.working_set import working_set_tokens
from mygo.workloads import preset

SETTING = Setting("llama-3-8b-h100", 0.1)


def test_all_systems_with_tiers_have_the_same_memory() -> None:
    trace = preset("ragpulse").trace(0, requests=300)
    made = {each.name: engine_settings(each, SETTING, trace, 1000) for each in (*SYSTEMS, *ABLATIONS)}
    assert len({each.device_tokens for each in made.values()}) == 1
    tiers = [made[name].tiers for name in made if name not in (PREFIX_ONLY.name, UNBOUNDED.name)]
    assert {each.host_bytes for each in tiers} == {round(0.1 * working_set_tokens(trace)) * 1000}
    assert {each.disk_bytes for each in tiers} == {round(0.5 * working_set_tokens(trace)) * 1000}
    assert made[PREFIX_ONLY.name].tiers.host_bytes == 0
    assert made[UNBOUNDED.name].tiers.host_bytes > 1000 * working_set_tokens(trace)
    assert [name for name in made if made[name].vllm_offloading] == [each.name for each in NATIVE]
    assert not any(made[each.name].sibling_hold for each in (*NATIVE, PREFIX_ONLY))


def test_ablations_are_run_at_the_middle_load_only() -> None:
    size = Size(("ragpulse",), 10, (0.9, 0.3, 0.6), 1, ablations=True)
    assert systems(size, Cell("ragpulse", 0.6)) == [*SYSTEMS, *ABLATIONS]
    assert systems(size, Cell("ragpulse", 0.9)) == list(SYSTEMS)
    with pytest.raises(ConfigError, match="loads: must be between"):
        Size(("ragpulse",), 10, (4.0,), 1, ablations=False)


def _row(ttft_s: float, goodput_per_s: float, itl_p99_s: float) -> dict[str, object]:
    return {
        "ttft_s": [ttft_s, ttft_s],
        "goodput_per_s": goodput_per_s,
        "itl_p99_s": itl_p99_s,
        "hits": {"device": 0.1, "host": 0.2, "disk": 0.3},
    }


def test_verdicts_compare_with_the_best_native_policy_and_with_prefix_caching() -> None:
    rows = {
        MYGO.name: [_row(1.0, 2.6, 1.0)] * 3,
        NATIVE[0].name: [_row(1.5, 1.0, 1.0)] * 3,
        NATIVE[1].name: [_row(0.97, 2.0, 0.9)] * 3,
        PREFIX_ONLY.name: [_row(2.1, 0.5, 1.0)] * 3,
    }
    found = lines(rows, [MYGO, *NATIVE, PREFIX_ONLY])
    assert [line.ttft_ratio.estimate for line in found] == pytest.approx([1.0, 1.5, 0.97, 2.1])
    goodput, ttft, itl, prefix = verdicts(Cell("ragpulse", 0.6), found)
    assert goodput.met and goodput.found.startswith("1.300")
    assert not ttft.met and ttft.found.startswith("0.970")
    assert not itl.met and itl.found.startswith("1.111")
    assert prefix.met and prefix.found.startswith("2.100")


def test_smoke_size_is_small() -> None:
    assert len(SMOKE.presets) * len(SMOKE.loads) * SMOKE.seeds * SMOKE.requests < 1000
