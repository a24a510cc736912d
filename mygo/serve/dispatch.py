"""Sends a prompt to the worker that serves it soonest, and to another one if that worker dies.

What is decided lies in ``routing.RoutingDesk``, over this ingress's copy of the cache directory; here
is what must be awaited: keeping the copy fresh, sending, and losing workers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Protocol

from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from mygo.config import Config
from mygo.directory import Announcement, Replica
from mygo.errors import Misdirected, Unavailable, WorkerLost
from mygo.routing import RoutingDesk
from mygo.serve.calls import (
    DIRECTORY_ANSWER_S,
    abandon,
    is_loss,
    raise_cause,
    raised_there,
    reply,
    unpack,
)
from mygo.serve.vanished import OpenStreams
from mygo.speculation import Quote
from mygo.types import (
    GenerateRequest,
    PrefillStats,
    Prompt,
    RequestId,
    Route,
    TokenDelta,
    WorkerId,
)

logger = logging.getLogger(__name__)

FOLLOW_WAIT_S = 5.0
FOLLOW_WITH_SIBLINGS_S = 0.02
FOLLOW_INTERVAL_S = 0.5
"""Pause between two updates from the directory. A call between replicas costs milliseconds of CPU, and
what this ingress sent it knows by itself."""
FOLLOW_RETRY_S = 0.5
MAX_ANNOUNCED = 4096
"""Announcements kept for a directory that is away; older ones time out there by themselves."""
WORKER_WAIT_S = 30.0
"""How long a request waits for a worker to appear when there is none at all."""


class Generating(Protocol):
    """A generation whose first token is there; iterating yields it first.

    ``aclose`` aborts it in the engine, also if the iteration never began.
    """

    @property
    def route(self) -> Route: ...

    @property
    def attempts(self) -> int: ...

    @property
    def prefill(self) -> PrefillStats | None:
        """As far as the engine has told; with the last token it may tell more."""
        ...

    def __aiter__(self) -> AsyncIterator[TokenDelta]: ...

    async def __anext__(self) -> TokenDelta: ...

    async def aclose(self) -> None: ...


class Generation:
    """A ``Generating`` that reads as it is read. Not an async generator: one that was never started would
    skip its clean-up."""

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
            delta = unpack(await anext(self._stream))
        except StopAsyncIteration:
            self._finish(lost=False)
            raise
        except (Exception, asyncio.CancelledError) as error:
            lost = is_loss(error)
            if isinstance(error, asyncio.CancelledError) and not lost:
                raise  # ours: whoever cancels closes it
            abandon(self._stream)  # it may be here that it failed: the engine must not compute on for nobody
            self._finish(lost=lost and _is_workers(error))
            if not lost:
                raise_cause(error)
            raise WorkerLost(
                "the worker died while it was answering: what was sent is all there is; ask again"
            ) from error
        self.prefill = delta.prefill or self.prefill
        return delta

    async def aclose(self) -> None:
        if self._over is not None:
            abandon(self._stream)
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
        self._open = OpenStreams(clock)
        self.directory = Replica()
        self._desk = RoutingDesk(self.directory, config.routing, config.workers.max_ongoing, rng)

    @property
    def routed(self) -> Mapping[WorkerId, int]:
        """Requests sent to each worker so far."""
        return self._desk.routed

    async def follow(self) -> None:
        """Keep the local copy of the directory up to date, and tell it what was sent, for ever."""
        has_siblings = self._config.http.ingress_replicas > 1
        announced: tuple[Announcement, ...] = ()
        while True:
            fresh = self.directory.announcements()
            if has_siblings:  # what a directory that is away did not hear is told again
                announced = (announced + fresh)[-MAX_ANNOUNCED:]
            try:
                asked = self._remote_directory.sync.remote(self.directory.version, announced, FOLLOW_WAIT_S)
                changes = await reply(asked, "directory", FOLLOW_WAIT_S + DIRECTORY_ANSWER_S)
            except Exception as error:
                # go on with the copy: hints may be stale, answers are not
                logger.warning("directory is away, keeping the last known state: %s", error)
                await asyncio.sleep(FOLLOW_RETRY_S)
                continue
            announced = ()
            try:
                self.directory.follow(changes)
                self._desk.mirror(self.directory.siblings(), self._clock())
                self._open.give_up_unknown(self.directory.workers)
            except Exception:
                # a bug, but a view that no longer follows would be stale for ever: begin anew
                logger.exception("cannot apply the directory's changes, asking for everything")
                self.directory = self._desk.view = Replica()
            # siblings must hear of a dispatch soon; alone, we know our own
            await asyncio.sleep(FOLLOW_WITH_SIBLINGS_S if has_siblings else FOLLOW_INTERVAL_S)

    def price_s(self, prompt: Prompt) -> float:
        """See ``RoutingDesk.price_s``."""
        return self._desk.price_s(prompt, self._clock())

    def quote(self, prompt: Prompt) -> Quote | None:
        """See ``RoutingDesk.quote_early``."""
        step_tokens = self._config.model.step_tokens
        return self._desk.quote_early(prompt, self._clock(), step_tokens=step_tokens)

    async def start(self, request: GenerateRequest, prompt: Prompt, text: str) -> Generation:
        """Route, send, and wait for the first token, on another worker if one dies before that.

        Raises Unavailable if no worker could be reached, or what the worker itself raised.
        """
        tried: set[WorkerId] = set()
        attempts = 0
        while attempts <= self._config.routing.retries:
            await self._wait_for_workers()
            route = self._desk.reserve(request.request_id, prompt, text, self._clock(), tried)
            stream = self._workers.generate.remote(request, worker=route.worker)
            self._open.add(route.worker, stream)
            over = partial(self._over, request.request_id, route.worker, stream)
            try:
                first = unpack(await anext(stream))
            except BaseException as error:
                lost = is_loss(error)
                over(lost and _is_workers(error), has_begun=False)
                abandon(stream)  # also when lost: a worker that is only out of reach must not compute on
                if not lost:
                    raise_cause(error)
                logger.warning("worker %s lost before the first token: %r", route.worker, error)
                tried.add(route.worker)
                attempts += not _is_misdirected(error)  # that was none; and no worker is tried twice
                continue
            self._desk.first_token(request.request_id, self._clock())
            return Generation(route, first, stream, over, attempts + 1)
        raise Unavailable(
            f"no worker answered in {self._config.routing.retries + 1} attempts; try again shortly",
            retry_after_s=5.0,
        )

    async def _wait_for_workers(self) -> None:
        deadline_s = self._clock() + WORKER_WAIT_S
        while not self._desk.has_workers(self._clock()):
            if self._clock() > deadline_s:
                raise Unavailable("no worker is up; see `mygo status`", retry_after_s=10.0)
            await asyncio.sleep(0.1)

    def _over(
        self,
        request: RequestId,
        worker: WorkerId,
        stream: DeploymentResponseGenerator,
        lost: bool,
        *,
        has_begun: bool = True,
    ) -> None:
        self._open.discard(worker, stream)
        self._desk.over(request, self._clock(), has_begun=has_begun)
        if lost and self._desk.lose(worker, self._clock()):
            self._remote_directory.forget.remote(worker)


def _is_workers(error: BaseException) -> bool:
    """Whether it tells anything of the worker. That a call was cancelled may be Serve's doing, of calls that
    wait to be assigned when their client goes away; and one that Serve does not list may just be starting:
    the directory itself forgets those that are gone."""
    return not (isinstance(error, asyncio.CancelledError) or _is_misdirected(error))


def _is_misdirected(error: BaseException) -> bool:
    return isinstance(raised_there(error), Misdirected)
