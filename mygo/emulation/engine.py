"""The emulated engine: vLLM's scheduler in virtual time. Whoever drives it brings the clock.

As in vLLM, a step decides with the requests that are there when it begins; what comes meanwhile is
seen when it ends. A step takes the seconds that the profile says, and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mygo.emulation import timing
from mygo.emulation.profile import EngineProfile
from mygo.emulation.reports import InProcessReports
from mygo.emulation.settings import EngineSettings
from mygo.emulation.vllm_scheduler import Decoding, Produced, Scheduled, VllmScheduler
from mygo.errors import BadRequest
from mygo.types import (
    ChunkUse,
    GenerateRequest,
    PrefillStats,
    RequestId,
    WorkerId,
    WorkerInfo,
    WorkerReport,
)
from mygo.vllm_plugin.filling import FillerNews


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a step, or a run of steps that only decoded, gave."""

    started_s: float
    ended_s: float
    steps: int
    """More than one only if each request below got one token in each of them."""
    computed_tokens: int
    """Prompt tokens computed."""
    token_ids: Mapping[RequestId, list[int]]
    """New tokens of every request that got any."""
    prefills: Mapping[RequestId, PrefillStats]
    """Of requests whose first token this is."""
    finished: tuple[RequestId, ...]
    """Requests that reached their length. Aborted ones are not named."""
    chunks: Mapping[RequestId, ChunkUse] = field(default_factory=dict)
    """Of requests that ended, and had documents."""
    fillers: Mapping[RequestId, FillerNews] = field(default_factory=dict)
    """Of requests that ended, and used or want copies behind neutral documents."""


@dataclass(slots=True)
class _Step:
    started_s: float
    ended_s: float
    scheduled: Scheduled


@dataclass(slots=True)
class _Leap:
    """Steps that will only decode, not yet carried out: an arrival may cut them short."""

    started_s: float
    ended_s: float
    decoding: Decoding


