"""Tiers of the emulated engine: what is hit where, what it takes, and that nothing ever gets stuck."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tier_engines import BLOCK, H100, ask, drain, engine, request, stats, text, tiers

from mygo.emulation.engine import EmulatedCore, StepOutcome
from mygo.emulation.settings import EngineSettings
from mygo.errors import ConfigError
from mygo.tree.profile import prefill_s
from mygo.types import RequestId, Tier, WorkerId
from mygo.vllm_plugin.settings import TierSettings

TOKENS = 480
"""Of a document: 30 blocks."""
TWO = 2 * TOKENS + BLOCK
"""Room for two documents and the answer to one of them."""
HOST_S = TOKENS * H100.host_load_s_per_token
DISK_S = TOKENS * H100.disk_load_s_per_token


def documents(core: EmulatedCore, names: str) -> list[tuple[int, int, int]]:
    """Ask for each document alone, one a second; cached tokens by tier."""
    return [tiers(ask(core, f"{at} {name}", [text(ord(name), TOKENS)], at)) for at, name in enumerate(names)]


def test_document_is_hit_in_the_tier_that_still_holds_it() -> None:
    core = engine(TWO, 3 * TOKENS, 100 * TOKENS, policy="lru", lookahead_share=0.0)
    found = documents(core, "abcdeabeed")
    # device: the last two; host: the last three; disk: all. A whole hit leaves the last block to compute.
    miss, device, host, disk = (0, 0, 0), (464, 0, 0), (0, 464, 0), (0, 0, 464)
    assert found == [miss] * 5 + [disk, disk, host, device, disk]


def test_full_disk_holds_what_host_memory_does_not() -> None:
    """Scenario: twelve documents that all ask for stay in host memory, which has room for sixteen. The disk,
    with room for sixteen, need not hold those twelve as well: so it holds the twelve that are asked for once
    in a while, too."""
    core = engine(TWO, 16 * TOKENS, 16 * TOKENS)
    popular, others = "abcdefghijkl", "mnopqrstuvwx"
    found = documents(core, 3 * popular + others + popular + others)
    assert all(host for _, host, _ in found[-24:-12])
    assert all(disk for _, _, disk in found[-12:])


def test_document_is_computed_again_when_no_tier_has_room_for_it() -> None:
    core = engine(TWO, 3 * TOKENS, policy="lru", lookahead_share=0.0)
    assert documents(core, "abcdea")[-1] == (0, 0, 0)
    assert sum(documents(engine(TWO), "abca")[-1]) == 0


@pytest.mark.parametrize("policy", ["lru", "arc"])
def test_vllms_own_offloading_hits_the_same_tiers(policy: str) -> None:
    core = engine(TWO, 3 * TOKENS, 100 * TOKENS, policy=policy, vllm_offloading=True)
    found = documents(core, "abcdec")
    assert found[:5] == [(0, 0, 0)] * 5
    assert found[5] == (0, 480, 0)  # whole, and before the request runs
    assert documents(engine(TWO, 3 * TOKENS, 9999, policy="lru", vllm_offloading=True), "abcdea")[-1] == (
        0,
        0,
        480,
    )


def test_vllms_own_policies_learn_what_requests_use() -> None:
    """Exact counts of a skewed load: without use, both would be first in, first out, and alike."""
    found: dict[str, tuple[int, ...]] = {}
    for policy in ("lru", "arc"):
        rng = random.Random(0)
        core = engine(1024, 3 * TOKENS, 100 * TOKENS, policy=policy, vllm_offloading=True)
        hits = [
            tiers(ask(core, f"{at} x", [text(min(int(rng.expovariate(0.3)), 20), TOKENS)], at))
            for at in range(60)
        ]
        found[policy] = tuple(map(sum, zip(*hits, strict=True)))
    assert found == {"lru": (3120, 3152, 16768), "arc": (3120, 3776, 16144)}


def test_nobody_waits_for_a_read_that_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that came before the drive stood still ask again in each step, as those that come after it do."""
    core = engine(TWO, 3 * TOKENS, 100 * TOKENS, policy="lru", load_gate=False, prefetch=False)
    documents(core, "abcde")
    disk = core._scheduler._scheduler.connector._tiers._offload._disk
    monkeypatch.setattr(disk._drive, "_chunk_s", 1e9)
    stuck = False

    def is_stuck(_: object, key: object) -> bool:
        return stuck and any(key in job.moving for job in disk._reads.values())

    monkeypatch.setattr(type(disk), "is_stuck", is_stuck)
    core.add(request("first", [text(ord("a"), TOKENS)]), 100.0)
    while core.next_event_s < 110.0:
        core.advance(core.next_event_s)
    assert disk._reads and core.open_requests == 1
    stuck = True
    core.add(request("second", [text(ord("a"), TOKENS)]), 200.0)
    while core.open_requests:
        assert core.next_event_s < 300.0
        core.advance(core.next_event_s)


