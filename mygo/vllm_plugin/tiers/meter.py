"""Tells the cost model what each engine step computed and how long it took."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request

from mygo.tree.cost import Step, StepCost, token_pairs

# A step that took longer was interrupted: the machine slept, or somebody debugged it.
LONGEST_STEP_S = 60.0


class StepMeter:
    """Steps are told when they are scheduled and when their output is there.

    With asynchronous scheduling a step is scheduled before the one before it has ended; it begins then.
    """

    def __init__(self, cost: StepCost, clock: Callable[[], float]) -> None:
        self._cost = cost
        self._clock = clock
        self._open: deque[tuple[float, Step | None]] = deque()
        self._ended_s = clock()

    def scheduled(
        self, output: SchedulerOutput, requests: Mapping[str, Request], *, measurable: bool
    ) -> None:
        """A step begins. One that also waits for copies is not ``measurable``."""
        self._open.append((self._clock(), self._step(output, requests) if measurable else None))

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

    @staticmethod
    def _step(output: SchedulerOutput, requests: Mapping[str, Request]) -> Step:
        new_tokens = sequences = context_tokens = 0
        pairs = 0.0
        for request_id, tokens in output.num_scheduled_tokens.items():
            request = requests.get(request_id)
            if request is None:
                continue
            before = request.num_computed_tokens
            if tokens == 1 and before >= request.num_prompt_tokens:
                sequences += 1
                context_tokens += before
            else:
                new_tokens += tokens
                pairs += token_pairs(before, tokens)
        return Step(new_tokens, pairs, sequences, context_tokens)
