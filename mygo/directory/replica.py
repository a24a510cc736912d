"""``Replica``: a directory's copy in an ingress, ahead of it by what this ingress itself has sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from enum import StrEnum

from mygo.directory.directory import Announcement, Changes, Directory, Full, Version, Withdrawn
from mygo.types import (
    Dispatch,
    PathStep,
    RequestId,
    Residency,
    SegmentKey,
    Tier,
    WorkerId,
    WorkerInfo,
    WorkerLoad,
)

_OUTBOX_LIMIT = 4096
"""Announcements kept for a directory that is away; older ones are lost, and time out there."""


class Synced(StrEnum):
    """What became of an update."""

    APPLIED = "applied"
    STALE = "stale"
    """It holds nothing new."""
    GAP = "gap"
    """Changes are missing before it: nothing changed; ask for ``changes_since(replica.version)``."""


class Replica:
    """Answers like the directory it follows, plus this ingress's own dispatches.

    Own dispatches are known here before the directory hears of them and are final here: whatever
    echo of them an update brings is older, and is skipped. ``announcements`` is what the directory
    must be told of them (``Directory.replay``), so that the sibling replicas learn of it.
    """

    def __init__(self) -> None:
        self._view = Directory("none", log_limit=0)
        self._version: Version | None = None
        self._own: set[RequestId] = set()
        self._outbox: deque[Announcement] = deque(maxlen=_OUTBOX_LIMIT)

    def __repr__(self) -> str:
        return f"<Replica at {self._version}, {len(self._own)} own dispatches, of {self._view!r}>"

    @property
    def version(self) -> Version | None:
        """None until the first ``Full`` has arrived."""
        return self._version

    def follow(self, update: Changes) -> Synced:
        """Take in an update. Late, repeated and overlapping ones are harmless.

        A ``Full`` of another incarnation is always taken: the directory was restarted.
        """
        if isinstance(update, Full):
            return self._replace(update)
        if self._version is None or update.version.incarnation != self._version.incarnation:
            return Synced.GAP
        if update.version.number <= self._version.number:
            return Synced.STALE
        if update.since > self._version.number:
            return Synced.GAP
        for change in update.changes[self._version.number - update.since :]:
            if not (isinstance(change, Dispatch | Withdrawn) and change.request in self._own):
                self._view.replay(change)
        self._version = update.version
        self._disown_the_gone()
        return Synced.APPLIED

    def _replace(self, full: Full) -> Synced:
        if (
            self._version is not None
            and full.version.incarnation == self._version.incarnation
            and full.version.number <= self._version.number
        ):
            return Synced.STALE
        own = [self._view.dispatches[request] for request in self._own]
        self._view = Directory.from_snapshot(full, log_limit=0)
        for dispatch in own:
            self._view.expect(dispatch)
        self._version = full.version
        self._disown_the_gone()
        return Synced.APPLIED

    def expect(
        self,
        worker: WorkerId,
        path: Sequence[PathStep],
        request: RequestId,
        now_s: float,
        ttl_s: float,
        *,
        prefill_s: float = 0.0,
    ) -> None:
        """This ingress has sent ``request`` to ``worker``. See ``Directory.expect``."""
        dispatch = Dispatch(request, worker, tuple(path), prefill_s, now_s, now_s + ttl_s)
        self._view.expect(dispatch)
        if request in self._view.dispatches:
            self._own.add(request)
            self._outbox.append(dispatch)
        elif request in self._own:
            self._own.remove(request)
            self._outbox.append(Withdrawn(request))

    def started(self, request: RequestId) -> None:
        """The first token of an own request has come. See ``Directory.started``."""
        if request in self._own:
            self._view.started(request)
            self._outbox.append(self._view.dispatches[request])

    def settled(self, request: RequestId, until_s: float | None = None) -> None:
        """An own request has finished. See ``Directory.settled``."""
        if request in self._own and until_s is not None:
            self._view.settled(request, until_s)
            self._outbox.append(self._view.dispatches[request])
        else:
            self.unexpect(request)

    def unexpect(self, request: RequestId) -> None:
        """An own request was cancelled or failed. See ``Directory.unexpect``."""
        if request in self._own:
            self._view.unexpect(request)
            self._own.remove(request)
            self._outbox.append(Withdrawn(request))

    def expire(self, now_s: float) -> None:
        """Drop dispatches whose time is up, also those whose withdrawal never arrived."""
        self._view.expire(now_s)
        self._disown_the_gone()

    def announcements(self) -> tuple[Announcement, ...]:
        """What happened to own requests since the last call, oldest first."""
        announced = tuple(self._outbox)
        self._outbox.clear()
        return announced

    def siblings(self) -> list[Dispatch]:
        """Requests that other ingress replicas have on their way, for ``Reservations.mirror``."""
        return [known for request, known in self._view.dispatches.items() if request not in self._own]

    @property
    def workers(self) -> Mapping[WorkerId, WorkerInfo]:
        return self._view.workers

    def load(self, worker: WorkerId) -> WorkerLoad:
        """As last reported; KeyError if the worker never joined."""
        return self._view.load(worker)

    def locate(self, path: Sequence[PathStep]) -> dict[WorkerId, Residency]:
        """See ``Directory.locate``."""
        return self._view.locate(path)

    def held_tokens(self, worker: WorkerId) -> dict[Tier, int]:
        """See ``Directory.held_tokens``."""
        return self._view.held_tokens(worker)

    def holders(self, key: SegmentKey) -> frozenset[WorkerId]:
        """See ``Directory.holders``."""
        return self._view.holders(key)

    def check(self) -> None:
        """Assert the invariants; for tests."""
        self._view.check()
        assert self._own <= self._view.dispatches.keys(), self._own

    def _disown_the_gone(self) -> None:
        self._own &= self._view.dispatches.keys()