def test_load_before_the_computation_takes_as_long_as_the_links_say() -> None:
    core = engine(TWO, 3 * TOKENS, 100 * TOKENS, layerwise=False, load_gate=False, policy="lru")
    documents(core, "abcde")
    one_token_s = prefill_s(H100.prefill, TOKENS - 1, 1)
    told = ask(core, "host", [text(ord("c"), TOKENS)], 10.0)
    assert tiers(told) == (0, TOKENS, 0)
    assert told.queue_s == pytest.approx(HOST_S)
    assert told.prefill_s == pytest.approx(one_token_s)
    told = ask(core, "disk", [text(ord("a"), TOKENS)], 20.0)
    assert tiers(told) == (0, 0, TOKENS)
    assert told.queue_s == pytest.approx(DISK_S + HOST_S)
    assert told.prefill_s == pytest.approx(one_token_s)


def test_load_beside_the_computation_hides_all_but_a_layer() -> None:
    """The first layer's copy comes before all, or the last layer's computation after all."""
    core = engine(TWO, 9 * TOKENS, load_gate=False)
    documents(core, "abc")
    told = ask(core, "host", [text(ord("a"), TOKENS), text(1000, 400)], 10.0)
    assert tiers(told) == (0, TOKENS, 0)
    compute_s = prefill_s(H100.prefill, TOKENS, 400)
    assert compute_s > HOST_S
    assert told.queue_s == 0.0
    assert told.prefill_s == pytest.approx(HOST_S / H100.layers + compute_s)

    slow = replace(H100, host_load_s_per_token=12 * H100.host_load_s_per_token)
    core = EmulatedCore(_settings(TWO, 9 * TOKENS), slow, WorkerId("w"))
    documents(core, "abc")
    told = ask(core, "host", [text(ord("a"), TOKENS), text(1000, 64)], 10.0)
    compute_s = prefill_s(H100.prefill, TOKENS, 64)
    assert compute_s < 12 * HOST_S
    assert told.queue_s == 0.0
    assert told.prefill_s == pytest.approx(12 * HOST_S + compute_s / H100.layers)


@pytest.mark.parametrize("slowness", [1, 100])
def test_gate_loads_only_what_is_computed_later(slowness: int) -> None:
    slow = replace(H100, disk_load_s_per_token=slowness * H100.disk_load_s_per_token)
    core = EmulatedCore(_settings(TWO, 3 * TOKENS, 100 * TOKENS, policy="lru"), slow, WorkerId("w"))
    found = documents(core, "abcdea")[-1]
    assert found == ((0, 0, 464) if slowness == 1 else (0, 0, 0))
    core = EmulatedCore(
        _settings(TWO, 3 * TOKENS, 100 * TOKENS, policy="lru", load_gate=False), slow, WorkerId("w")
    )
    assert sum(documents(core, "abcdea")[-1]) >= 464


def test_idle_engine_wakes_when_a_load_ends_and_for_an_arrival_meanwhile() -> None:
    core = engine(4 * TOKENS, 9 * TOKENS, layerwise=False, load_gate=False, policy="lru")
    documents(core, "abcde")
    core.add(request("loads", [text(ord("a"), TOKENS)]), 10.0)
    assert core.advance(10.0) == []
    assert core.next_event_s == pytest.approx(10.0 + HOST_S)
    core.add(request("computes", [text(1000, 320)]), 10.0 + HOST_S / 2)
    told = stats(drain(core))
    assert told[RequestId("computes")].queue_s == 0.0
    assert told[RequestId("loads")].queue_s == pytest.approx(HOST_S / 2 + prefill_s(H100.prefill, 0, 320))


def test_aborted_load_frees_its_blocks() -> None:
    core = engine(TWO, 9 * TOKENS, layerwise=False, load_gate=False)
    documents(core, "abc")
    core.add(request("gone", [text(ord("a"), TOKENS)]), 10.0)
    core.advance(10.0)
    core.abort(RequestId("gone"), 10.0 + HOST_S / 2)
    drain(core)
    assert documents(core, "xy") == [(0, 0, 0)] * 2  # which takes all of the device


def test_reset_forgets_host_memory_too() -> None:
    core = engine(TWO, 9 * TOKENS)
    documents(core, "abc")
    core.reset_cache()
    assert documents(core, "abc") == [(0, 0, 0)] * 3