class EmulatedCore:
    """One engine. ``now_s`` must never fall from call to call; at a tie the order of the calls counts.

    Drive it so: ``add`` requests as they come; whenever ``next_event_s`` is reached, ``advance`` to it
    and read the outcomes. ``report`` gives what a worker would tell the directory.

    With ``leap``, steps that only decode are carried out together, which changes neither the times nor
    what the cache holds at any time at which anybody looks; outcomes then come in larger pieces. The plugin's
    cost model learns nothing from them, so that requests which are due at nearly the same time may change
    places.
    """

    def __init__(
        self,
        settings: EngineSettings,
        profile: EngineProfile,
        worker: WorkerId,
        epoch: str = "0",
        *,
        leap: bool = True,
    ) -> None:
        self._settings = settings
        self._profile = profile
        self._worker = worker
        self._epoch = epoch
        self._leaps = leap
        self._reports = InProcessReports(worker, epoch)
        self._scheduler = VllmScheduler(settings, profile, self._reports)
        self._step: _Step | _Leap | None = None
        self._idle_until_s = 0.0
        """When the next step begins, if none is in progress and there is work; later than now only while
        all that is left to do waits for a transfer between tiers."""
        self._arrivals: dict[RequestId, GenerateRequest] = {}
        """Came during the step in progress."""
        self._aborts: set[RequestId] = set()
        self._arrived_s: dict[RequestId, float] = {}
        self._admitted_s: dict[RequestId, float] = {}
        self._outcomes: list[StepOutcome] = []

    def __repr__(self) -> str:
        return f"EmulatedCore({self._worker}, open={self.open_requests}, next_event_s={self.next_event_s})"

    @property
    def info(self) -> WorkerInfo:
        """What the worker would say of itself when it joins the directory."""
        return WorkerInfo(
            worker=self._worker,
            epoch=self._epoch,
            model=f"{self._profile.model} (emulated on {self._profile.device})",
            block_tokens=self._settings.block_tokens,
            device_tokens=self._scheduler.device_tokens,
            max_context_tokens=self._settings.max_context_tokens,
            profile=self._profile.prefill,
            node="emulated",
        )

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self._settings.vocabulary

    @property
    def open_requests(self) -> int:
        """Requests that were added and have neither ended nor been aborted."""
        return len(self._arrived_s)

    @property
    def next_event_s(self) -> float | None:
        """When there is something to ``advance`` to; None while idle."""
        if self._outcomes:
            return self._outcomes[0].ended_s
        if self._step is not None:
            return self._step.ended_s
        return self._idle_until_s if self._arrivals or self._scheduler.has_work else None

    def add(self, request: GenerateRequest, now_s: float) -> None:
        """A request arrives. It is seen by the first step that begins at ``now_s`` or later.

        Raises BadRequest, and adds nothing, if the prompt cannot fit, or if the id is in use.
        """
        self._check(request)
        self._settle(now_s)
        self._arrived_s[request.request_id] = now_s
        self._arrivals[request.request_id] = request
        self._wake(now_s)

    def abort(self, request_id: RequestId, now_s: float) -> None:
        """End a request early; unknown ids are ignored. Takes effect when the step in progress ends."""
        self._settle(now_s)
        if self._arrived_s.pop(request_id, None) is None:
            return
        self._admitted_s.pop(request_id, None)
        if self._arrivals.pop(request_id, None) is None:
            self._aborts.add(request_id)
            self._wake(now_s)

    def advance(self, now_s: float) -> list[StepOutcome]:
        """Run all that happens up to and including ``now_s``; returns what ended, in order."""
        while self._due_s <= now_s and self._next():
            pass
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def report(self, now_s: float, *, snapshot: bool = False) -> WorkerReport:
        """What changed in the cache since the last report, and the load, as of ``now_s``.

        The first one is a snapshot of its own accord.
        """
        self._settle(now_s)
        return self._reports.take(snapshot=snapshot)

    def reset_cache(self) -> None:
        """Forget all cached KV; nothing may be running."""
        self._scheduler.reset_cache()

    # --- parts -------------------------------------------------------------------------------------

    def _check(self, request: GenerateRequest) -> None:
        tokens = len(request.token_ids)
        most = min(self._settings.max_context_tokens - 1, self._scheduler.device_tokens - 1)
        if tokens > most:
            raise BadRequest(
                f"the prompt has {tokens} tokens, the engine takes {most}: send fewer or shorter documents",
                param="messages",
                code="context_length_exceeded",
            )
        if not tokens:
            raise BadRequest("the prompt is empty: send at least one token", param="messages")
        if request.request_id in self._arrived_s:
            raise BadRequest(f"request {request.request_id} is being served already: give each its own id")

    @property
    def _due_s(self) -> float:
        return self._idle_until_s if self._step is None else self._step.ended_s

    def _next(self) -> bool:
        """End the step in progress, or begin one; False if there is nothing to do."""
        if self._step is None:
            return self._begin(self._idle_until_s)
        self._finish()
        return True

    def _wake(self, now_s: float) -> None:
        if self._step is None:
            self._idle_until_s = now_s

    def _begin(self, at_s: float) -> bool:
        """Begin a step at ``at_s``, or find out when to look again; False if there is nothing to do."""
        self._apply_aborts()
        for request in self._arrivals.values():
            self._scheduler.add(request)
        self._arrivals.clear()
        if self._leaps and (decoding := self._scheduler.decoding()):
            self._step = _Leap(at_s, at_s + self._decode_s(decoding, decoding.steps), decoding)
            return True
        return self._begin_step(at_s)

    def _begin_step(self, at_s: float) -> bool:
        if not self._scheduler.has_work:
            return False
        scheduled = self._scheduler.schedule(at_s)
        if scheduled.empty:
            return self._pass(scheduled, at_s)
        for request_id in scheduled.admitted:
            self._admitted_s[request_id] = at_s
        compute_s = timing.step_s(
            self._profile, scheduled.chunks, scheduled.sequences, scheduled.context_tokens
        )
        begins_s, layers = scheduled.begins_s, self._profile.layers
        loads = [(copy.begins_s, copy.ends_s) for copy in scheduled.beside]
        if scheduled.chunks_s:
            loads.append((begins_s, begins_s + scheduled.chunks_s))
            alone = timing.beside_s(0.0, compute_s, layers, [(0.0, scheduled.chunks_s)])
            self._scheduler.held_up(alone - compute_s)
        ends_s = timing.beside_s(begins_s, compute_s, layers, loads)
        self._step = _Step(at_s, ends_s, scheduled)
        return True

    def _pass(self, scheduled: Scheduled, at_s: float) -> bool:
        """vLLM's pass that computes nothing: it hears of transfers, or tells its workers what has ended."""
        self._scheduler.complete(scheduled, at_s)
        if self._scheduler.has_news:
            return True
        transfer_end_s = self._scheduler.next_transfer_end_s
        if transfer_end_s is None and not self._scheduler.unfinished:
            return False
        self._idle_until_s = at_s + self._profile.decode.step_s if transfer_end_s is None else transfer_end_s
        return True

    def _finish(self) -> None:
        step = self._step
        assert step is not None
        self._step = None
        self._idle_until_s = step.ended_s
        if isinstance(step, _Leap):
            steps = step.decoding.steps
            self._deliver(step.started_s, step.ended_s, self._scheduler.decode(steps, step.ended_s), steps, 0)
            return
        self._apply_aborts()
        computed_tokens = sum(chunk.tokens for chunk in step.scheduled.chunks)
        produced = self._scheduler.complete(step.scheduled, step.ended_s)
        self._deliver(step.started_s, step.ended_s, produced, 1, computed_tokens)

    def _apply_aborts(self) -> None:
        for request_id in sorted(self._aborts):
            self._scheduler.abort(request_id)
        self._aborts.clear()

    def _settle(self, now_s: float) -> None:
        """Somebody looks, or something comes: bring the scheduler to where it would be at ``now_s``."""
        while self._due_s < now_s and self._next():
            pass
        leap = self._step
        if not isinstance(leap, _Leap) or leap.ended_s == now_s:
            return
        steps = self._steps_within(leap.decoding, now_s - leap.started_s)
        at_s = leap.started_s
        if steps:
            at_s += self._decode_s(leap.decoding, steps)
            self._deliver(leap.started_s, at_s, self._scheduler.decode(steps, at_s), steps, 0)
        self._begin_step(at_s)

    def _steps_within(self, decoding: Decoding, seconds: float) -> int:
        """Steps of an unfinished leap that have ended after ``seconds``."""
        low, high = 0, decoding.steps - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._decode_s(decoding, middle) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low

    def _decode_s(self, decoding: Decoding, steps: int) -> float:
        return timing.decode_steps_s(self._profile.decode, decoding.sequences, decoding.context_tokens, steps)

    def _deliver(
        self,
        started_s: float,
        ended_s: float,
        produced: Mapping[RequestId, Produced],
        steps: int,
        computed_tokens: int,
    ) -> None:
        prefills: dict[RequestId, PrefillStats] = {}
        finished: list[RequestId] = []
        for request_id, one in produced.items():
            if one.cached_tokens is not None:
                admitted_s = self._admitted_s.pop(request_id)
                prefills[request_id] = PrefillStats(
                    one.cached_tokens,
                    queue_s=admitted_s - self._arrived_s[request_id],
                    prefill_s=ended_s - admitted_s,
                )
            if one.finished:
                finished.append(request_id)
                del self._arrived_s[request_id]
        self._outcomes.append(
            StepOutcome(
                started_s,
                ended_s,
                steps,
                computed_tokens,
                {request_id: one.token_ids for request_id, one in produced.items()},
                prefills,
                tuple(finished),
                {request_id: one.chunks for request_id, one in produced.items() if one.chunks is not None},
                {request_id: one.fillers for request_id, one in produced.items() if one.fillers is not None},
            )
        )
