from __future__ import annotations

import math

import pytest

from benchmarks.acceptance.divergence import (
    Answer,
    Reference,
    as_figures,
    compare,
    first_divergence,
    missing,
)

REFERENCE = Reference((5, 6, 7), (1.0, 0.02, 3.0))


@pytest.mark.parametrize(
    ("answer", "position"),
    [((5, 6, 7), None), ((9, 6, 7), 0), ((5, 6, 9), 2), ((5, 6), 2), ((5, 6, 7, 8), 3), ((), 0)],
)
def test_first_divergence_is_the_first_different_position(
    answer: tuple[int, ...], position: int | None
) -> None:
    assert first_divergence(REFERENCE.token_ids, answer) == position


def test_compare_takes_the_reference_gap_at_the_first_divergence_only() -> None:
    answers = [
        Answer(0, "cold", (5, 6, 7)),
        Answer(0, "cold", (5, 1, 2)),  # also differs where the gap is 3.0: not looked at
        Answer(0, "warm", (4, 6, 7)),
    ]
    tallies = compare([REFERENCE], answers)
    assert as_figures(tallies) == {
        "cold": {"answers": 2, "identical": 1, "largest_gap": 0.02},
        "warm": {"answers": 1, "identical": 0, "largest_gap": 1.0},
    }


def test_compare_calls_the_gap_infinite_when_an_answer_goes_on_behind_the_reference() -> None:
    tallies = compare([REFERENCE], [Answer(0, "cold", (5, 6, 7, 8))])
    assert math.isinf(tallies["cold"].largest_gap)


def test_missing_counts_prompts_when_they_never_met_a_condition() -> None:
    answers = [Answer(0, "cold", ()), Answer(0, "cold", ()), Answer(1, "warm", ())]
    assert missing(answers, ["cold", "warm"], prompts=2) == {"cold": 1, "warm": 1}
    assert missing(answers, ["cold"], prompts=1) == {}
