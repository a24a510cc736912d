"""How much to load, against a plan that tries everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.tree.loading import Link, LoadPlan, Run, plan_load
from mygo.types import Tier

KV_BYTES = 131_072.0


class Prefill(NamedTuple):
    """Seconds per step, token and pair."""

    step_s: float
    token_s: float
    pair_s: float

    def __call__(self, cached_tokens: int, new_tokens: int) -> float:
        pairs = new_tokens * (cached_tokens + (new_tokens + 1) / 2)
        return self.step_s + new_tokens * self.token_s + pairs * self.pair_s


class Case(NamedTuple):
    prefill: Prefill
    device_tokens: int
    prompt_tokens: int
    runs: tuple[Run, ...]
    overlap: bool
    layers: int
    step_s: float

    def plan(self, host: Link, disk: Link) -> LoadPlan:
        return plan_load(
            self.prefill,
            device_tokens=self.device_tokens,
            prompt_tokens=self.prompt_tokens,
            runs=self.runs,
            links={Tier.HOST: host, Tier.DISK: disk},
            bytes_per_token=KV_BYTES,
            overlap=self.overlap,
            layers=self.layers,
            step_s=self.step_s,
        )

    @property
    def compute_s(self) -> float:
        return self.prefill(self.device_tokens, self.prompt_tokens - self.device_tokens)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    runs = tuple(
        Run(draw(st.sampled_from([Tier.HOST, Tier.DISK])), 16 * draw(st.integers(1, 200)))
        for _ in range(draw(st.integers(0, 5)))
    )
    device_tokens = 16 * draw(st.integers(0, 200))
    held_tokens = device_tokens + sum(run.tokens for run in runs)
    return Case(
        Prefill(
            draw(st.floats(0, 0.05)), draw(st.floats(1e-6, 1e-3)), draw(st.sampled_from([0.0, 1e-10, 1e-8]))
        ),
        device_tokens,
        held_tokens + draw(st.integers(0 if runs else 1, 3_000)),
        runs,
        draw(st.booleans()),
        draw(st.integers(1, 80)),
        draw(st.sampled_from([0.0, 0.01])),
    )


links = st.builds(Link, st.floats(1e6, 1e12), st.integers(0, 10**10))


def brute_force_s(case: Case, host: Link, disk: Link) -> float:
    """The least seconds over all ends of runs and both ways to load."""
    best_s = case.compute_s
    for end in range(1, len(case.runs) + 1):
        loaded = case.runs[:end]
        tokens = sum(run.tokens for run in loaded)
        disk_bytes = KV_BYTES * sum(run.tokens for run in loaded if run.tier is Tier.DISK)
        disk_s = (disk.queued_bytes + disk_bytes) / disk.bytes_per_s if disk_bytes else 0.0
        host_s = (host.queued_bytes + KV_BYTES * tokens) / host.bytes_per_s
        cached_tokens = case.device_tokens + tokens
        rest_s = case.prefill(cached_tokens, max(1, case.prompt_tokens - cached_tokens))
        best_s = min(best_s, disk_s + host_s + case.step_s + rest_s)
        if case.overlap:
            best_s = min(best_s, disk_s + host_s / case.layers + max(host_s, rest_s))
    return best_s


@given(cases(), links, links)
def test_plan_is_the_best_of_all_plans(case: Case, host: Link, disk: Link) -> None:
    plan = case.plan(host, disk)
    assert plan.predicted_s == pytest.approx(brute_force_s(case, host, disk))
    assert plan.predicted_s <= case.compute_s
    assert plan.tokens in _ends(case.runs)
    assert case.overlap or not plan.overlapped


@given(cases(), links, links, st.integers(1, 10**10))
def test_plan_takes_no_less_when_more_is_on_its_way_already(
    case: Case, host: Link, disk: Link, more_bytes: int
) -> None:
    busy_host = Link(host.bytes_per_s, host.queued_bytes + more_bytes)
    busy_disk = Link(disk.bytes_per_s, disk.queued_bytes + more_bytes)
    least_s = case.plan(host, disk).predicted_s
    assert case.plan(busy_host, disk).predicted_s >= least_s
    assert case.plan(host, busy_disk).predicted_s >= least_s


@given(cases())
def test_plan_loads_everything_when_links_take_no_time(case: Case) -> None:
    plan = case._replace(step_s=0.0).plan(Link(math.inf), Link(math.inf))
    assert plan.tokens == sum(run.tokens for run in case.runs)


@given(cases())
def test_plan_loads_nothing_when_links_are_all_but_dead(case: Case) -> None:
    plan = case.plan(Link(1e-9), Link(1e-9))
    assert plan == LoadPlan(0, case.compute_s)


def test_plan_stops_before_the_disk_when_only_the_disk_is_slow() -> None:
    case = Case(
        Prefill(0.0, 4e-5, 0.0), 0, 3_200, (Run(Tier.HOST, 1_600), Run(Tier.DISK, 1_600)), False, 1, 0
    )
    host = Link(50e9)
    assert case.plan(host, Link(1e9)).tokens == 1_600
    assert case.plan(host, Link(20e9)).tokens == 3_200


def test_plan_overlaps_when_a_copy_hides_behind_the_computation() -> None:
    case = Case(Prefill(0.0, 4e-5, 0.0), 0, 4_800, (Run(Tier.HOST, 1_600),), True, 32, 0.0)
    plan = case.plan(Link(25e9), Link(1e9))
    copy_s, rest_s = 1_600 * KV_BYTES / 25e9, 3_200 * 4e-5
    assert plan == LoadPlan(1_600, pytest.approx(copy_s / 32 + rest_s), overlapped=True)  # type: ignore[arg-type]


def test_plan_loads_no_disk_chunk_without_the_way_to_the_device() -> None:
    """What lies on disk travels over both links."""
    case = Case(Prefill(0.0, 4e-5, 0.0), 0, 1_600, (Run(Tier.DISK, 1_600),), False, 1, 0.0)
    assert case.plan(Link(50e9), Link(1e12)).tokens == 1_600
    assert case.plan(Link(1e9), Link(1e12)).tokens == 0


def _ends(runs: Sequence[Run]) -> list[int]:
    ends = [0]
    for run in runs:
        ends.append(ends[-1] + run.tokens)
    return ends
