"""Searches in virtual time: what is begun early, kept back, adopted, and thrown away."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_simulation_cluster import shape, trace

from mygo.simulation.cluster import Simulation
from mygo.simulation.outcome import Served
from mygo.simulation.overlapping import RetrievalShape
from mygo.speculation import Speculated
from mygo.workloads.trace import TextId, Trace, TraceRequest

SEARCH_S = 0.2
ASKED = [(name, other) for name in "abcdefgh" for other in "uv"]


def run(shown: str, speculations: int, *, asked: Trace, gated: bool = True) -> Simulation:
    """``shown`` halfway through each search: the right documents, or the wrong ones."""

    def stages(request: TraceRequest) -> list[tuple[float, tuple[TextId, ...]]]:
        wrong = tuple(reversed(request.documents))
        first = {"right": request.documents, "wrong": wrong}[shown]
        return [(SEARCH_S / 2, first), (SEARCH_S, request.documents)]

    retrieval = RetrievalShape(stages, SEARCH_S, speculations, gated)
    simulation = Simulation(replace(shape(1), retrieval=retrieval), asked)
    simulation.run()
    return simulation


def by_number(simulation: Simulation) -> list[Served]:
    return sorted(simulation.served, key=lambda one: one.number)


def test_right_documents_begin_earlier_by_what_is_left_of_the_search() -> None:
    asked = trace(ASKED)
    off, on = (run("right", number, asked=asked) for number in (0, 2))
    fell_s = [a.ttft_s - b.ttft_s for a, b in zip(by_number(off), by_number(on), strict=True)]
    assert fell_s == pytest.approx([SEARCH_S / 2] * len(ASKED))
    assert on.searches is not None
    for each in on.served:
        overlap = on.searches.ended[each.number].overlap(each.arrived_s + each.ttft_s)
        assert overlap.outcome is Speculated.ADOPTED and overlap.hidden_s == pytest.approx(SEARCH_S / 2)


def test_wrong_documents_delay_only_by_the_step_in_progress_and_what_they_share_is_reused() -> None:
    asked = trace(ASKED)
    off, on = (run("wrong", number, asked=asked, gated=False) for number in (0, 2))
    for before, after in zip(by_number(off), by_number(on), strict=True):
        assert -1e-9 <= after.ttft_s - before.ttft_s <= 0.2, "at most a step"
        assert after.cached_tokens >= before.cached_tokens
        assert (after.prompt_tokens, after.output_tokens) == (before.prompt_tokens, before.output_tokens)


def test_gate_learns_that_results_do_not_last() -> None:
    on = run("wrong", 2, asked=trace(ASKED * 2))
    assert on.searches is not None
    overlaps = [
        on.searches.ended[each.number].overlap(each.arrived_s + each.ttft_s) for each in by_number(on)
    ]
    assert overlaps[0].outcome is Speculated.WRONG and overlaps[0].wasted_s > 0
    assert {overlap.outcome for overlap in overlaps[8:]} == {Speculated.NONE}


def test_no_token_of_an_early_prefill_counts_before_the_search_has_ended() -> None:
    asked = trace([("x",)] * 3)
    on = run("right", 2, asked=asked)
    for each in on.served[1:]:  # cached: its tokens are there long before the search is over
        assert each.cached_tokens > 0
        assert each.ttft_s == pytest.approx(SEARCH_S)
        assert each.e2e_s >= each.ttft_s


def test_requests_without_documents_search_nothing() -> None:
    on = run("right", 2, asked=trace([(), ("x",), ()]))
    assert on.searches is not None and set(on.searches.ended) == {1}
    assert len(on.served) == 3


@pytest.mark.parametrize("shown", ["right", "wrong"])
def test_all_are_served_whatever_the_load(shown: str) -> None:
    asked = trace(ASKED, gap_s=0.01)
    on = run(shown, 4, asked=asked, gated=False)
    assert sorted(each.number for each in on.served) == list(range(len(ASKED)))
    assert sum(each.output_tokens for each in on.served) == 3 * len(ASKED)
    assert not on._open
