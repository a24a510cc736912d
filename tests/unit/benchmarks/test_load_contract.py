"""What a load test finds wrong: faults that cost more than they may, memory that grows."""

from __future__ import annotations

from random import Random

import pytest
from load_samples import sample

from benchmarks.load.contract import CUT_WITHIN_S, breaches, growth
from benchmarks.load.local import Kill, Memory
from benchmarks.load.samples import Outcome

KILLED = Kill(at_s=10.0, role="worker", pid=7, recovered_s=20.0)


def test_contract_is_kept_when_begun_streams_are_cut_by_a_kill_and_all_others_served() -> None:
    samples = [sample(0, 0.0), sample(1, 9.5, Outcome.CUT, ended_s=10.1, error="worker_lost: ask again")]
    assert breaches(samples, 2, [KILLED]) == []


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome.REFUSED,
        Outcome.FAILED,
        Outcome.EARLY,
        Outcome.BROKEN,
        Outcome.UNREACHABLE,
        Outcome.TIMEOUT,
        Outcome.SHED,
    ],
)
def test_contract_is_broken_when_a_request_is_lost_in_another_way(outcome: Outcome) -> None:
    (found,) = breaches([sample(0, 9.5, outcome, error="why")], 1, [KILLED])
    assert "why" in found
    assert "request 0" in found


def test_shedding_is_allowed_when_nothing_is_killed() -> None:
    assert breaches([sample(0, 0.0, Outcome.SHED)], 1, []) == []


@pytest.mark.parametrize(
    "kills",
    [
        [],
        [Kill(10.0, "directory", 7, 12.0)],
        [Kill(10.1 + 0.1, "worker", 7, 12.0)],
        [Kill(10.1 - CUT_WITHIN_S - 0.1, "worker", 7, 12.0)],
    ],
    ids=["no kill", "another role", "a later kill", "an old kill"],
)
def test_cut_stream_breaks_the_contract_when_no_worker_died_just_before(kills: list[Kill]) -> None:
    (found,) = breaches([sample(0, 9.0, Outcome.CUT, ended_s=10.1, error="lost")], 1, kills)
    assert "no worker died" in found


def test_cut_stream_breaks_the_contract_when_it_says_nothing() -> None:
    (found,) = breaches([sample(0, 9.0, Outcome.CUT, ended_s=10.1)], 1, [KILLED])
    assert "without words" in found


@pytest.mark.parametrize(("sent", "numbers"), [(3, [0, 1]), (2, [0, 0]), (1, [0, 1])])
def test_counts_must_add_up(sent: int, numbers: list[int]) -> None:
    (found,) = breaches([sample(number, 0.0) for number in numbers], sent, [])
    assert f"{sent} requests were sent, {len(numbers)} ended" in found


def test_contract_is_broken_when_the_cluster_does_not_recover() -> None:
    (found,) = breaches([sample(0, 0.0)], 1, [Kill(3.0, "shard", 9, None)])
    assert "shard (pid 9)" in found


def _measured(sizes_mb: list[float]) -> list[Memory]:
    return [Memory(float(i), {"ingress": int(size * 1e6)}) for i, size in enumerate(sizes_mb)]


def test_growth_is_found_when_memory_rises_throughout() -> None:
    (found,) = growth(_measured([500 + 5 * i for i in range(40)]))
    assert "ingress still grows" in found


def test_growth_is_found_when_noise_lies_over_it() -> None:
    rng = Random(3)
    assert growth(_measured([500 + 5 * i + rng.uniform(-20, 20) for i in range(40)]))


def test_growth_is_not_found_when_a_cache_fills_and_levels_off() -> None:
    assert growth(_measured([2000 - 1500 * 0.85**i for i in range(40)])) == []


def test_growth_is_not_found_when_memory_is_level_with_noise() -> None:
    rng = Random(3)
    assert growth(_measured([500 + rng.uniform(-10, 10) for _ in range(40)])) == []


def test_growth_is_left_out_when_processes_of_the_role_were_killed() -> None:
    measured = [Memory(float(i), {"mygo:worker:vllm": int((500 + 5 * i) * 1e6)}) for i in range(40)]
    assert growth(measured, [KILLED]) == []
    assert growth(measured, [Kill(10.0, "directory", 7, 20.0)])


def test_growth_asks_for_a_longer_soak_when_there_are_too_few_measurements() -> None:
    (found,) = growth(_measured([500.0] * 11))
    assert "longer" in found
