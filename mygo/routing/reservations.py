"""What was sent to each worker and is not done: the queue that reports do not show yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mygo.tree.profile import prefill_s
from mygo.types import Dispatch, Phase, ProfileGrid, RequestId, WorkerId, WorkerLoad


@dataclass(slots=True)
class _Open:
    """A request that was sent and has not finished."""

    prefill_s: float
    sent_s: float
    prefilling: bool = True


class _Book:
    """Open requests of one worker, oldest first."""

    def __init__(self) -> None:
        self.requests: dict[RequestId, _Open] = {}
        self.began_s = float("-inf")
        """When a prefill last ended, so that the next one began."""


class Reservations:
    """Outstanding prefill seconds and open requests per worker.

    ``prefill_expiry_s``: a reservation older than this no longer counts as backlog, so that a lost
    ``release`` cannot keep requests away from a worker for ever. ``request_expiry_s``: the same for
    ``finish`` and the number of open requests.
    """

    def __init__(self, *, prefill_expiry_s: float = 60.0, request_expiry_s: float = 600.0) -> None:
        self._prefill_expiry_s = prefill_expiry_s
        self._request_expiry_s = request_expiry_s
        self._books: dict[WorkerId, _Book] = {}
        self._workers: dict[RequestId, WorkerId] = {}
        self._mirrored: set[RequestId] = set()

    def __repr__(self) -> str:
        books = ", ".join(f"{worker}: {len(book.requests)}" for worker, book in self._books.items())
        return f"<Reservations {{{books}}}>"

    def reserve(self, request: RequestId, worker: WorkerId, prefill_s: float, now_s: float) -> None:
        """``request`` was sent to ``worker``, which will prefill for about ``prefill_s``. Replaces an
        earlier reservation of the same request (a retry elsewhere)."""
        self.finish(request)
        self._workers[request] = worker
        self._books.setdefault(worker, _Book()).requests[request] = _Open(prefill_s, now_s)

    def release(self, request: RequestId, now_s: float) -> None:
        """Its first token came: its prefill is over, the next in line began."""
        worker = self._workers.get(request)
        if worker is None:
            return
        book = self._books[worker]
        if book.requests[request].prefilling:
            book.requests[request].prefilling = False
            book.began_s = now_s

    def finish(self, request: RequestId) -> None:
        """It ended, in whatever way. Unknown requests are ignored."""
        worker = self._workers.pop(request, None)
        self._mirrored.discard(request)
        if worker is not None:
            book = self._books[worker]
            del book.requests[request]
            if not book.requests:
                del self._books[worker]

    def mirror(self, dispatches: Iterable[Dispatch], now_s: float) -> None:
        """Take over what sibling ingress replicas have open: this replaces what they had before."""
        listed = {each.request: each for each in dispatches if each.phase is not Phase.DONE}
        for request in self._mirrored - listed.keys():
            self.finish(request)
        for request, each in listed.items():
            if request not in self._workers or (
                request in self._mirrored and self._workers[request] != each.worker
            ):
                self.reserve(request, each.worker, each.prefill_s, each.sent_s)
                self._mirrored.add(request)
            if request in self._mirrored and each.phase is Phase.DECODE:
                self.release(request, now_s)

    def backlog_s(self, worker: WorkerId, now_s: float) -> float:
        """Predicted prefill seconds still ahead of a new request; never negative.

        A worker prefills its requests one after another, so the oldest is credited with the time
        since it began; the others have not begun.
        """
        book = self._books.get(worker)
        if book is None:
            return 0.0
        waiting = [
            each
            for each in book.requests.values()
            if each.prefilling and now_s - each.sent_s < self._prefill_expiry_s
        ]
        if not waiting:
            return 0.0
        oldest = min(waiting, key=lambda each: each.sent_s)
        spent_s = now_s - max(oldest.sent_s, book.began_s)
        credit_s = min(max(spent_s, 0.0), oldest.prefill_s)
        return sum(each.prefill_s for each in waiting) - credit_s

    def booked(self, worker: WorkerId) -> int:
        """Like ``open_requests``, but expired ones count too: cheap enough for a scan of all workers."""
        book = self._books.get(worker)
        return len(book.requests) if book is not None else 0

    def open_requests(self, worker: WorkerId, now_s: float) -> int:
        """Requests sent to ``worker`` that have not finished, to compare with ``max_ongoing``."""
        book = self._books.get(worker)
        if book is None:
            return 0
        return sum(now_s - each.sent_s < self._request_expiry_s for each in book.requests.values())


def queue_s(profile: ProfileGrid, load: WorkerLoad, backlog_s: float) -> float:
    """Predicted seconds until a worker could begin another prefill.

    The larger of two views, for a router that has just come: the worker's report is late, the
    reservations know only what this router (and its siblings) sent. Reported tokens are priced at
    the measured cost per token of the profile's largest uncached prefill.
    """
    if load.queued_tokens <= 0:
        return backlog_s
    priced_tokens = min(load.queued_tokens, profile.new_tokens[-1])
    reported_s = prefill_s(profile, 0, priced_tokens) * load.queued_tokens / priced_tokens
    return max(reported_s, backlog_s)
