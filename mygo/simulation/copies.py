"""Documents computed behind neutral ones by idle simulated workers, as ``mygo/serve/fillers.py`` has them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mygo.blend.fillers import QUIET_S, Backlog, Wanted
from mygo.emulation.engine import StepOutcome
from mygo.errors import BadRequest
from mygo.types import GenerateRequest, RequestId, WorkerId
from mygo.vllm_plugin.filling import copy_of, filling

if TYPE_CHECKING:
    from mygo.simulation.cluster import Simulation

AGAIN_S = 1.0
"""Pause of a worker that has made enough copies for the minute."""


@dataclass(slots=True)
class Made:
    """A copy, or an attempt at one."""

    at_s: float
    computed_tokens: int
    """Of an attempt that was interrupted: of all that it would have computed."""
    is_whole: bool


@dataclass(slots=True)
class _Making:
    name: RequestId
    wanted: Wanted[tuple[GenerateRequest, int]]
    made: Made


class Copies:
    """Those of one simulation."""

    def __init__(self, simulation: Simulation, neutral: list[tuple[int, ...]]) -> None:
        self._simulation = simulation
        self._neutral = neutral
        self._asked: dict[RequestId, GenerateRequest] = {}
        """Requests under way."""
        self._backlogs: dict[WorkerId, Backlog[tuple[GenerateRequest, int]]] = defaultdict(Backlog)
        self._making: dict[WorkerId, _Making] = {}
        self._busy_s: dict[WorkerId, float] = {}
        """When each worker was last seen to do something for a user."""
        self.made: list[Made] = []
        self.used_tokens = 0

    def came(self, asked: GenerateRequest, worker: WorkerId, now_s: float) -> None:
        """A user's request is about to reach a worker: what that makes is given up."""
        self._asked[asked.request_id] = asked
        self._busy_s[worker] = now_s
        making = self._making.pop(worker, None)
        if making is not None:
            self._simulation.cores[worker].abort(making.name, now_s)
            self.made.append(making.made)
            self._backlogs[worker].offer(making.wanted)

    def heard(self, outcome: StepOutcome, worker: WorkerId) -> None:
        """A worker has ended a step."""
        now_s = outcome.ended_s
        for name, news in outcome.fillers.items():
            self.used_tokens += news.used_tokens
            for number, worth in news.wanted:
                item = self._asked[name], number
                self._backlogs[worker].offer(Wanted(copy_of(*item), worth, item, now_s))
        making = self._making.get(worker)
        for name in outcome.finished:
            self._asked.pop(name, None)
            if making is None or name != making.name:
                self._busy_s[worker] = now_s
        if making is not None:
            if making.name in outcome.prefills:
                cached_tokens = sum(outcome.prefills[making.name].cached_tokens.values())
                making.made.computed_tokens -= cached_tokens
            if making.name in outcome.finished:
                making.made.is_whole = True
                self.made.append(making.made)
                del self._making[worker]
        if outcome.finished and len(self._backlogs[worker]):
            self._look(worker, now_s + QUIET_S)

    def _look(self, worker: WorkerId, at_s: float) -> None:
        self._simulation.at(at_s, lambda now_s: self._make(worker, now_s))

    def _make(self, worker: WorkerId, now_s: float) -> None:
        core = self._simulation.cores[worker]
        if core.open_requests or now_s < self._busy_s[worker] + QUIET_S:
            return  # whoever is the last to end looks again
        wanted = self._backlogs[worker].take(now_s)
        if wanted is None:
            if len(self._backlogs[worker]):
                self._look(worker, now_s + AGAIN_S)
            return
        name = RequestId(f"filler-{len(self.made)}-{worker}")
        asked = filling(*wanted.item, self._neutral, name)
        try:
            core.add(asked, now_s)
        except BadRequest:
            return  # no engine of this shape takes it
        self._making[worker] = _Making(name, wanted, Made(now_s, len(asked.token_ids), is_whole=False))
        self._simulation.changed(worker, now_s)
