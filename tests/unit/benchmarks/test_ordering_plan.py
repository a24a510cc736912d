"""The orders that are compared, and what counts as missed."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.ordering.plan import FIRST_COME, SHIPPED, SYSTEMS, broken, lines
from benchmarks.tiers.plan import Setting, engine_settings
from mygo.workloads import preset


def _rows(shipped_s: list[float]) -> dict[str, list[dict[str, Any]]]:
    def row(ttft_s: list[float]) -> dict[str, Any]:
        return {"ttft_s": ttft_s, "itl_p99_s": 0.1, "hits": {"device": 0.5}}

    first = [1.0, 2.0, 3.0]
    return {
        system.name: [row(shipped_s if system is SHIPPED else first) for _ in range(2)] for system in SYSTEMS
    }


def test_nothing_is_broken_when_the_mean_is_better_and_the_tail_is_not_worse() -> None:
    found = lines(_rows([0.5, 0.5, 3.0]))
    shipped = next(line for line in found if line.system is SHIPPED)
    assert shipped.mean_ratio.estimate == pytest.approx(1.5)
    assert shipped.hits == 0.5
    assert broken(found) == []


def test_both_targets_are_named_when_both_are_missed() -> None:
    mean, tail = broken(lines(_rows([1.0, 1.5, 3.2])))
    assert "1.053 times better" in mean
    assert "p99 of TTFT is worse" in tail


def test_shipped_order_is_the_default_and_first_come_is_vllms() -> None:
    trace = preset("ragcache-mmlu").trace(0, requests=20)
    setting = Setting("llama-3-8b-h100", 0.1, device_share=1 / 3)
    first, shipped = (engine_settings(system, setting, trace, 1).tiers for system in (FIRST_COME, SHIPPED))
    assert (first.admission_window, shipped.admission_window, shipped.admission) == (0, 32, "due")
    assert not first.host_bytes and not shipped.host_bytes
