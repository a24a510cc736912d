"""Idle simulated workers compute documents behind neutral ones, and only those."""

from __future__ import annotations

from dataclasses import replace

from test_simulation_cluster import ENGINE, PROFILE, trace

from mygo.simulation.cluster import ClusterShape, Simulation
from mygo.types import Reuse
from mygo.vllm_plugin.settings import ChunkSettings
from mygo.workloads.trace import TextId, Trace


def _shape(fillers: str = "1", concurrency: int | None = None) -> ClusterShape:
    chunks = ChunkSettings(host_bytes=2**24, load_gate=False, fillers=fillers)
    engine = replace(ENGINE, chunks=chunks)
    return ClusterShape(PROFILE, engine, 1, reuse=Reuse.BLEND, concurrency=concurrency)


FIRST_THEN_ELSEWHERE = [("x",), ("y",), ("x",), ("z", "x")]


def test_copy_is_made_between_requests_and_used_by_a_later_one() -> None:
    simulation = Simulation(_shape(), trace(FIRST_THEN_ELSEWHERE))
    served = simulation.run()
    assert simulation.copies is not None
    (made,) = simulation.copies.made
    # the system prompt, two neutral documents of 85 tokens and x, less the blocks that hold the system prompt
    assert made.is_whole and made.computed_tokens == 64 + 2 * 85 + 320 - 64
    assert served[2].arrived_s < made.at_s < served[3].arrived_s
    assert simulation.copies.used_tokens == 320 and served[3].chunk_tokens > 0


def test_nothing_is_made_without_neutral_documents() -> None:
    simulation = Simulation(_shape(fillers=""), trace(FIRST_THEN_ELSEWHERE))
    assert simulation.copies is None and simulation.run()[3].chunk_tokens == 0


def test_nothing_is_made_while_requests_follow_one_another() -> None:
    simulation = Simulation(_shape(concurrency=2), trace(FIRST_THEN_ELSEWHERE * 3))
    simulation.run()
    assert simulation.copies is not None and not simulation.copies.made


def test_request_that_comes_meanwhile_does_not_wait_for_the_copy() -> None:
    plain = trace(FIRST_THEN_ELSEWHERE)

    def last_at(arrival_s: float) -> Trace:
        *before, last = plain.requests
        last = replace(last, arrival_s=arrival_s, documents=(TextId("y"),))
        return replace(plain, requests=(*before, last))

    undisturbed = Simulation(_shape(), plain)
    undisturbed.run()
    assert undisturbed.copies is not None
    began_s = undisturbed.copies.made[0].at_s
    simulation = Simulation(_shape(), last_at(began_s + 0.001))
    served = simulation.run()
    assert simulation.copies is not None
    assert [made.is_whole for made in simulation.copies.made] == [False]
    alone = Simulation(_shape(fillers=""), last_at(began_s + 0.001)).run()
    step_s = 0.4  # of 512 tokens, at most
    assert served[3].ttft_s <= alone[3].ttft_s + step_s
