"""The tiers study: what is the same for all systems, and what is compared."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.tiers.compare import lines, verdicts
from benchmarks.tiers.measure import EASE, eased
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
from benchmarks.tiers.sustained import rate_per_s, sustained
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


def test_requests_that_fill_the_caches_come_more_slowly_than_those_that_count() -> None:
    trace = preset("pcr").trace(0, requests=20)
    eased_s = [request.arrival_s for request in eased(trace, 8).requests]
    arrivals_s = [request.arrival_s for request in trace.requests]
    assert eased_s[:9] == pytest.approx([EASE * arrival_s for arrival_s in arrivals_s[:9]])
    assert np.diff(eased_s[8:]) == pytest.approx(np.diff(arrivals_s[8:]))
    assert [request.number for request in eased(trace, 8).requests] == list(range(20))
    unchanged_s = [request.arrival_s for request in eased(trace, 0).requests]
    assert np.diff(unchanged_s) == pytest.approx(np.diff(arrivals_s))


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
        UNBOUNDED.name: [_row(0.5, 3.0, 0.8)] * 3,
    }
    found = lines(rows, SYSTEMS)
    assert [line.ttft_ratio.estimate for line in found] == pytest.approx([1.0, 1.5, 0.97, 2.1, 0.5])
    goodput, ttft, itl, prefix = verdicts(Cell("ragpulse", 0.6), found)
    assert goodput.met and goodput.found.startswith("1.300")
    assert not ttft.met and ttft.found.startswith("0.970")
    assert not itl.met and itl.found.startswith("1.111")
    assert prefix.met and prefix.found.startswith("2.100")
    # what the system without bounds has against the same ones
    limits = [each.limit for each in (goodput, ttft, itl, prefix)]
    assert limits == pytest.approx([3.0 / 2.0, 0.97 / 0.5, 0.8 / 0.9, 2.1 / 0.5])


def _by_load(*means_s: float) -> list[dict[str, object]]:
    return [{"rate_per_s": float(at), "ttft_s": [mean_s, mean_s]} for at, mean_s in enumerate(means_s, 1)]


def test_sustained_rate_lies_where_the_mean_ttft_passes_the_promise() -> None:
    assert rate_per_s(_by_load(0.1, 0.5, 2.0, 0.9), 1.0) == (pytest.approx(2.5), False)
    assert rate_per_s(_by_load(0.1, 1.0), 1.0) == (2.0, True), "kept at each rate"
    assert rate_per_s(_by_load(1.1, 2.0), 1.0) == (1.0, True), "broken at each rate"


def test_sustained_rates_are_compared_seed_by_seed() -> None:
    rows = {each.name: [_by_load(0.1, 0.5, 2.0)] * 2 for each in SYSTEMS}
    rows[PREFIX_ONLY.name] = [_by_load(0.25, 4.0, 9.0), _by_load(2.0, 4.0, 9.0)]
    found = {each.system.name: each for each in sustained(rows, SYSTEMS, 1.0)}
    assert found[MYGO.name].rate_per_s == pytest.approx(2.5)
    assert found[MYGO.name].bounded_seeds == 0
    assert found[PREFIX_ONLY.name].rate_per_s == pytest.approx((1.5 + 1.0) / 2)
    assert found[PREFIX_ONLY.name].bounded_seeds == 1
    assert found[PREFIX_ONLY.name].ratio.estimate == pytest.approx(2.5 / 1.25)


def test_smoke_size_is_small() -> None:
    assert len(SMOKE.presets) * len(SMOKE.loads) * SMOKE.seeds * SMOKE.requests < 1000
