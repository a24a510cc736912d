"""One request's speculation: every sequence of results leads to the final documents, and is accounted for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mygo.speculation import Speculated, Speculation
from mygo.speculation.machine import shared_share

DOCUMENTS = st.lists(st.sampled_from("abcd"), max_size=3, unique=True).map(tuple)


def test_right_documents_are_adopted_and_hide_what_ran_beside_the_search() -> None:
    search = Speculation(0.0)
    assert search.provisional(("a", "b"), 1.0).consider
    search.began(1.5)
    move = search.provisional(("a", "b"), 2.0)
    assert not move.end and not move.consider
    assert search.final(("a", "b"), 4.0)
    assert search.overlap(first_token_s=9.0).hidden_s == 2.5
    assert search.overlap(first_token_s=3.0).hidden_s == 1.5, "what waited for the search hid nothing more"
    overlap = search.overlap(9.0)
    assert (overlap.stages, overlap.settled_stage, overlap.outcome) == (3, 1, Speculated.ADOPTED)


def test_other_documents_end_it_and_only_their_unshared_part_is_wasted() -> None:
    search = Speculation(0.0)
    search.provisional(("a", "b", "c", "d"), 1.0)
    search.began(1.0)
    move = search.provisional(("a", "x"), 2.0)
    assert move.end and move.consider
    search.ended(computed_s=0.8, decoded_s=0.5)
    assert not search.final(("a", "x"), 3.0)
    overlap = search.overlap(4.0)
    assert overlap.outcome is Speculated.WRONG and overlap.wasted_s == 0.8 * 3 / 4 + 0.5
    assert (overlap.settled_stage, overlap.speculations, overlap.hidden_s) == (2, 1, 0.0)


def test_no_documents_are_not_worth_a_prefill() -> None:
    assert not Speculation(0.0).provisional((), 1.0).consider


def test_what_is_lost_before_or_after_it_is_adopted_counts_as_failed() -> None:
    before, after = Speculation(0.0), Speculation(0.0)
    for search in (before, after):
        search.provisional(("a",), 1.0)
        search.began(1.0)
    before.failed()
    assert not before.final(("a",), 2.0)
    assert after.final(("a",), 2.0)
    after.unadopted()
    for search in (before, after):
        assert search.overlap(3.0).outcome is Speculated.FAILED and search.overlap(3.0).hidden_s == 0.0


@given(st.lists(st.tuples(DOCUMENTS, st.booleans(), st.booleans()), max_size=6), DOCUMENTS)
def test_only_a_prefill_for_the_final_documents_is_adopted(
    stages: list[tuple[tuple[str, ...], bool, bool]], final: tuple[str, ...]
) -> None:
    """Against a model that remembers which documents are being prefilled, and nothing else."""
    search = Speculation(0.0)
    running: tuple[str, ...] | None = None
    ended = 0
    for now_s, (documents, allowed, fails) in enumerate(stages, 1):
        move = search.provisional(documents, float(now_s))
        assert move.end == (running is not None and running != documents)
        if move.end:
            search.ended(1.0)
            running, ended = None, ended + 1
        assert move.consider == (running is None and bool(documents))
        if move.consider and allowed:
            search.began(float(now_s))
            running = documents
        if running is not None and fails:
            search.failed()
            running = None
    end_s = float(len(stages) + 1)
    assert search.final(final, end_s) == (running is not None and running == final)
    overlap = search.overlap(end_s + 1)
    assert overlap.wasted_s <= ended and 0 <= overlap.hidden_s <= end_s
    shown = [documents for documents, _, _ in stages] + [final]
    assert set(shown[overlap.settled_stage - 1 :]) == {final}
    assert overlap.settled_stage == 1 or shown[overlap.settled_stage - 2] != final


def test_shared_share_counts_leading_documents_only() -> None:
    assert shared_share(("a", "b", "c"), ("a", "c", "b")) == 1 / 3
    assert shared_share(("a", "b"), ("a", "b", "c")) == 1.0
    assert shared_share(("b",), ("a", "b")) == shared_share((), ("a",)) == 0.0
