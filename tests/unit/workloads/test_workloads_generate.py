"""The generator: equal seeds, independent streams, and the laws that a recipe states."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice, pairwise
from random import Random
from statistics import fmean, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mygo.errors import BadTrace
from mygo.types import PUBLIC
from mygo.workloads.arrivals import Arrivals, arrive
from mygo.workloads.cut import first
from mygo.workloads.generate import PROBER, SYSTEM, generate
from mygo.workloads.lengths import Lengths
from mygo.workloads.recipe import Drift, Recipe, Sessions, Tenants
from mygo.workloads.topics import Retrieval, Zipf
from mygo.workloads.trace import Trace

PLAIN = Recipe(
    name="plain",
    requests=400,
    retrieval=Retrieval(200, 50, 4, 8, Zipf(0.9), Zipf(0.5), replace_documents=2),
    arrivals=Arrivals(2.0),
    document=Lengths(240, 0.3, 512),
    question=Lengths(20, 0.5),
    output=Lengths(50, 0.5),
)
FULL = replace(
    PLAIN,
    arrivals=Arrivals(2.0, cv=2.0, peak_factor=3.0, burst_probability=0.2, burst_requests=3),
    no_documents_probability=0.2,
    updates_per_hour=300.0,
    drift=Drift(60.0, 5),
    tenants=Tenants(3, 0.4, 100, 20, prober_probability=0.1),
    sessions=Sessions(2.0, Lengths(100, 0.5)),
)


def asked(trace: Trace) -> list[tuple[str, ...]]:
    return [request.documents for request in trace.requests]


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 2**31), st.integers(1, 120), st.sampled_from([PLAIN, FULL]))
def test_trace_is_whole_when_generated(seed: int, requests: int, recipe: Recipe) -> None:
    trace = generate(replace(recipe, requests=requests), seed)
    assert [request.number for request in trace.requests] == list(range(requests))
    times = [request.arrival_s for request in trace.requests]
    assert times == sorted(times)
    named = {SYSTEM}
    for request in trace.requests:
        named.update((request.system, *request.documents, *request.history))
        assert len(request.documents) in (0, 4)
        assert len(set(request.documents)) == len(request.documents)
        domains = {trace.texts[name].domain for name in (*request.documents, *request.history)}
        assert domains <= {PUBLIC, request.tenant}, "nobody gets a text of another tenant"
    for update in trace.updates:
        named.update((update.old, update.new))
    named.update(text.copy_of for name in tuple(named) if (text := trace.texts[name]).copy_of)
    assert set(trace.texts) == named
    assert trace == generate(replace(recipe, requests=requests), seed)


def test_trace_differs_when_the_seed_differs() -> None:
    assert asked(generate(PLAIN, 1)) != asked(generate(PLAIN, 2))


@settings(deadline=None, max_examples=6)
@given(st.integers(1, 200), st.sampled_from([PLAIN, FULL]))
def test_shorter_trace_is_the_beginning_of_a_longer_one(requests: int, recipe: Recipe) -> None:
    short = generate(replace(recipe, requests=requests), 7)
    assert replace(first(generate(recipe, 7), requests), parameters={}) == replace(short, parameters={})


def test_same_documents_are_asked_when_only_rate_and_lengths_change() -> None:
    other = replace(PLAIN, arrivals=Arrivals(50.0, cv=3.0), document=Lengths(900), question=Lengths(1))
    assert asked(generate(other, 3)) == asked(generate(PLAIN, 3))


def test_siblings_ask_for_the_same_within_the_span_when_bursts_are_on() -> None:
    bursty = replace(PLAIN, arrivals=Arrivals(0.001, burst_probability=1.0, burst_requests=4))
    requests = generate(bursty, 1).requests
    for begin in range(0, 400, 4):
        burst = requests[begin : begin + 4]
        assert len({(each.documents, each.tenant) for each in burst}) == 1
        assert burst[-1].arrival_s - burst[0].arrival_s <= 0.05
        assert len({each.question_tokens for each in burst}) > 1 or begin
    assert requests[4].arrival_s - requests[0].arrival_s > 1


def test_new_content_is_retrieved_after_an_update() -> None:
    trace = generate(replace(PLAIN, updates_per_hour=2_000.0), 5)
    gone_s = {update.old: update.at_s for update in trace.updates}
    assert len(gone_s) == len(trace.updates) > 50, "a content is replaced once"
    for request in trace.requests:
        assert all(request.arrival_s <= gone_s.get(name, 1e9) for name in request.documents)
    used = {name for request in trace.requests for name in request.documents}
    assert used & {update.new for update in trace.updates}


def test_hot_documents_change_when_interest_drifts() -> None:
    def common(recipe: Recipe) -> int:
        names = asked(generate(recipe, 1))
        early, late = (Counter(name for each in part for name in each) for part in (names[:200], names[200:]))
        return len({name for name, _ in early.most_common(8)} & {name for name, _ in late.most_common(8)})

    skewed = replace(PLAIN, retrieval=replace(PLAIN.retrieval, topic_law=Zipf(1.3)))
    assert common(replace(skewed, drift=Drift(100.0, 7))) < common(skewed)


def test_history_grows_by_a_turn_when_a_session_goes_on() -> None:
    trace = generate(replace(PLAIN, sessions=Sessions(3.0, Lengths(100, 0.5))), 1)
    turns = defaultdict(list)
    for request in trace.requests:
        turns[request.session].append(request.history)
    for histories in turns.values():
        assert [len(history) for history in histories] == list(range(len(histories)))
        assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(histories))
    assert 400 / len(turns) == pytest.approx(3.0, rel=0.2)


def test_prober_brings_others_private_words_into_its_own_domain() -> None:
    trace = generate(FULL, 1)
    probes = [request for request in trace.requests if request.tenant == PROBER]
    assert len(probes) > 10
    private = {name for each in trace.requests if each.tenant != PROBER for name in each.documents}
    for request in probes:
        assert request.documents
        for name in request.documents:
            text = trace.texts[name]
            assert text.domain == PROBER
            assert text.copy_of in private
            original = trace.texts[text.copy_of]
            assert original.tokens == text.tokens
            assert original.domain not in (PUBLIC, PROBER)


def times(law: Arrivals, arrivals: int, seed: int = 1) -> list[float]:
    """Of the first so many arrivals, siblings included."""
    drawn = islice(arrive(law, Random(seed)), arrivals)
    return sorted(at_s for each in drawn for at_s in (each.at_s, *each.siblings_s))


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_arrivals_have_the_stated_rate_and_spread(cv: float) -> None:
    came = times(Arrivals(2.0, cv=cv), 20_000)
    gaps = [later - earlier for earlier, later in pairwise(came)]
    assert len(came) / came[-1] == pytest.approx(2.0, rel=0.06)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(cv, rel=0.06)


@pytest.mark.parametrize("peak", [1.5, 3.5, 20.0])
def test_busiest_hour_is_as_busy_as_stated_and_days_keep_the_mean_rate(peak: float) -> None:
    came = times(Arrivals(1_000 / 86_400, peak_factor=peak), 40_000)
    assert came[-1] / 86_400 == pytest.approx(40, rel=0.02)
    minutes = Counter(int(at_s % 86_400 // 600) for at_s in came)
    assert minutes.most_common(1)[0][0] in range(60, 84), "around noon"
    noon = sum(minutes[ten] for ten in (71, 72)) / 2
    assert noon / (40_000 / 144) == pytest.approx(peak, rel=0.07)


def test_mean_rate_counts_siblings_when_bursts_are_on() -> None:
    came = times(Arrivals(2.0, burst_probability=0.5, burst_requests=5), 5_000)
    assert len(came) / came[-1] == pytest.approx(2.0, rel=0.05)


@given(st.floats(50, 5_000), st.floats(1.05, 2.2))
def test_lengths_have_the_stated_mean_and_p90(mean: float, ratio: float) -> None:
    law = Lengths.with_p90(mean, mean * ratio)
    p90 = math.exp(math.log(mean) - law.log_sigma**2 / 2 + 1.2815515655446004 * law.log_sigma)
    assert p90 == pytest.approx(mean * ratio)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(PLAIN, requests=0), "requests: must be at least 1, not 0"),
        (lambda: Arrivals(0.0), "rate_per_s: must be above 0"),
        (lambda: Arrivals(1.0, peak_factor=0.5), "peak_factor: must be between 1"),
        (lambda: Lengths(0), "mean_tokens: must be above 0"),
        (lambda: Lengths.with_p90(100, 300), "3.00 times the mean"),
        (lambda: Zipf(-1), "exponent: must be 0"),
        (lambda: Retrieval(10, 5, 4, 3, Zipf(1)), r"candidates: 3 must be between documents \(4\)"),
        (lambda: Drift(0), "drift.period_s"),
        (lambda: Tenants(0, 0.5, 10, 10), "tenants.tenants"),
        (lambda: Sessions(0.5, Lengths(10)), "sessions.mean_turns"),
    ],
)
def test_recipe_is_refused_when_a_figure_is_out_of_range(make: object, message: str) -> None:
    with pytest.raises(BadTrace, match=message):
        make()  # type: ignore[operator]
