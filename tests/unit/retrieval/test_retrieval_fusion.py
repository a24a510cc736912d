from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from retrieval_cases import passage

from mygo.retrieval import ShardStages, Stage, Weights, fuse, merge
from mygo.types import ScoredPassage

rankings = st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=8)
WORDS = Weights(vectors=1.0, words=1.0)


def ranking(docs: list[str] | str) -> list[ScoredPassage]:
    return [ScoredPassage(passage(doc, 0, doc), 1 - rank / 100) for rank, doc in enumerate(docs)]


def docs(ranked: list[ScoredPassage] | tuple[ScoredPassage, ...]) -> str:
    return "".join(scored.passage.doc_id for scored in ranked)


@given(rankings, rankings, st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.sampled_from([0.5, 1.0]))
def test_fuse_scores_by_reciprocal_ranks(
    first: list[str], second: list[str], vectors: float, words: float
) -> None:
    fused = fuse(ranking(first), ranking(second), Weights(vectors, words))
    expected = {}
    for weight, ranked in ((vectors, first), (words, second)):
        for rank, doc in enumerate(ranked, 1):
            expected[doc] = expected.get(doc, 0) + weight / (60 + rank)
    expected = {doc: score * 61 / (vectors + words) for doc, score in expected.items() if score}
    assert {s.passage.doc_id: pytest.approx(s.score) for s in fused} == expected
    assert [s.score for s in fused] == sorted((s.score for s in fused), reverse=True)
    assert all(0 < s.score <= 1 for s in fused)


def test_fuse_puts_first_what_both_rankings_have() -> None:
    assert docs(fuse(ranking("abc"), ranking("cde"), WORDS)) == "cabde"
    assert fuse(ranking("a"), ranking("a"), WORDS)[0].score == pytest.approx(1.0)


def test_rankings_are_long_enough_for_fusion() -> None:
    assert WORDS.depth(8) == 50
    assert WORDS.depth(80) == 80
    assert Weights().depth(8) == 8


@given(st.data())
def test_stages_give_a_result_when_all_shards_have_come_further(data: st.DataObject) -> None:
    """Against the rule itself: the rounds that every shard that goes on has completed."""
    shards = data.draw(st.integers(1, 4))
    plans = {shard: data.draw(st.integers(1, 4)) for shard in range(shards)}
    lost = {shard: data.draw(st.integers(0, 4)) for shard in data.draw(st.sets(st.integers(0, shards - 1)))}
    merged = ShardStages(shards, 5, Weights())
    came = dict.fromkeys(plans, 0)
    gone: set[int] = set()
    held: dict[int, list[ScoredPassage]] = {}
    given_rounds = 0
    while open_shards := [s for s in plans if s not in gone and came[s] < plans[s]]:
        shard = data.draw(st.sampled_from(open_shards))
        if lost.get(shard) == came[shard]:
            merged.lose(shard)
            gone.add(shard)
            held.pop(shard, None)
        else:
            came[shard] += 1
            held[shard] = ranking(data.draw(rankings))
            merged.add(shard, Stage(tuple(held[shard]), came[shard] == plans[shard]))
        going_on = [came[s] for s in plans if s not in gone and came[s] < plans[s]]
        complete = min(going_on, default=given_rounds + 1)
        result = merged.result()
        assert (result is not None) == (complete > given_rounds)
        if result is not None:
            given_rounds = complete
            assert list(result.passages) == merge(held.values(), 5)
            assert result.missing_shards == tuple(sorted(gone))
            assert result.is_final == (not going_on)
    assert merged.is_final
    assert merged.found_by_none == (len(gone) == shards)


def test_stages_are_fused_with_the_words_that_shards_found() -> None:
    merged = ShardStages(2, 3, WORDS)
    merged.add(0, Stage(tuple(ranking("ab")), False, tuple(ranking("c"))))
    assert merged.result() is None
    merged.add(1, Stage(tuple(ranking("d")), True))
    provisional = merged.result()
    assert provisional is not None and not provisional.is_final
    assert docs(provisional.passages) == "acd"
    merged.add(0, Stage(tuple(ranking("ca")), True, tuple(ranking("c"))))
    final = merged.result()
    assert final is not None and final.is_final
    assert docs(final.passages) == "cda"


def test_shard_that_does_not_know_all_of_its_passages_yet_is_named_and_heard() -> None:
    merged = ShardStages(3, 3, Weights())
    merged.add(0, Stage(tuple(ranking("a")), True, is_replaying=True))
    merged.add(1, Stage(tuple(ranking("d")), True))
    merged.lose(2)
    result = merged.result()
    assert result is not None and docs(result.passages) == "ad"
    assert result.missing_shards == (0, 2) and not merged.found_by_none
