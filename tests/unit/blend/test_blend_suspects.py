from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.blend import suspects as room
from mygo.blend.suspects import Suspects
from mygo.blend.variants import DocumentTag

A, B, C = (DocumentTag(name) for name in "ABC")


@given(st.lists(st.sampled_from("ABCDEFGH").map(DocumentTag), min_size=1, max_size=50))
def test_error_of_all_documents_together_is_at_most_what_was_given(order: list[DocumentTag]) -> None:
    suspects = Suspects(0.5, 0.01)
    for document in order:
        suspects.observe({document: 0.4})
    assert sum(1 / threshold for _, threshold in suspects.tests.values()) <= 0.01
    assert suspects.begun == len(suspects.tests) == len(set(order))


def test_document_is_given_up_alone_when_it_alone_is_bad() -> None:
    suspects = Suspects(0.3, 0.01)
    given_up: list[DocumentTag] = []
    for _ in range(40):
        given_up += suspects.observe({A: 0.1, B: 0.6, C: 0.29})
    assert given_up[0] == B
    assert set(given_up) == {B}
    assert A in suspects.tests


def test_document_begins_anew_when_it_was_forgotten() -> None:
    suspects = Suspects(0.3, 0.01)
    for _ in range(5):
        suspects.observe({A: 0.6})
    suspects.forget(A)
    suspects.forget(A)
    assert not suspects.tests
    assert suspects.begun == 1


def test_watched_documents_are_bounded_and_the_latest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "WATCHED", 2)
    suspects = Suspects(0.3, 0.01)
    for document in (A, B, A, C):
        suspects.observe({document: 0.1})
    assert list(suspects.tests) == [A, C]
