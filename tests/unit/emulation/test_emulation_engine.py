"""The emulated engine: vLLM's real scheduler and block pool with the real plugin, on virtual time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mygo.emulation import profile as profiles
from mygo.emulation.engine import EmulatedCore, StepOutcome
from mygo.emulation.settings import EngineSettings
from mygo.errors import BadRequest, ConfigError
from mygo.tree.keys import root_key, segment_key
from mygo.tree.profile import prefill_s
from mygo.types import (
    PUBLIC,
    GenerateRequest,
    RequestId,
    ResidencyEvent,
    Sampling,
    SegmentKey,
    SegmentSpan,
    Tier,
    WorkerId,
)
from mygo.vllm_plugin.settings import TierSettings

BLOCK = 16
H100 = profiles.load("llama-3-8b-h100")
ROOT = root_key(model="m", kv_dtype="bf16")
SMALL_STEPS = EngineSettings(
    device_tokens=4096,
    block_tokens=BLOCK,
    max_context_tokens=2048,
    step_tokens=256,
    long_prefill_tokens=128,
    max_running=64,
)
ROOMY = EngineSettings(device_tokens=65_536, block_tokens=BLOCK)


def _text(name: int, tokens: int) -> list[int]:
    rng = random.Random(name)
    return [rng.randrange(32_000) for _ in range(tokens)]


def _request(name: str, segments: Sequence[list[int]], max_tokens: int = 1) -> GenerateRequest:
    key, token_ids, spans = ROOT, [], []
    for segment in segments:
        key = segment_key(key, PUBLIC, segment)
        token_ids += segment
        spans.append(SegmentSpan(key, len(token_ids), "salt"))
    return GenerateRequest(RequestId(name), token_ids, tuple(spans), Sampling(max_tokens=max_tokens))


def _core(engine_settings: EngineSettings = ROOMY, *, leap: bool = True) -> EmulatedCore:
    return EmulatedCore(engine_settings, H100, WorkerId("w"), leap=leap)


def _drain(core: EmulatedCore) -> list[StepOutcome]:
    outcomes: list[StepOutcome] = []
    for _ in range(10_000):
        next_s = core.next_event_s
        if next_s is None:
            return outcomes
        outcomes += core.advance(next_s)
    raise AssertionError(f"{core} does not come to an end")


def _replay(core: EmulatedCore, arrivals: Sequence[tuple[float, GenerateRequest]]) -> list[StepOutcome]:
    outcomes: list[StepOutcome] = []
    for at_s, request in arrivals:
        while (next_s := core.next_event_s) is not None and next_s <= at_s:
            outcomes += core.advance(next_s)
        core.add(request, at_s)
    return outcomes + _drain(core)


def _first_tokens(outcomes: Sequence[StepOutcome]) -> dict[str, tuple[float, int]]:
    """When the first token came, and how much of the prompt was cached."""
    return {
        name: (outcome.ended_s, sum(stats.cached_tokens.values()))
        for outcome in outcomes
        for name, stats in outcome.prefills.items()
    }


def test_first_token_comes_after_what_the_profile_says_when_a_prompt_is_alone() -> None:
    core = _core()
    core.add(_request("a", [_text(1, 1000)]), 5.0)
    (outcome,) = _drain(core)
    seconds = prefill_s(H100.prefill, 0, 1000)
    assert outcome.started_s == 5.0
    assert outcome.ended_s == pytest.approx(5.0 + seconds)
    assert outcome.computed_tokens == 1000
    stats = outcome.prefills[RequestId("a")]
    assert (stats.cached_tokens, stats.queue_s) == ({Tier.DEVICE: 0}, 0.0)
    assert stats.prefill_s == pytest.approx(seconds)
    assert outcome.finished == ("a",)
    assert core.open_requests == 0


def test_prompt_in_many_steps_takes_as_long_as_in_one() -> None:
    core = _core(SMALL_STEPS)
    core.add(_request("a", [_text(1, 1000)]), 0.0)
    outcomes = _drain(core)
    assert [outcome.computed_tokens for outcome in outcomes] == [256, 256, 256, 232]
    assert outcomes[-1].ended_s == pytest.approx(prefill_s(H100.prefill, 0, 1000))


def test_repeated_documents_are_hit_when_they_come_again() -> None:
    core = _core()
    document = _text(1, 320)
    core.add(_request("a", [document, _text(2, 30)]), 0.0)
    _drain(core)
    core.add(_request("b", [document, _text(3, 30)]), 10.0)
    outcomes = _drain(core)
    at_s, cached_tokens = _first_tokens(outcomes)["b"]
    assert cached_tokens == 320
    assert outcomes[0].computed_tokens == 30
    assert at_s == pytest.approx(10.0 + prefill_s(H100.prefill, 320, 30))


def test_burst_computes_a_document_once_when_siblings_are_held() -> None:
    core = _core(SMALL_STEPS)
    document = _text(1, 640)
    for index in range(4):
        core.add(_request(str(index), [document, _text(10 + index, 20)]), 0.0)
    outcomes = _drain(core)
    assert sum(outcome.computed_tokens for outcome in outcomes) == 640 + 4 * 20


def test_old_documents_are_evicted_when_the_cache_is_small() -> None:
    core = _core(EngineSettings(device_tokens=1024, block_tokens=BLOCK))
    for index in range(4):
        core.add(_request(f"first {index}", [_text(index, 480)]), float(index))
        _drain(core)
    core.add(_request("last again", [_text(3, 480)]), 10.0)
    cached = _first_tokens(_drain(core))
    core.add(_request("first again", [_text(0, 480)]), 20.0)
    cached |= _first_tokens(_drain(core))
    assert cached["last again"][1] == 464  # the last block is computed anew, for its logits
    assert cached["first again"][1] == 0


def test_tokens_and_times_are_the_same_when_a_run_is_repeated() -> None:
    arrivals = [(i * 0.01, _request(str(i), [_text(i % 3, 200), _text(50 + i, 20)], 9)) for i in range(20)]
    assert _replay(_core(SMALL_STEPS), arrivals) == _replay(_core(SMALL_STEPS), arrivals)


def test_answer_has_as_many_tokens_as_were_asked_for_and_within_the_vocabulary() -> None:
    core = _core(EngineSettings(device_tokens=4096, vocabulary=100))
    core.add(_request("a", [_text(1, 50)], max_tokens=40), 0.0)
    answer = [token for outcome in _drain(core) for token in outcome.token_ids[RequestId("a")]]
    assert len(answer) == 40
    assert 0 <= min(answer) <= max(answer) < 100
    assert len(set(answer)) > 20


def test_abort_ends_a_request_and_keeps_its_full_blocks() -> None:
    core = _core(SMALL_STEPS)
    document = _text(1, 1000)
    core.add(_request("a", [document]), 0.0)
    first = core.advance(0.0) + core.advance(core.next_event_s or 0.0)
    assert first[0].computed_tokens == 256
    core.abort(RequestId("a"), first[0].ended_s)
    core.abort(RequestId("never came"), first[0].ended_s)
    assert core.open_requests == 0
    assert all(not outcome.token_ids for outcome in _drain(core))
    core.add(_request("b", [document]), 9.0)
    assert _first_tokens(_drain(core))["b"][1] == 512


def test_abort_takes_back_a_request_that_no_step_has_seen() -> None:
    core = _core()
    core.add(_request("a", [_text(1, 100)]), 0.0)
    core.abort(RequestId("a"), 0.0)
    assert _drain(core) == []
    assert core.next_event_s is None


def test_request_is_refused_when_it_cannot_fit_or_its_id_is_taken() -> None:
    core = _core(SMALL_STEPS)
    with pytest.raises(BadRequest, match="2048 tokens, the engine takes 2047"):
        core.add(_request("long", [_text(1, 2048)]), 0.0)
    with pytest.raises(BadRequest, match="empty"):
        core.add(GenerateRequest(RequestId("e"), [], (), Sampling(max_tokens=1)), 0.0)
    core.add(_request("a", [_text(1, 100)]), 0.0)
    with pytest.raises(BadRequest, match="already"):
        core.add(_request("a", [_text(1, 100)]), 0.0)
    with pytest.raises(ConfigError, match="kv_cache_bytes"):
        EngineSettings(device_tokens=20, block_tokens=BLOCK)
    with pytest.raises(ConfigError, match=r"model\.step_tokens"):
        EngineSettings(device_tokens=4096, step_tokens=64, max_running=128)


def test_engine_says_that_it_is_emulated() -> None:
    info = _core().info
    assert "emulated" in info.model
    assert info.node == "emulated"
    assert info.device_tokens == ROOMY.device_tokens
    assert info.profile == H100.prefill


def test_reports_are_numbered_and_begin_with_a_snapshot() -> None:
    core = _core()
    first = core.report(0.0)
    core.add(_request("a", [_text(1, 64), _text(2, 64)]), 1.0)
    _drain(core)
    second, third = core.report(2.0), core.report(3.0)
    assert [first.sequence, second.sequence, third.sequence] == [0, 1, 2]
    assert [first.snapshot, second.snapshot, third.snapshot] == [True, False, False]
    assert [event.prefix_tokens for event in second.events] == [64, 128]
    assert third.events == ()
    again = core.report(4.0, snapshot=True)
    assert again.snapshot
    assert again.events == second.events


def test_report_shows_the_queue_while_a_prompt_is_computed() -> None:
    core = _core(SMALL_STEPS)
    core.add(_request("a", [_text(1, 1000)]), 0.0)
    core.advance(0.0)
    core.add(_request("b", [_text(2, 500)]), 0.001)
    core.advance(core.next_event_s or 0.0)
    load = core.report(core.next_event_s or 0.0).load
    assert (load.running, load.waiting) == (1, 1)
    assert load.queued_tokens == 1000 - 256 + 500


ARRIVALS = st.lists(
    st.tuples(
        st.floats(0, 0.4, allow_nan=False),
        st.lists(st.integers(0, 5), max_size=3),
        st.integers(1, 60),
        st.integers(1, 70),
    ),
    min_size=1,
    max_size=14,
)
TIGHT = EngineSettings(
    device_tokens=1536,
    block_tokens=BLOCK,
    max_context_tokens=1024,
    step_tokens=192,
    long_prefill_tokens=96,
    max_running=8,
)


def _history(
    core: EmulatedCore, arrivals: Sequence[tuple[float, GenerateRequest]], looks_s: Sequence[float]
) -> tuple[dict[str, list[int]], list[object], dict[str, float]]:
    """What can be seen of a run: tokens and cached tokens, reports, times of first and last tokens."""
    seen: dict[str, list[int]] = {}
    times_s: dict[str, float] = {}
    reports: list[object] = []
    pending = sorted([*((at, request) for at, request in arrivals), *((at, None) for at in looks_s)], key=_at)
    outcomes: list[StepOutcome] = []
    for at_s, request in pending:
        while (next_s := core.next_event_s) is not None and next_s <= at_s:
            outcomes += core.advance(next_s)
        if request is None:
            report = core.report(at_s, snapshot=True)
            held = frozenset((event.key, event.prefix_tokens, event.complete) for event in report.events)
            reports.append((held, report.load))
        else:
            core.add(request, at_s)
    outcomes += _drain(core)
    for outcome in outcomes:
        for name, token_ids in outcome.token_ids.items():
            seen.setdefault(name, []).extend(token_ids)
            times_s[f"{name} ends"] = outcome.ended_s
        for name, stats in outcome.prefills.items():
            seen[name].append(stats.cached_tokens[Tier.DEVICE])
            times_s[f"{name} begins"] = outcome.ended_s
    return seen, reports, times_s


def _at(entry: tuple[float, GenerateRequest | None]) -> float:
    return entry[0]


@settings(max_examples=40, deadline=None)
@given(ARRIVALS, st.lists(st.floats(0.01, 1.0, allow_nan=False), max_size=4))
def test_leaps_change_nothing_that_can_be_seen(
    raw: list[tuple[float, list[int], int, int]], looks_s: list[float]
) -> None:
    """Evictions and preemptions included: the cache is small enough for both."""
    arrivals = [
        (at_s, _request(str(i), [*(_text(d, 100 + d) for d in documents), _text(90 + i, question)], answer))
        for i, (at_s, documents, question, answer) in enumerate(sorted(raw))
    ]
    # the order of admission may differ: what is learned of the seconds of decoding, a leap does not tell
    first_come = replace(TIGHT, tiers=TierSettings(admission_window=0))
    seen, reports, times_s = _history(_core(first_come, leap=False), arrivals, looks_s)
    leaped = _history(_core(first_come), arrivals, looks_s)
    assert leaped[:2] == (seen, reports)
    assert leaped[2] == pytest.approx(times_s)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=3), min_size=1, max_size=12))
def test_reports_add_up_to_what_the_cache_serves(paths: list[list[int]]) -> None:
    """Whoever follows the reports knows what the next request of any path will hit."""
    core = _core(TIGHT)
    held: dict[SegmentKey, ResidencyEvent] = {}
    for i, path in enumerate(paths):
        request = _request(str(i), [_text(document, 96 + 16 * document) for document in path], 4)
        for event in core.report(float(i)).events:
            held[event.key] = event
        expected = 0
        for span in request.spans:
            told = held.get(span.key)
            if told is None or not told.prefix_tokens:
                break
            expected = told.prefix_tokens
            if not told.complete:
                break
        core.add(request, float(i))
        cached = _first_tokens(_drain(core))[str(i)][1]
        # a prompt's last token is always computed, so a full hit is one block short
        assert cached == min(expected, (len(request.token_ids) - 1) // BLOCK * BLOCK)
