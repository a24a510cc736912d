"""Tells the cost model what each engine step computed and how long it took."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from vllm.v1.core.sched.output import SchedulerOutput

from mygo.tree.cost import Step, StepCost, token_pairs

# A step that took longer was interrupted: the machine slept, or somebody debugged it.
LONGEST_STEP_S = 60.0
# Steps that only decode come by the thousand and resemble one another.
DECODE_STEPS_PER_SAMPLE = 8


class StepMeter:
    """Steps are told when they are scheduled and when their output is there.

    With asynchronous scheduling a step is scheduled before the one before it has ended; it begins then.
    """

    def __init__(self, cost: StepCost, clock: Callable[[], float]) -> None:
        self._cost = cost
        self._clock = clock
        self._open: deque[tuple[float, Step | None]] = deque()
        self._ended_s = clock()
        self._decode_steps = 0

    def scheduled(self, output: SchedulerOutput, *, measurable: bool) -> None:
        """A step begins. One that also waits for copies is not ``measurable``."""
        if output.total_num_scheduled_tokens == len(output.num_scheduled_tokens):
            measurable = measurable and self._decode_steps % DECODE_STEPS_PER_SAMPLE == 0
            self._decode_steps += 1
        self._open.append((self._clock(), _step(output) if measurable else None))

    def ended(self) -> None:
        """The oldest open step has ended."""
        if not self._open:
            return
        now_s = self._clock()
        scheduled_s, step = self._open.popleft()
        seconds = now_s - max(scheduled_s, self._ended_s)
        self._ended_s = now_s
        if step is not None and (step.new_tokens or step.sequences) and 0 < seconds < LONGEST_STEP_S:
            self._cost.observe(step, seconds)


def _step(output: SchedulerOutput) -> Step:
    """What a step computes. A single token costs what decoding one does, even if it is the last of a prompt.

    There may be hundreds of running requests, nearly all of which decode: those are only added up.
    """
    running = output.scheduled_cached_reqs
    tokens_by_id = output.num_scheduled_tokens
    sequences = len(tokens_by_id)
    context_tokens = sum(running.num_computed_tokens)
    context_tokens += sum(new.num_computed_tokens for new in output.scheduled_new_reqs)
    new_tokens = 0
    pairs = 0.0
    if output.total_num_scheduled_tokens > sequences:
        before_by_id = dict(zip(running.req_ids, running.num_computed_tokens, strict=True))
        before_by_id |= {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        for request_id, tokens in tokens_by_id.items():
            if tokens > 1:
                before = before_by_id[request_id]
                sequences -= 1
                context_tokens -= before
                new_tokens += tokens
                pairs += token_pairs(before, tokens)
    return Step(new_tokens, pairs, sequences, context_tokens)
