"""``RoutingDesk``: everything that an ingress decides about one request, in one synchronous step.

It joins the view of all caches, the book of what was sent, and a router. The ingress of a real
cluster and the simulator each put their own clock and their own sending behind it.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from mygo.config import RoutingConfig
from mygo.routing.reservations import Reservations, queue_s
from mygo.routing.router import Router, RouteRequest, route_to
from mygo.routing.routers import ROUTERS
from mygo.speculation import Quote
from mygo.types import (
    PUBLIC,
    Candidate,
    Dispatch,
    PathStep,
    Prompt,
    RequestId,
    Residency,
    Route,
    SegmentKind,
    WorkerId,
    WorkerInfo,
    WorkerLoad,
)

SCAN_LIMIT = 32
"""Workers up to which all are priced for each request. Beyond, those that hold part of the prompt are,
and the ``LEAST_BUSY``: pricing hundreds that hold nothing would cost milliseconds and change nothing."""
LEAST_BUSY = 8
SETTLE_S = 2.0
"""How long a finished request's path still counts as held: its worker's last report is on its way."""
DEAD_S = 10.0
"""How long a lost worker is passed by; the directory has forgotten it long before."""


class ClusterView(Protocol):
    """What workers hold and do, as far as is known here; ``mygo.directory.Replica`` is one."""

    @property
    def workers(self) -> Mapping[WorkerId, WorkerInfo]: ...

    def load(self, worker: WorkerId) -> WorkerLoad: ...

    def locate(self, path: Sequence[PathStep]) -> Mapping[WorkerId, Residency]: ...

    def expect(
        self,
        worker: WorkerId,
        path: Sequence[PathStep],
        request: RequestId,
        now_s: float,
        ttl_s: float,
        *,
        prefill_s: float = 0.0,
    ) -> None: ...

    def started(self, request: RequestId) -> None: ...

    def settled(self, request: RequestId, until_s: float | None = None) -> None: ...

    def expire(self, now_s: float) -> None: ...


class RoutingDesk:
    """One per ingress replica. Choosing and reserving is one step, so that a burst of siblings sees
    its first member's choice. ``view`` may be replaced by a fresher one at any time."""

    def __init__(
        self,
        view: ClusterView,
        config: RoutingConfig,
        max_ongoing: int,
        rng: random.Random,
        router: Router | None = None,
    ) -> None:
        """``max_ongoing``: open requests from which a worker takes no more. ``router``: one that is not
        MyGO's, in place of ``config.policy``."""
        self.view = view
        self.routed: dict[WorkerId, int] = {}
        """Requests sent to each worker so far."""
        self._config = config
        self._max_ongoing = max_ongoing
        self._rng = rng
        self._router = router or ROUTERS[config.policy](config)
        self._reservations = Reservations()
        self._lost: dict[WorkerId, float] = {}

    def reserve(
        self,
        request: RequestId,
        prompt: Prompt,
        text: str,
        now_s: float,
        exclude: AbstractSet[WorkerId] = frozenset(),
    ) -> Route:
        """Choose a worker and book the request there. ``text`` is the prompt for routers that know no
        tokens. Raises Unavailable if no worker takes it."""
        # here, since the directory may be away: what was sent long ago counts no more, and is let go
        self.view.expire(now_s)
        route = self._router.route(
            _asked(prompt, text), self._candidates(prompt, now_s, exclude), self._rng, now_s
        )
        self._reservations.reserve(request, route.worker, route.prefill_s, now_s)
        self.view.expect(
            route.worker,
            prompt.path,
            request,
            now_s,
            self._config.optimistic_ttl_s,
            prefill_s=route.prefill_s,
        )
        self.routed[route.worker] = self.routed.get(route.worker, 0) + 1
        return route

    def first_token(self, request: RequestId, now_s: float) -> None:
        """Its prefill is over."""
        self._reservations.release(request, now_s)
        self.view.started(request)

    def over(self, request: RequestId, now_s: float, *, has_begun: bool = True) -> None:
        """It has ended, in whatever way. If its first token had come, its path counts as held until the
        worker's last report is in; else who knows what was computed of it."""
        self._reservations.finish(request)
        self.view.settled(request, now_s + SETTLE_S if has_begun else None)

    def lose(self, worker: WorkerId, now_s: float) -> bool:
        """The worker seems dead: pass it by for a while. False if that was known already."""
        if self._is_lost(worker, now_s):
            return False
        self._lost[worker] = now_s
        return True

    def has_workers(self, now_s: float) -> bool:
        return not all(self._is_lost(worker, now_s) for worker in self.view.workers)

    def price_s(self, prompt: Prompt, now_s: float) -> float:
        """Predicted seconds to the first token on the best worker; used to compare layouts.

        Without any worker, fewer tokens are the best guess: only the order matters.
        """
        best = self._best(self._candidates(prompt, now_s), prompt)
        return float(prompt.tokens) if best is None else best.predicted_s

    def quote(self, prompt: Prompt, now_s: float) -> Route | None:
        """What the best of the workers that take requests would make of a prompt; nothing is booked."""
        able = [each for each in self._candidates(prompt, now_s) if each.accepting]
        return self._best(able, prompt)

    def quote_early(self, prompt: Prompt, now_s: float, *, step_tokens: int) -> Quote | None:
        """What prefilling it before it is confirmed would take; None if no worker takes it.

        ``step_tokens``: most that an engine computes in one step.
        """
        route = self.quote(prompt, now_s)
        if route is None:
            return None
        return Quote.of(
            route,
            prompt.tokens,
            step_tokens=step_tokens,
            open_requests=self.open_requests(route.worker, now_s),
            workers=len(self.view.workers),
        )

    def _best(self, candidates: Iterable[Candidate], prompt: Prompt) -> Route | None:
        routes = (route_to(each, prompt.tokens) for each in candidates)
        return min(routes, key=lambda route: route.predicted_s, default=None)

    def mirror(self, dispatches: Iterable[Dispatch], now_s: float) -> None:
        """Take over what sibling ingress replicas have open. See ``Reservations.mirror``."""
        self._reservations.mirror(dispatches, now_s)

    def open_requests(self, worker: WorkerId, now_s: float) -> int:
        return self._reservations.open_requests(worker, now_s)

    def _candidates(
        self, prompt: Prompt, now_s: float, exclude: AbstractSet[WorkerId] = frozenset()
    ) -> list[Candidate]:
        residency = self.view.locate(prompt.path)
        able = [
            worker
            for worker in self.view.workers
            if worker not in exclude and not self._is_lost(worker, now_s)
        ]
        if len(able) > SCAN_LIMIT and not self._router.needs_all_workers:
            able = self._shortlist(able, residency, len(prompt.segments[0].token_ids))
        return [self._candidate(worker, residency.get(worker, Residency()), now_s) for worker in able]

    def _candidate(self, worker: WorkerId, residency: Residency, now_s: float) -> Candidate:
        info, load = self.view.workers[worker], self.view.load(worker)
        open_requests = self._reservations.open_requests(worker, now_s)
        backlog_s = self._reservations.backlog_s(worker, now_s)
        running = open_requests
        if worker not in self.routed:
            # Only a book that is new knows less than reports. Afterwards a report, which is up to two
            # intervals old, shows queues that are long gone, and all ingresses flee from the same workers.
            backlog_s = queue_s(info.profile, load, backlog_s)
            running = max(load.running, open_requests)
        return Candidate(
            worker=worker,
            residency=residency,
            queue_s=backlog_s,
            running=running,
            profile=info.profile,
            accepting=open_requests < self._max_ongoing,
            host_tokens_per_s=load.host_tokens_per_s,
            disk_tokens_per_s=load.disk_tokens_per_s,
        )

    def _shortlist(
        self, workers: Sequence[WorkerId], residency: Mapping[WorkerId, Residency], system_tokens: int
    ) -> list[WorkerId]:
        """Workers that hold more than the system prompt, and the least busy of the others.

        Among the holders the least busy come first too, so that a document that hundreds hold does not
        bring the scan back.
        """

        def busy(worker: WorkerId) -> tuple[int, int, float]:
            # the last is for ties: idle workers must not always be the same ones
            load = self.view.load(worker)
            return self._reservations.booked(worker), load.queued_tokens, self._rng.random()

        def held_tokens(worker: WorkerId) -> int:
            held = residency.get(worker)
            return held.cached_tokens if held else 0

        holders = {worker for worker in workers if held_tokens(worker) > system_tokens}
        fullest = heapq.nsmallest(
            SCAN_LIMIT, holders, key=lambda worker: (-held_tokens(worker), *busy(worker))
        )
        others = (worker for worker in workers if worker not in holders)
        return fullest + heapq.nsmallest(LEAST_BUSY, others, key=busy)

    def _is_lost(self, worker: WorkerId, now_s: float) -> bool:
        """Lost moments ago. One that the directory still knows later was alive."""
        return now_s - self._lost.get(worker, float("-inf")) < DEAD_S


def _asked(prompt: Prompt, text: str) -> RouteRequest:
    first = prompt.segments[0]
    documents = [each.key for each in prompt.segments if each.kind is SegmentKind.DOCUMENT]
    return RouteRequest(
        prompt_tokens=prompt.tokens,
        text=text,
        first_document=documents[0] if documents else first.key,
        shared_tokens=len(first.token_ids) if first.domain == PUBLIC else 0,
        reusable=prompt.path[:-1],
    )
