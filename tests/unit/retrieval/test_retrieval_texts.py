from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mygo.retrieval.texts import PassageTexts
from mygo.types import StoreId

A, B = StoreId("vs_a"), StoreId("vs_b")
# no common words, and none that stemming changes
WORDS = ["lynx", "fox", "owl", "newt", "toad", "crow", "mole", "vole"]
texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


def bm25(held: dict[int, str], question: str) -> dict[int, float]:
    """Robertson and Zaragoza, as SQLite does it: k1 = 1.2, b = 0.75, and an idf that never is below 1e-6."""
    counts = {row: Counter(text.split()) for row, text in held.items()}
    mean = sum(len(text.split()) for text in held.values()) / max(1, len(held))
    scores: dict[int, float] = {}
    for word in dict.fromkeys(question.split()):
        having = sum(word in count for count in counts.values())
        idf = math.log((len(held) - having + 0.5) / (having + 0.5)) if having else 0.0
        for row, count in counts.items():
            if count[word]:
                saturation = count[word] + 1.2 * (0.25 + 0.75 * sum(count.values()) / mean)
                scores[row] = scores.get(row, 0.0) + max(idf, 1e-6) * count[word] * 2.2 / saturation
    return scores


class WordsAgainstNaive(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.index = PassageTexts(None, by_words=True)
        self.held: dict[StoreId, dict[int, str]] = {A: {}, B: {}}
        self.next_row = 0

    @rule(store=st.sampled_from([A, B]), new=st.lists(texts, max_size=5))
    def add(self, store: StoreId, new: list[str]) -> None:
        rows = range(self.next_row, self.next_row + len(new))
        self.next_row = rows.stop
        self.index.add(store, zip(rows, new, strict=True))
        self.held[store].update(zip(rows, new, strict=True))

    @rule(store=st.sampled_from([A, B]), data=st.data())
    def remove(self, store: StoreId, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from([*self.held[store], 10**6]), unique=True, max_size=4))
        self.index.remove(store, gone)
        for row in gone:
            self.held[store].pop(row, None)

    @rule(store=st.sampled_from([A, B]))
    def drop(self, store: StoreId) -> None:
        self.index.drop(store)
        self.held[store] = {}

    @rule(store=st.sampled_from([A, B]), question=texts, k=st.integers(1, 20))
    def search(self, store: StoreId, question: str, k: int) -> None:
        expected = bm25(self.held[store], question)
        found = self.index.search(store, question, k)
        assert len(found) == len({row for row, _ in found}) == min(k, len(expected))
        for row, score in found:
            assert score == pytest.approx(expected[row], rel=1e-6)
        held = self.held[store]
        assert self.index.texts(store, [*held, 10**6]) == held
        best = sorted(expected.values(), reverse=True)[:k]
        assert [score for _, score in found] == pytest.approx(best, rel=1e-6)


WordsAgainstNaive.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
test_words_equal_naive_bm25_after_any_history = WordsAgainstNaive.TestCase


def test_search_finds_other_forms_of_a_word_and_ignores_case_and_accents() -> None:
    index = PassageTexts(None, by_words=True)
    index.add(A, [(0, "Running foxes crossed the Café."), (1, "A lynx slept.")])
    for question in ("run", "FOX", "cafe", "crosses"):
        assert [row for row, _ in index.search(A, question, 5)] == [0]


@given(st.text(max_size=60))
def test_search_takes_any_question(question: str) -> None:
    index = PassageTexts(None, by_words=True)
    index.add(A, [(0, question), (1, "lynx")])
    assert index.texts(A, [0]) == {0: question}
    rows = [row for row, _ in index.search(A, question, 5)]
    if question.isascii() and re.search("[a-z0-9]", question):
        assert 0 in rows


def test_search_takes_an_underscore_for_a_space() -> None:
    index = PassageTexts(None, by_words=True)
    index.add(A, [(0, "read_file"), (1, "the file"), (2, "lynx")])
    assert [row for row, _ in index.search(A, "_read_file_", 5)] == [0, 1]


@pytest.mark.parametrize("question", ["a_" * 500_000, "x" * 1_000_000, "\U0001e900" * 500_000])
def test_search_of_one_long_word_looks_for_little(question: str) -> None:
    index = PassageTexts(None, by_words=True)
    index.add(A, [(0, question[:1000]), (1, "lynx")])
    searched: list[str] = []
    index._database.set_trace_callback(searched.append)
    index.search(A, question, 5)
    assert sum(map(len, searched)) < 10_000
    assert [row for row, _ in index.search(A, f"{question} lynx", 5)][-1] == 1


def test_texts_are_added_again_when_the_first_time_failed() -> None:
    def failing() -> Iterator[tuple[int, str]]:
        yield 0, "lynx"
        raise OSError("no room")

    index = PassageTexts(None, by_words=True)
    with pytest.raises(OSError, match="no room"):
        index.add(A, failing())
    assert index.texts(A, [0]) == {}
    assert index.search(A, "lynx", 5) == []
    index.add(A, [(0, "fox")])
    assert index.texts(A, [0]) == {0: "fox"}
    index.drop(A)


def test_search_looks_for_common_words_when_there_are_no_others() -> None:
    index = PassageTexts(None, by_words=True)
    index.add(A, [(0, "to be or not to be"), (1, "the lynx")])
    assert [row for row, _ in index.search(A, "to be", 5)] == [0]
    # beside another word they find nothing by themselves
    assert [row for row, _ in index.search(A, "to be a lynx", 5)] == [1]


def test_index_leaves_no_file(tmp_path: Path) -> None:
    index = PassageTexts(tmp_path, by_words=True)
    index.add(A, [(row, f"lynx {row} " * 50) for row in range(3000)])
    assert len(index.search(A, "lynx", 10)) == 10
    assert list(tmp_path.iterdir()) == []


def test_texts_are_kept_when_they_are_not_searched() -> None:
    texts = PassageTexts(None, by_words=False)
    texts.add(A, [(0, "lynx"), (7, "")])
    texts.add(B, [(0, "fox")])
    texts.remove(A, [5])
    assert texts.texts(A, [0, 5, 7]) == {0: "lynx", 7: ""}
    assert texts.search(A, "lynx", 5) == []
    texts.remove(A, [0])
    assert texts.texts(A, [0, 7]) == {7: ""}
    texts.drop(A)
    assert texts.texts(A, [7]) == {}
    assert texts.texts(B, [0]) == {0: "fox"}
