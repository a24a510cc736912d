from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from retrieval_cases import passage

from mygo.retrieval import SearchResult
from mygo.retrieval.index import Vectors
from mygo.retrieval.recent import RecentResults
from mygo.types import ScoredPassage

RESULTS = [SearchResult((), position=10**6) for _ in range(3)]


def towards(degrees: float) -> Vectors:
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], np.float32)


X = towards(0)


STEPS = st.tuples(st.booleans(), st.integers(1, 3), st.sampled_from("st"), st.sampled_from("abcde"))


@given(st.lists(STEPS, max_size=40))
def test_recent_results_equal_a_naive_list(steps: list[tuple[bool, int, str, str]]) -> None:
    recent = RecentResults(3, 1.0)
    at, naive = 0, []
    for number, (is_search, position, scope, question) in enumerate(steps):
        if is_search:
            expected = [result for key, result in naive if key == (scope, question)] if position == at else []
            assert recent.find(position, scope, question, X) is (expected[0] if expected else None)
            if expected:
                naive = [each for each in naive if each[0] != (scope, question)]
                naive.append(((scope, question), expected[0]))
            continue
        result = SearchResult((), position=10**6 + number)
        recent.remember(position, scope, question, X, result)
        if position >= at:
            kept = naive if position == at else []
            naive = [each for each in kept if each[0] != (scope, question)]
            naive = [*naive, ((scope, question), result)][-3:]
            at = position
    assert len(recent) == len(naive)


def test_nearly_equal_question_gets_the_nearest_result_of_its_scope() -> None:
    recent = RecentResults(10, 0.99)
    for degrees, scope, result in ((0, "s", RESULTS[0]), (6, "s", RESULTS[1]), (4, "t", RESULTS[2])):
        recent.remember(1, scope, f"{degrees} degrees", towards(degrees), result)
    assert recent.find(1, "s", "another", towards(4)) is RESULTS[1]
    assert recent.find(1, "s", "another", towards(1)) is RESULTS[0]
    assert recent.find(1, "s", "another", towards(40)) is None
    # an equal text goes before a nearer vector
    assert recent.find(1, "s", "0 degrees", towards(6)) is RESULTS[0]


def test_nearly_equal_question_gets_nothing_when_only_equal_ones_count() -> None:
    recent = RecentResults(10, 1.0)
    recent.remember(1, "s", "question", X, RESULTS[0])
    assert recent.find(1, "s", "question ", X) is None


def test_result_is_not_kept_when_it_is_not_whole_or_long() -> None:
    recent = RecentResults(10, 1.0)
    for result in (
        SearchResult((), missing_shards=(1,), position=9),
        SearchResult((), is_final=False, position=9),
        SearchResult((), position=4),
        SearchResult(tuple(ScoredPassage(passage("doc", i, str(i)), 0.5) for i in range(1000)), position=9),
    ):
        recent.remember(5, "s", "question", X, result)
    recent.remember(5, "s", "x" * 4_001, X, RESULTS[0])
    assert len(recent) == 0


def test_longest_unused_results_go_when_all_together_are_long() -> None:
    recent = RecentResults(1_000, 1.0)
    megabyte = "x" * 1_000_000
    long = SearchResult(tuple(ScoredPassage(passage("doc", i, megabyte), 0.5) for i in range(5)), position=9)
    for question in "abcdefghi":
        recent.remember(5, "s", question, X, long)
        recent.remember(5, "s", question, X, long)  # counts once
    recent.find(5, "s", "a", X)
    for question in "jkl":
        recent.remember(5, "s", question, X, long)
    assert len(recent) == 9
    assert recent.find(5, "s", "a", X) is long
    assert recent.find(5, "s", "d", X) is None
    recent.remember(6, "s", "m", X, long)
    recent.remember(6, "s", "n", X, long)
    assert len(recent) == 2


def test_no_result_is_kept_when_there_is_no_room() -> None:
    recent = RecentResults(0, 1.0)
    recent.remember(1, "s", "question", X, RESULTS[0])
    assert recent.find(1, "s", "question", X) is None
