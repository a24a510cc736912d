"""KV in slower tiers, priced: loaded only if that is sooner, and never worse than what the device has."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.routing import choose, predict, route_to
from mygo.tree.profile import prefill_s
from mygo.types import Candidate, ProfileGrid, Residency, WorkerId

PROFILE = ProfileGrid((0, 1000), (1000, 2000), ((1.0, 2.0), (1.0, 2.0)))
"""One millisecond per token, whatever is cached."""
PROMPT = 1000


def worker(
    name: str = "w",
    *,
    device: int = 0,
    host: int = 0,
    disk: int = 0,
    host_speed: float = 10_000.0,
    disk_speed: float = 4_000.0,
    running: int = 0,
) -> Candidate:
    return Candidate(
        WorkerId(name),
        Residency(device, host, disk),
        0.0,
        running,
        PROFILE,
        host_tokens_per_s=host_speed,
        disk_tokens_per_s=disk_speed,
    )


def test_prediction_adds_the_seconds_of_every_link_on_the_way() -> None:
    found = predict(worker(device=200, host=300, disk=400), PROMPT)
    assert found.cached_tokens == 900
    # what lies on disk passes through host memory
    assert found.load_s == pytest.approx(700 / 10_000 + 400 / 4_000)
    assert found.prefill_s == pytest.approx(0.1)


def test_prediction_computes_what_a_slow_disk_would_bring_later() -> None:
    found = predict(worker(device=200, host=300, disk=400, disk_speed=900.0), PROMPT)
    assert (found.cached_tokens, found.load_s) == (500, pytest.approx(0.03))
    assert predict(worker(host=300, host_speed=999.0), PROMPT).cached_tokens == 0


def test_prediction_loads_for_nothing_when_no_speed_is_known() -> None:
    found = predict(worker(host=300, disk=200, host_speed=0.0, disk_speed=0.0), PROMPT)
    assert (found.cached_tokens, found.load_s) == (500, 0.0)


def test_prediction_takes_shared_tokens_as_held_and_loads_only_what_lies_behind() -> None:
    found = predict(worker(device=100, host=300, disk=100), PROMPT, shared_tokens=250)
    assert (found.cached_tokens, found.load_s) == (500, pytest.approx(250 / 10_000 + 100 / 4_000))
    assert predict(worker(host=300), PROMPT, shared_tokens=400).load_s == 0.0


TOKENS = st.integers(0, 1500)
SPEED = st.floats(1.0, 1e7)


@given(TOKENS, TOKENS, TOKENS, SPEED, SPEED, st.integers(1, 2500), TOKENS)
def test_prediction_is_the_best_of_all_ways_to_stop_loading(
    device: int, host: int, disk: int, host_speed: float, disk_speed: float, prompt: int, shared: int
) -> None:
    """Against the three of them, written out: load nothing, host memory only, or both."""
    candidate = worker(device=device, host=host, disk=disk, host_speed=host_speed, disk_speed=disk_speed)
    found = predict(candidate, prompt, shared)
    ends = [min(max(end, shared), prompt) for end in (device, device + host, device + host + disk)]
    ways = [0.0, 0.0, 0.0]
    for number, end in enumerate(ends):
        ways[number] = (end - ends[0]) / host_speed + prefill_s(PROFILE, end, max(1, prompt - end))
    ways[2] += (ends[2] - ends[1]) / disk_speed
    assert found.cached_tokens in ends
    least_s = prefill_s(PROFILE, found.cached_tokens, max(1, prompt - found.cached_tokens))
    total_s = found.load_s + least_s
    assert total_s == pytest.approx(min(ways), rel=1e-6, abs=1e-6)
    assert found.prefill_s == prefill_s(PROFILE, found.cached_tokens, prompt - found.cached_tokens)


def test_choose_prefers_the_faster_tier_and_a_load_to_a_prefill() -> None:
    def pick(*workers: Candidate) -> str:
        return choose(workers, PROMPT, decode_delay_weight=0.0, rng=random.Random(0)).worker

    assert pick(worker("a", host=800), worker("b", device=800)) == "b"
    assert pick(worker("a", host=800), worker("b", disk=800)) == "a"
    assert pick(worker("a"), worker("b", disk=800)) == "b"
    # 0.08 + 0.2 s with the load, 0.25 s without
    assert pick(worker("a", device=750), worker("b", host=800)) == "a"
    assert pick(worker("a", device=700), worker("b", host=800)) == "b"


def test_choose_counts_a_prefill_again_for_others_but_not_a_load() -> None:
    loaded = worker("b", host=800, host_speed=1250.0)  # 0.64 s to load, 0.2 s to compute
    route = choose([worker("a", device=250), loaded], PROMPT, decode_delay_weight=0.0, rng=random.Random(0))
    assert route.worker == "a"
    route = choose(
        [worker("a", device=250), loaded],
        PROMPT,
        decode_delay_weight=0.0,
        recompute_weight=1.0,
        rng=random.Random(0),
    )
    assert route.worker == "b"


def test_route_says_what_is_loaded_and_what_is_computed() -> None:
    route = route_to(worker(device=100, host=400), PROMPT)
    assert (route.load_s, route.prefill_s) == (pytest.approx(0.04), pytest.approx(0.5))
    assert route.predicted_s == pytest.approx(0.54)
    assert route.predicted_cached_tokens == 500
