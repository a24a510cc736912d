"""Sends a prompt to the worker that serves it soonest, and to another one if that worker dies.

The ingress keeps a copy of the cache directory and its own book of reservations; choosing and
reserving is one synchronous step, so that a burst of siblings sees its first member's choice.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from mygo.config import Config
from mygo.directory import Announcement, Replica
from mygo.errors import Unavailable, WorkerLost
from mygo.routing import ROUTERS, Reservations, RouteRequest, queue_s, route_to
from mygo.serve.calls import cause, is_loss, unpack
from mygo.types import (
    PUBLIC,
    Candidate,
    GenerateRequest,
    Prompt,
    RequestId,
    Residency,
    Route,
    SegmentKind,
    TokenDelta,
    WorkerId,
)

logger = logging.getLogger(__name__)

FOLLOW_WAIT_S = 5.0
FOLLOW_WITH_SIBLINGS_S = 0.02
FOLLOW_INTERVAL_S = 0.5
"""Pause between two updates from the directory. A call between replicas costs milliseconds of CPU, and
what this ingress sent it knows by itself."""
SETTLE_S = 2.0
"""How long a finished request's path still counts as held: its worker's last report is on its way."""
MAX_ANNOUNCED = 4096
"""Announcements kept for a directory that is away; older ones time out there by themselves."""
DEAD_S = 10.0
"""How long a lost worker is passed by; the directory has forgotten it long before."""
WORKER_WAIT_S = 30.0
"""How long a request waits for a worker to appear when there is none at all."""


class Generation:
    """A generation whose first token is there; iterating yields it first.

    ``aclose`` aborts it in the engine, also if the iteration never began. Not an async generator: one
    that was never started would skip its clean-up.
    """

    def __init__(
        self,
        route: Route,
        first: TokenDelta,
        stream: DeploymentResponseGenerator,
        over: Callable[[bool], None],
        attempts: int,
    ) -> None:
        self.route = route
        self.attempts = attempts
        self.prefill = first.prefill
        self._first: TokenDelta | None = first
        self._stream = stream
        self._over: Callable[[bool], None] | None = over

    def __aiter__(self) -> AsyncIterator[TokenDelta]:
        return self

    async def __anext__(self) -> TokenDelta:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            return unpack(await anext(self._stream))
        except StopAsyncIteration:
            self._finish(lost=False)
            raise
        except (RayError, RayServeException) as error:
            lost = is_loss(error)
            self._finish(lost=lost)
            if not lost:
                raise cause(error) from error
            raise WorkerLost(
                "the worker died while it was answering: what was sent is all there is; ask again"
            ) from error

    async def aclose(self) -> None:
        if self._over is not None:
            self._stream.cancel()
            self._finish(lost=False)

    def _finish(self, *, lost: bool) -> None:
        if self._over is not None:
            over, self._over = self._over, None
            over(lost)


class Dispatcher:
    """One per ingress replica; all methods run on its event loop."""

    def __init__(
        self,
        config: Config,
        workers: DeploymentHandle,
        directory: DeploymentHandle,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._workers = workers.options(stream=True)
        self._remote_directory = directory
        self._clock = clock
        self._rng = rng
        self._router = ROUTERS[config.routing.policy](config.routing)
        self._reservations = Reservations()
        self.directory = Replica()
        self._dead: dict[WorkerId, float] = {}
        self.routed: dict[WorkerId, int] = {}

    async def follow(self) -> None:
        """Keep the local copy of the directory up to date, and tell it what was sent, for ever."""
        has_siblings = self._config.http.ingress_replicas > 1
        announced: tuple[Announcement, ...] = ()
        while True:
            fresh = self.directory.announcements()
            if has_siblings:  # what a directory that is away did not hear is told again
                announced = (announced + fresh)[-MAX_ANNOUNCED:]
            try:
                changes = await self._remote_directory.sync.remote(
                    self.directory.version, announced, FOLLOW_WAIT_S
                )
            except asyncio.CancelledError:
                raise
            except (RayError, RayServeException) as error:
                # go on with the copy: hints may be stale, answers are not
                logger.warning("directory is away, keeping the last known state: %s", error)
                await asyncio.sleep(0.5)
                continue
            announced = ()
            try:
                self.directory.follow(changes)
                self._reservations.mirror(self.directory.siblings(), self._clock())
            except Exception:
                # a bug, but a view that no longer follows would be stale for ever: begin anew
                logger.exception("cannot apply the directory's changes, asking for everything")
                self.directory = Replica()
            # siblings must hear of a dispatch soon; alone, we know our own
            await asyncio.sleep(FOLLOW_WITH_SIBLINGS_S if has_siblings else FOLLOW_INTERVAL_S)

    def price_s(self, prompt: Prompt) -> float:
        """Predicted seconds to the first token on the best worker; used to compare layouts.

        Without any worker, fewer tokens are the best guess: only the order matters.
        """
        candidates = self._candidates(prompt, exclude=frozenset())
        return min(
            (route_to(candidate, prompt.tokens).predicted_s for candidate in candidates),
            default=float(prompt.tokens),
        )

    async def start(self, request: GenerateRequest, prompt: Prompt, text: str) -> Generation:
        """Route, send, and wait for the first token, on another worker if one dies before that.

        Raises Unavailable if no worker could be reached, or what the worker itself raised.
        """
        tried: set[WorkerId] = set()
        for attempt in range(self._config.routing.retries + 1):
            await self._wait_for_workers()
            route = self._reserve(request, prompt, text, frozenset(tried))
            stream = self._workers.generate.remote(request, worker=route.worker)
            try:
                first = unpack(await anext(stream))
            except BaseException as error:
                self._over(request.request_id, route.worker, is_loss(error))
                stream.cancel()  # also when lost: a worker that is only out of reach must not compute on
                if not is_loss(error):
                    raise cause(error) from error
                logger.warning("worker %s lost before the first token: %r", route.worker, error)
                tried.add(route.worker)
                continue
            self._reservations.release(request.request_id, self._clock())
            self.directory.started(request.request_id)
            over = partial(self._over, request.request_id, route.worker)
            return Generation(route, first, stream, over, attempt + 1)
        raise Unavailable(
            f"no worker answered in {self._config.routing.retries + 1} attempts; try again shortly",
            retry_after_s=5.0,
        )

    def _reserve(
        self, request: GenerateRequest, prompt: Prompt, text: str, exclude: frozenset[WorkerId]
    ) -> Route:
        now_s = self._clock()
        # here, since the directory may be away: what was sent long ago counts no more, and is let go
        self.directory.expire(now_s)
        first = prompt.segments[0]
        documents = [s.key for s in prompt.segments if s.kind is SegmentKind.DOCUMENT]
        asked = RouteRequest(
            prompt_tokens=prompt.tokens,
            text=text,
            first_document=documents[0] if documents else first.key,
            shared_tokens=len(first.token_ids) if first.domain == PUBLIC else 0,
        )
        route = self._router.route(asked, self._candidates(prompt, exclude), self._rng, now_s)
        self._reservations.reserve(request.request_id, route.worker, route.prefill_s, now_s)
        self.directory.expect(
            route.worker,
            prompt.path,
            request.request_id,
            now_s,
            self._config.routing.optimistic_ttl_s,
            prefill_s=route.prefill_s,
        )
        self.routed[route.worker] = self.routed.get(route.worker, 0) + 1
        return route

    def _candidates(self, prompt: Prompt, exclude: frozenset[WorkerId]) -> list[Candidate]:
        now_s = self._clock()
        residency = self.directory.locate(prompt.path)
        candidates: list[Candidate] = []
        for worker, info in self.directory.workers.items():
            if worker in exclude or self._is_dead(worker, now_s):
                continue
            load = self.directory.load(worker)
            open_requests = self._reservations.open_requests(worker, now_s)
            candidates.append(
                Candidate(
                    worker=worker,
                    residency=residency.get(worker, Residency()),
                    queue_s=queue_s(info.profile, load, self._reservations.backlog_s(worker, now_s)),
                    running=max(load.running, open_requests),
                    profile=info.profile,
                    accepting=open_requests < self._config.workers.max_ongoing,
                )
            )
        return candidates

    async def _wait_for_workers(self) -> None:
        deadline_s = self._clock() + WORKER_WAIT_S
        while all(self._is_dead(worker, self._clock()) for worker in self.directory.workers):
            if self._clock() > deadline_s:
                raise Unavailable("no worker is up; see `mygo status`", retry_after_s=10.0)
            await asyncio.sleep(0.1)

    def _over(self, request: RequestId, worker: WorkerId, lost: bool) -> None:
        """The request has ended; its path counts as held until the worker's last report is in."""
        self._reservations.finish(request)
        self.directory.settled(request, self._clock() + SETTLE_S)
        if lost and not self._is_dead(worker, self._clock()):
            self._dead[worker] = self._clock()
            self._remote_directory.forget.remote(worker)

    def _is_dead(self, worker: WorkerId, now_s: float) -> bool:
        """A worker that was lost moments ago. One that the directory still knows later was alive."""
        return now_s - self._dead.get(worker, float("-inf")) < DEAD_S
