"""Results of an index on a trace's documents, and what is said of runs over them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.speculation.measure import OFF, SHIPPED, settled
from benchmarks.speculation.patterns import Patterns, searched
from benchmarks.speculation.plan import broken, broken_pairs, line
from benchmarks.speculation.real import Pairs
from mygo.workloads.trace import TextId, TraceRequest

OTHERS = [TextId(f"other{number}") for number in range(50)]
ROWS = st.lists(st.integers(0, 30), min_size=4, max_size=8, unique=True).map(tuple)


def request(documents: int) -> TraceRequest:
    names = tuple(TextId(f"own{number}") for number in range(documents))
    return TraceRequest(0, 0.0, TextId("system"), names, 10, 1)


@given(st.lists(ROWS, min_size=1, max_size=5), st.integers(1, 4))
def test_documents_change_between_stages_exactly_where_the_index_results_do(
    rows: list[tuple[int, ...]], wanted: int
) -> None:
    asked = request(wanted)
    stages = Patterns((tuple(rows),)).stages(asked, OTHERS, retrieval_s=2.0, staged_cost=1.5)
    assert stages[-1] == (3.0, asked.documents)
    assert [at_s for at_s, _ in stages] == pytest.approx(
        [3.0 * n / len(rows) for n in range(1, len(rows) + 1)]
    )
    final = rows[-1][:wanted]
    for found, (_, documents) in zip(rows, stages, strict=True):
        assert (documents == asked.documents) == (found[:wanted] == final)
        own = {asked.documents[final.index(row)] for row in found[:wanted] if row in final}
        assert own == set(documents) & set(asked.documents)
        assert len(set(documents)) == len(documents)


def test_index_shows_better_results_stage_by_stage() -> None:
    patterns = searched(count=3_000, queries=20, seed=1)
    for stages in patterns.rows:
        assert len(stages) == 4 and len(stages[-1]) == len(set(stages[-1])) == 32
    last = [stages[-1] for stages in patterns.rows]
    first = [stages[0] for stages in patterns.rows]
    assert any(one != other for one, other in zip(first, last, strict=True))


def test_settled_is_the_stage_from_which_on_the_documents_stay() -> None:
    assert settled([(1.0, "a"), (2.0, "b"), (3.0, "a"), (4.0, "a")]) == 3
    assert settled([(1.0, "a")]) == 1


def row(ttft_s: list[float], **changes: Any) -> dict[str, Any]:
    counts = {"speculations": 2, "adopted": 2, "wrong": 0, "wasted_s": 1.0, "prefill_s": 3.0}
    return {"retrieval_s": 1.0, "ttft_s": ttft_s, "itl_p99_s": 0.0, "left_s": [0.5, 0.5]} | counts | changes


def test_hidden_share_counts_no_more_than_a_request_could_gain() -> None:
    """Scenario: one request's prefill is shorter than what is left of its search."""
    rows = {OFF.name: [row([2.0, 1.1])], SHIPPED.name: [row([1.5, 1.0])]}
    found = line(0.2, 1.0, SHIPPED, rows)
    assert found.hidden_share == pytest.approx(0.6 / 0.6) and found.left_share == pytest.approx(0.6 / 1.0)
    assert found.wasted == 0.25 and found.adopted == 1.0
    assert not broken([found])


def test_targets_that_are_missed_are_named() -> None:
    low = line(0.2, 0.3, SHIPPED, {OFF.name: [row([2.0, 2.0])], SHIPPED.name: [row([1.9, 1.9])]})
    high = line(0.9, 0.3, SHIPPED, {OFF.name: [row([2.0, 2.0])] * 3, SHIPPED.name: [row([2.1, 2.1])] * 3})
    assert len(broken([low, high])) == 2
    off = line(0.9, 0.3, OFF, {OFF.name: [row([2.0, 2.0])]})
    assert not broken([off])


def test_pairs_tell_what_is_hidden_and_which_answers_differ() -> None:
    pairs = Pairs(0.3, 1.0, off_s=[3.0, 3.0], on_s=[2.5, 2.1], left_s=[0.75, 0.75])
    assert pairs.hidden_share == pytest.approx(0.7 / 0.75)
    assert pairs.interval()[0] <= pairs.hidden_share <= pairs.interval()[1]
    told = {"share": 0.3, "hidden_share": pairs.hidden_share, "differing": 0}
    assert not broken_pairs(told)
    assert len(broken_pairs(told | {"hidden_share": 0.5, "differing": 1})) == 2
