"""Requests of which nothing is stored in slower tiers, for good or for now."""

from __future__ import annotations

from collections.abc import Collection, Set
from copy import copy

from vllm.v1.core.sched.output import SchedulerOutput


class Barred:
    """By request id."""

    def __init__(self) -> None:
        self._kept_out: set[str] = set()
        self._held_back: set[str] = set()

    def keep_out(self, request_id: str) -> None:
        """For good."""
        self._kept_out.add(request_id)

    def hold_back(self, request_id: str, *, is_held: bool) -> None:
        """Until it is told that this is over."""
        (self._held_back.add if is_held else self._held_back.discard)(request_id)

    def without(self, output: SchedulerOutput, loading: Set[str]) -> SchedulerOutput:
        """A step as who stores it is to see it. vLLM stores nothing of a request that is ``loading``: what
        this step computes goes with a later one."""
        barred = loading | self._kept_out | self._held_back
        if not barred:
            return output
        output = copy(output)
        output.num_scheduled_tokens = {
            request_id: tokens
            for request_id, tokens in output.num_scheduled_tokens.items()
            if request_id not in barred
        }
        output.finished_req_ids = output.finished_req_ids - barred
        return output

    def forget(self, finished: Collection[str], known: Collection[str]) -> None:
        """A step is planned that tells who has ``finished``. Others than ``known`` ones have long done so."""
        self._held_back.difference_update(finished)
        if self._kept_out:
            self._kept_out = {each for each in self._kept_out if each in known and each not in finished}