def test_prefetched_document_is_in_host_memory_when_its_turn_comes() -> None:
    """Scenario: one request computes while the next one waits for its turn; its document is on disk."""

    def queue_s(*, prefetch: bool) -> float:
        core = engine(
            4 * TOKENS,
            6 * TOKENS,
            100 * TOKENS,
            max_running=1,
            prefetch=prefetch,
            load_gate=False,
            policy="lru",
            admission_window=0,
        )
        documents(core, "abcdefghij")
        core.add(request("long", [text(1000, 3 * TOKENS)], 8), 50.0)
        core.add(request("next", [text(ord("a"), TOKENS), text(1001, 64)]), 50.0)
        told = stats(drain(core))
        assert tiers(told[RequestId("next")]) == (0, 0, TOKENS)
        return told[RequestId("next")].queue_s + told[RequestId("next")].prefill_s

    assert queue_s(prefetch=True) == pytest.approx(queue_s(prefetch=False) - DISK_S, rel=0.05)


def test_report_names_the_tier_of_each_document() -> None:
    core = engine(TWO, 3 * TOKENS, 100 * TOKENS, policy="lru", lookahead_share=0.0)
    documents(core, "abcde")
    held = [event.tier for event in core.report(99.0, snapshot=True).events]
    assert sorted(held) == sorted([Tier.DEVICE, Tier.DEVICE, Tier.HOST, Tier.DISK, Tier.DISK])


def test_settings_refuse_tiers_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"tiers\.host_bytes"):
        EngineSettings(4096, tiers=TierSettings(disk_bytes=1))
    with pytest.raises(ConfigError, match="lru and arc"):
        EngineSettings(4096, tiers=TierSettings(policy="pgdsf"), vllm_offloading=True)


VARIANTS: list[dict[str, Any]] = [
    {"policy": "lru", "lookahead_share": 0.0, "prefetch": False, "layerwise": False, "load_gate": False},
    {"policy": "pgdsf"},
    {"policy": "s3fifo", "device_policy": "s3fifo", "prefetch": False},
    {"policy": "pgdsf", "device_policy": "pgdsf", "layerwise": False},
    {"policy": "lru", "device_policy": "lru", "load_gate": False},
    {"policy": "arc", "lookahead_share": 1.0},
    {"policy": "lru", "vllm_offloading": True},
    {"policy": "arc", "vllm_offloading": True},
]
ARRIVALS = st.lists(
    st.tuples(
        st.floats(0, 0.3, allow_nan=False),
        st.lists(st.integers(0, 5), max_size=3),
        st.integers(1, 60),
        st.integers(1, 40),
        st.booleans(),
    ),
    min_size=1,
    max_size=16,
)


def _settings(device_tokens: int, host_tokens: int, disk_tokens: int = 0, **options: Any) -> EngineSettings:
    kv_bytes = H100.kv_bytes_per_token
    tiers = TierSettings(host_bytes=host_tokens * kv_bytes, disk_bytes=disk_tokens * kv_bytes, **options)
    return EngineSettings(device_tokens, BLOCK, tiers=tiers)


def _run(core: EmulatedCore, raw: Sequence[tuple[float, list[int], int, int, bool]]) -> list[StepOutcome]:
    """The same documents in the same order for all engines; some requests are aborted after a while."""
    outcomes: list[StepOutcome] = []
    aborts: list[tuple[float, RequestId]] = []

    def until(at_s: float) -> None:
        while (next_s := core.next_event_s) is not None and next_s <= at_s:
            outcomes.extend(core.advance(next_s))

    for number, (at_s, names, question, answer, aborted) in enumerate(sorted(raw)):
        until(at_s)
        for due_s, name in [entry for entry in aborts if entry[0] <= at_s]:
            core.abort(name, at_s)
            aborts.remove((due_s, name))
        segments = [*(text(name, 100 + name) for name in names), text(90 + number, question)]
        core.add(request(str(number), segments, answer), at_s)
        if aborted:
            aborts.append((at_s + 0.01, RequestId(str(number))))
    return outcomes + drain(core)


@pytest.mark.parametrize("host_tokens, disk_tokens", [(128, 0), (400, 640), (1600, 6400)])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
@settings(max_examples=6, deadline=None)
@given(raw=ARRIVALS)
def test_every_request_ends_and_a_run_repeats_itself_when_tiers_are_tiny(
    host_tokens: int,
    disk_tokens: int,
    variant: dict[str, Any],
    raw: list[tuple[float, list[int], int, int, bool]],
) -> None:
    def make() -> EmulatedCore:
        return engine(
            960, host_tokens, disk_tokens, max_running=8, step_tokens=192, max_context_tokens=896, **variant
        )

    core = make()
    outcomes = _run(core, raw)
    assert core.open_requests == 0
    assert core.next_event_s is None
    answers: dict[str, int] = {}
    for outcome in outcomes:
        for name, token_ids in outcome.token_ids.items():
            answers[name] = answers.get(name, 0) + len(token_ids)
        for told in outcome.prefills.values():
            assert min(told.cached_tokens.values()) >= 0
            assert min(told.queue_s, told.prefill_s) >= 0
    for number, (_, _, _, answer, aborted) in enumerate(sorted(raw)):
        if not aborted:
            assert answers[str(number)] == answer
    assert _run(make(), raw) == outcomes
