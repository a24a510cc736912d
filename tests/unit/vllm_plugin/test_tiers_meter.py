"""What the cost model is told of each step: by vLLM's real scheduler, and on a clock that the test sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.v1.core.sched.output import CachedRequestData, SchedulerOutput

from mygo.tree.cost import Step, StepCost, token_pairs
from mygo.vllm_plugin.tiers import meter
from mygo.vllm_plugin.tiers.meter import LONGEST_STEP_S, StepMeter


@pytest.fixture(autouse=True)
def tell_of_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "DECODE_STEPS_PER_SAMPLE", 1)


class Notes(StepCost):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(2_048)
        self.told: list[tuple[Step, float]] = []

    def observe(self, step: Step, seconds: float) -> None:
        self.told.append((step, pytest.approx(seconds)))  # type: ignore[arg-type]


class Metered:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.cost = Notes()
        self.meter = StepMeter(self.cost, lambda: self.now_s)

    def scheduled(self, at_s: float, output: SchedulerOutput, *, measurable: bool = True) -> None:
        self.now_s = at_s
        self.meter.scheduled(output, measurable=measurable)

    def ended(self, at_s: float) -> None:
        self.now_s = at_s
        self.meter.ended()


def decoding(*context_tokens: int) -> SchedulerOutput:
    """A step in which requests decode behind so many tokens each."""
    output = SchedulerOutput.make_empty()
    ids = [f"r{number}" for number in range(len(context_tokens))]
    output.scheduled_cached_reqs = CachedRequestData(
        req_ids=ids,
        resumed_req_ids=set(),
        new_token_ids=[],
        all_token_ids={},
        new_block_ids=[None] * len(ids),
        num_computed_tokens=list(context_tokens),
        num_output_tokens=[1] * len(ids),
    )
    output.num_scheduled_tokens = dict.fromkeys(ids, 1)
    output.total_num_scheduled_tokens = len(ids)
    return output


STEP = Step(0, 0.0, 2, 300)


def test_step_lasts_from_its_scheduling_to_its_end() -> None:
    metered = Metered()
    metered.scheduled(101.0, decoding(100, 200))
    metered.ended(101.25)
    assert metered.cost.told == [(STEP, 0.25)]


def test_only_some_steps_that_decode_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "DECODE_STEPS_PER_SAMPLE", 3)
    metered = Metered()
    for number in range(7):
        metered.scheduled(101.0 + number, decoding(100 + number))
        metered.ended(101.5 + number)
    assert [step.context_tokens for step, _ in metered.cost.told] == [100, 103, 106]


def test_step_begins_when_the_one_before_it_has_ended_if_it_was_scheduled_earlier() -> None:
    """Scenario: asynchronous scheduling."""
    metered = Metered()
    metered.scheduled(101.0, decoding(100, 200))
    metered.scheduled(101.1, decoding(101, 201))
    metered.ended(101.25)
    metered.ended(101.5)
    metered.ended(101.6)  # nothing is open
    assert metered.cost.told == [(STEP, 0.25), (Step(0, 0.0, 2, 302), 0.25)]


def test_step_tells_nothing_when_it_was_empty_waited_for_copies_or_was_interrupted() -> None:
    metered = Metered()
    metered.scheduled(101.0, SchedulerOutput.make_empty())
    metered.ended(101.5)
    metered.scheduled(102.0, decoding(100, 200), measurable=False)
    metered.ended(102.5)
    metered.scheduled(103.0, decoding(100, 200))
    metered.ended(103.0 + LONGEST_STEP_S)
    metered.scheduled(200.0, decoding(100, 200))
    metered.ended(200.0)  # a clock that stood still
    assert metered.cost.told == []
    metered.scheduled(201.0, decoding(100, 200))
    metered.ended(201.5)
    assert metered.cost.told == [(STEP, 0.5)]


@settings(max_examples=30, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 60), st.integers(1, 5), st.integers(0, 3)),
        min_size=1,
        max_size=12,
    )
)
def test_step_counts_what_vllms_scheduler_put_into_it(
    engine_factory: Callable[..., Any], arrivals: list[tuple[int, int, int, int]]
) -> None:
    """Chunked prompts, cached ones, decoding, and preemption: the cache holds less than what may run."""
    engine = engine_factory(blocks=40)
    opened = engine.connector._tiers._meter._open
    due = sorted((step, number, *rest) for number, (step, *rest) in enumerate(arrivals))
    schedule = engine.scheduler.schedule

    def schedule_and_compare() -> Any:
        output = schedule()
        _, told = opened[-1]
        new_tokens = sequences = context_tokens = 0
        pairs = 0.0
        for request_id, tokens in output.num_scheduled_tokens.items():
            before = engine.scheduler.requests[request_id].num_computed_tokens - tokens
            if tokens == 1:
                sequences += 1
                context_tokens += before
            else:
                new_tokens += tokens
                pairs += token_pairs(before, tokens)
        assert told == Step(new_tokens, pairs, sequences, context_tokens)
        return output

    engine.scheduler.schedule = schedule_and_compare
    for at in range(200):
        while due and due[0][0] <= at:
            _, number, tokens, max_tokens, first = due.pop(0)
            ids = [1 + (first + token) % 60 for token in range(tokens)]
            engine.add(f"r{number}", ids, max_tokens=max_tokens)
        if not due and not engine.scheduler.has_requests():
            break
        engine.step()
    assert not engine.scheduler.has_requests()
    assert not opened
