from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from retrieval_cases import passage

from mygo.retrieval import merge
from mygo.types import ScoredPassage


def scored(doc: str, index: int, text: str, score: float, store: str = "vs_a") -> ScoredPassage:
    return ScoredPassage(passage(doc, index, text, store), score)


rankings = st.lists(
    st.lists(
        st.builds(
            scored,
            st.sampled_from("abcd"),
            st.integers(0, 3),
            st.sampled_from("uvwxyz"),
            st.sampled_from([0.1, 0.5, 0.9]),
            st.sampled_from(["vs_a", "vs_b"]),
        ),
        max_size=8,
    ),
    max_size=4,
)


@given(rankings, st.integers(1, 10), st.randoms())
def test_merge_is_the_same_when_shards_answer_in_another_order(rankings, k, random) -> None:
    expected = merge(rankings, k)
    shuffled = [random.sample(ranking, len(ranking)) for ranking in rankings]
    random.shuffle(shuffled)
    assert merge(shuffled, k) == expected


@given(rankings, st.integers(1, 10))
def test_merge_keeps_the_best_of_each_text(rankings, k) -> None:
    best: dict[str, float] = {}
    for ranking in rankings:
        for s in ranking:
            best[s.passage.text] = max(s.score, best.get(s.passage.text, -1.0))
    merged = merge(rankings, k)
    assert [s.score for s in merged] == sorted(best.values(), reverse=True)[:k]
    assert all(s.score == best[s.passage.text] for s in merged)
    assert len({s.passage.text for s in merged}) == len(merged)


def test_merge_names_the_first_document_when_a_text_is_attached_twice() -> None:
    merged = merge(
        [[scored("b", 0, "same", 0.9)], [scored("a", 3, "same", 0.9), scored("a", 1, "x", 0.2)]], 5
    )
    assert [(s.passage.doc_id, s.passage.index) for s in merged] == [("a", 3), ("a", 1)]


def test_merge_of_nothing_is_empty() -> None:
    assert merge([], 3) == []
    assert merge([[], []], 3) == []
