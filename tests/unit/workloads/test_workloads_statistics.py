"""Statistics against counting by hand and against a naive model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.errors import BadTrace
from mygo.workloads.statistics import describe, measures
from mygo.workloads.trace import Text, TextId, Trace, TraceRequest

HOUR = 3_600.0


def trace(*documents: str, every_s: float = 1.0, corpus: int | None = None) -> Trace:
    """One request per string, whose letters are its documents; a document's length is its letter's number."""
    requests = tuple(
        TraceRequest(
            number=number,
            arrival_s=number * every_s,
            system=TextId("system"),
            documents=tuple(map(TextId, names)),
            question_tokens=10,
            output_tokens=number + 1,
        )
        for number, names in enumerate(documents)
    )
    texts = {TextId("system"): Text(100)}
    texts.update((TextId(name), Text(ord(name) - ord("a") + 1)) for names in documents for name in names)
    return Trace("hand", texts, requests, corpus_documents=corpus)


def test_repeats_are_counted_as_by_hand() -> None:
    found = describe(trace("abc", "abd", "", "bac", "cba", "ab"))
    assert (found.requests, found.requests_with_documents) == (6, 5)
    assert found.accesses == 14
    assert found.chunk_hit == (14 - 4) / 14
    assert found.working_set_tokens == 1 + 2 + 3 + 4
    tokens = 6 + 7 + 6 + 6 + 3
    assert found.chunk_hit_tokens == (tokens - 10) / tokens
    assert found.distinct_sets == 3 / 5  # abc, abd, ab
    assert found.ordered_prefix_hit == (3 + 3) / tokens  # "ab" of abd, "ab" of the last
    prompt_tokens = tokens + 6 * 110
    assert found.prompt_prefix_hit == (5 * 100 + 6) / prompt_tokens
    assert found.prompt_reuse_bound == (5 * 100 + tokens - 10) / prompt_tokens
    assert dict(found.token_shares)["question"] == 60 / prompt_tokens
    assert (found.output.mean, found.output.p50, found.output.p99) == (3.5, 3, 6)


def test_top_shares_are_of_the_corpus_when_it_is_known() -> None:
    requests = ["a"] * 6 + ["b"] * 3 + ["c"]
    assert dict(describe(trace(*requests, corpus=100)).top_shares)[0.01] == 0.6
    assert dict(describe(trace(*requests, corpus=100)).top_shares)[0.03] == 1.0
    assert dict(describe(trace(*requests)).top_shares)[0.10] == 0.0


def test_history_hits_only_behind_the_same_documents() -> None:
    plain = trace("ab", "ab", "ba")
    texts = {**plain.texts, TextId("turn"): Text(50)}
    requests = tuple(
        TraceRequest(each.number, each.arrival_s, each.system, each.documents, 0, 1, (TextId("turn"),))
        for each in plain.requests
    )
    found = describe(Trace("hand", texts, requests))
    total = 3 * (100 + 3 + 50)
    assert found.prompt_prefix_hit == (100 + 3 + 50 + 100) / total
    assert found.prompt_reuse_bound == 2 * (100 + 3 + 50) / total


def test_peak_factor_is_of_the_busiest_hour_and_unknown_below_a_day() -> None:
    assert describe(trace(*["a"] * 10)).peak_factor is None
    assert "peak_factor" not in measures(describe(trace(*["a"] * 10)))
    day = trace(*["a"] * 25, every_s=HOUR)
    crowd = tuple(TraceRequest(0, 12 * HOUR + 1, TextId("system"), (), 1, 1) for _ in range(23))
    requests = sorted((*day.requests, *crowd), key=lambda each: each.arrival_s)
    found = describe(Trace("day", day.texts, tuple(requests)))
    assert found.peak_factor == pytest.approx(24 / 2)


def test_even_arrivals_have_no_variation() -> None:
    found = describe(trace(*["a"] * 11, every_s=2.0))
    assert found.interarrival_cv == 0
    assert found.mean_rate_per_s == 11 / 20


def test_trace_without_documents_has_ratios_of_zero() -> None:
    found = describe(trace(""))
    assert found.chunk_hit == found.ordered_prefix_hit == found.distinct_sets == found.mean_rate_per_s == 0
    assert found.document.mean == 0


def test_empty_trace_is_refused() -> None:
    with pytest.raises(BadTrace, match="hand: has no requests"):
        describe(trace())


@given(st.lists(st.text("abcdef", max_size=5), min_size=1, max_size=40))
def test_prefix_hits_equal_a_scan_of_all_earlier_requests(documents: list[str]) -> None:
    def length(text: str) -> int:
        return sum(ord(name) - ord("a") + 1 for name in text)

    hit = total = 0
    for number, asked in enumerate(documents):
        best = max(
            (
                count
                for earlier in documents[:number]
                for count in range(len(asked) + 1)
                if earlier.startswith(asked[:count])
            ),
            default=0,
        )
        hit += length(asked[:best])
        total += length(asked)
    assert describe(trace(*documents)).ordered_prefix_hit == (hit / total if total else 0)
