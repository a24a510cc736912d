"""What is worth prefilling early: learned from searches that ended, weighed against what it costs others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mygo.speculation import Foresight, Gate, Outlook, Quote, Speculation

IDLE = Quote(wait_s=0.0, prefill_s=1.0, abort_s=0.1, open_requests=0)


def search(*stages: str, began_s: float = 0.0) -> Speculation:
    """A search with a second between its results."""
    one = Speculation(began_s)
    for number, documents in enumerate(stages[:-1], 1):
        one.provisional(tuple(documents), began_s + number)
    one.final(tuple(stages[-1]), began_s + len(stages))
    return one


def at_stage(*stages: str) -> Speculation:
    one = Speculation(0.0)
    for number, documents in enumerate(stages, 1):
        one.provisional(tuple(documents), float(number))
    return one


def test_outlook_of_an_unknown_search_expects_half_to_last_and_as_long_again() -> None:
    assert Foresight().outlook("store", at_stage("ab", "ab"), 2.0) == Outlook(0.5, 2.0)


def test_outlook_follows_what_searches_of_the_same_scope_and_stage_have_shown() -> None:
    foresight = Foresight()
    for _ in range(100):
        foresight.learn("calm", search("ab", "ab", "ab"))
        foresight.learn("wild", search("ab", "cd", "ef"))
    calm = foresight.outlook("calm", at_stage("xy"), 1.0)
    assert calm.useful_share > 0.95 and calm.remaining_s == pytest.approx(2.0)
    assert foresight.outlook("wild", at_stage("xy"), 1.0).useful_share < 0.05
    assert foresight.outlook("calm", at_stage("xy"), 1.75).remaining_s == pytest.approx(1.25)
    assert foresight.outlook("calm", Speculation(5.0), 5.0).remaining_s == pytest.approx(3.0)
    assert foresight.outlook("calm", at_stage("xy"), 9.0).remaining_s == 0.0, "late, but not negative"


def test_outlook_counts_the_leading_documents_that_last() -> None:
    foresight = Foresight()
    for _ in range(100):
        foresight.learn("store", search("abcd", "abxy"))
    assert foresight.outlook("store", at_stage("abcd"), 1.0).useful_share == pytest.approx(0.5)


def test_outlook_forgets_old_searches_and_old_scopes() -> None:
    foresight = Foresight()
    for _ in range(100):
        foresight.learn("store", search("ab", "cd"))
    for _ in range(1_000):
        foresight.learn("store", search("ab", "ab"))
    assert foresight.outlook("store", at_stage("ab"), 1.0).useful_share > 0.95
    for number in range(300):
        foresight.learn(number, search("ab"))
    assert foresight.outlook("store", at_stage("ab"), 1.0).useful_share == 0.5


def test_gate_lets_an_idle_worker_begin() -> None:
    assert Gate(1).allows(Outlook(0.5, 1.0), IDLE)


def test_gate_refuses_where_there_is_nothing_to_gain() -> None:
    gate = Gate(1)
    assert not gate.allows(Outlook(0.9, 0.001), IDLE), "the search is about to end"
    assert not gate.allows(Outlook(0.9, 1.0), Quote(0.0, 0.001, 0.001, 0)), "it is cached"
    assert not gate.allows(Outlook(0.03, 1.0), IDLE), "it will be for other documents"


def test_gate_asks_for_more_certainty_the_more_others_would_wait() -> None:
    likely, certain = Outlook(0.7, 1.0), Outlook(1.0, 1.0)
    assert Gate(1).allows(likely, IDLE)
    crowded = Quote(0.0, 1.0, 0.1, open_requests=10)
    assert not Gate(1).allows(likely, crowded)
    assert Gate(1).allows(certain, crowded), "what is certain costs nobody anything"
    busy = Gate(1)
    for _ in range(100):
        busy.dispatched(wait_s=0.5)
    assert not busy.allows(likely, IDLE)
    for _ in range(100):
        busy.dispatched(wait_s=0.0)
    assert busy.allows(likely, IDLE)


def test_gate_queues_what_will_not_be_computed_before_the_search_ends() -> None:
    """It keeps its place if it is right, and has cost nobody anything if it is wrong."""
    gate = Gate(1)
    for _ in range(15):
        gate.dispatched(wait_s=2.0)
    likely = Outlook(0.6, 1.0)
    assert gate.allows(likely, Quote(wait_s=2.0, prefill_s=1.0, abort_s=0.1, open_requests=2))
    assert not gate.allows(likely, Quote(wait_s=0.1, prefill_s=1.0, abort_s=0.1, open_requests=2))


def test_gate_counts_the_step_that_an_abort_waits_for() -> None:
    """Scenario: the search is over long before the engine's step is, and what is found may be wrong."""
    likely = Outlook(0.8, 0.1)
    assert Gate(1).allows(likely, Quote(wait_s=0.0, prefill_s=1.0, abort_s=0.05, open_requests=0))
    assert not Gate(1).allows(likely, Quote(wait_s=0.0, prefill_s=1.0, abort_s=1.0, open_requests=0))


def test_gate_counts_who_still_searches_and_comes_to_the_same_worker() -> None:
    likely = Outlook(0.8, 1.0)
    gate = Gate(1)
    gate.searches(+1)  # itself
    assert gate.allows(likely, IDLE)
    gate.searches(+8)
    assert not gate.allows(likely, IDLE)
    assert gate.allows(likely, replace(IDLE, workers=8))
    gate.searches(-8)
    assert gate.allows(likely, IDLE)


def test_gate_bounds_how_many_run() -> None:
    gate = Gate(2)
    gate.began()
    assert gate.has_room
    gate.began()
    assert not gate.has_room and not gate.allows(Outlook(1.0, 1.0), IDLE)
    gate.over()
    assert gate.allows(Outlook(1.0, 1.0), IDLE)
    assert not Gate(0).has_room
