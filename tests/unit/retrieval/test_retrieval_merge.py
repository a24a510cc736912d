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
def test_merge_keeps_the_best_of_each_text_of_each_document(rankings, k) -> None:
    def text_of_document(s: ScoredPassage) -> tuple[str, ...]:
        return str(s.passage.store_id), s.passage.doc_id, s.passage.text

    best: dict[tuple[str, ...], float] = {}
    for ranking in rankings:
        for s in ranking:
            best[text_of_document(s)] = max(s.score, best.get(text_of_document(s), -1.0))
    merged = merge(rankings, k)
    assert [s.score for s in merged] == sorted(best.values(), reverse=True)[:k]
    assert all(s.score == best[text_of_document(s)] for s in merged)
    assert len({text_of_document(s) for s in merged}) == len(merged)


def test_merge_keeps_copies_in_other_documents_and_stores() -> None:
    """Only the caller knows which of them may be shown."""
    merged = merge(
        [
            [scored("b", 0, "same", 0.9), scored("b", 4, "same", 0.9)],
            [scored("a", 3, "same", 0.9), scored("a", 1, "x", 0.2), scored("a", 3, "same", 0.9, "vs_b")],
        ],
        5,
    )
    assert [(s.passage.store_id, s.passage.doc_id, s.passage.index) for s in merged] == [
        ("vs_a", "a", 3),
        ("vs_b", "a", 3),
        ("vs_a", "b", 0),
        ("vs_a", "a", 1),
    ]


def test_merge_of_nothing_is_empty() -> None:
    assert merge([], 3) == []
    assert merge([[], []], 3) == []
