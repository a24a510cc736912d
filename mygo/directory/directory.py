"""``Directory``: sequenced reports in, residency per prompt out, versioned changes for replicas."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from mygo.directory.tree import Link, SegmentTree
from mygo.types import (
    Dispatch,
    PathStep,
    Phase,
    RequestId,
    Residency,
    ResidencyEvent,
    SegmentKey,
    Tier,
    WorkerId,
    WorkerInfo,
    WorkerLoad,
    WorkerReport,
)


class Applied(StrEnum):
    """What became of a report, hence what its receiver should do next."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    """Its sequence was seen before; nothing changed, nothing to do."""
    GAP = "gap"
    """Reports are missing: what the worker held is forgotten; ask it for a snapshot."""
    UNKNOWN = "unknown"
    """Worker or epoch never joined: nothing changed; ask it for its info, join it, ask for a snapshot."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Withdrawn:
    request: RequestId


Announcement = Dispatch | Withdrawn
"""What an ingress tells of its own requests."""
Change = WorkerInfo | WorkerReport | Forgotten | Announcement
"""One accepted change. A directory is a deterministic function of the changes it was given."""


@dataclass(frozen=True, slots=True)
class Version:
    """Counts the changes of one directory; another incarnation's numbers mean nothing to it."""

    incarnation: str
    number: int


@dataclass(frozen=True, slots=True)
class Delta:
    """The changes with numbers ``since + 1 .. version.number``."""

    since: int
    version: Version
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class WorkerState:
    """All that a directory knows of one worker."""

    info: WorkerInfo
    sequence: int
    synced: bool
    load: WorkerLoad
    held: tuple[ResidencyEvent, ...]


@dataclass(frozen=True, slots=True)
class Full:
    """A whole directory at one version."""

    version: Version
    workers: tuple[WorkerState, ...]
    links: tuple[Link, ...]
    dispatches: tuple[Dispatch, ...]


Changes = Delta | Full


@dataclass(slots=True)
class _Worker:
    info: WorkerInfo
    sequence: int = -1
    """Of the last applied report; an epoch's first report has sequence 0."""
    synced: bool = True
    """False from a gap to the next snapshot: nothing of it counts."""
    load: WorkerLoad = field(default_factory=WorkerLoad)
    keys: set[SegmentKey] = field(default_factory=set)


class Directory:
    """The cluster's view of all caches. Not thread-safe; calls neither block nor read a clock.

    ``incarnation`` names this directory among earlier ones, so that their replicas notice a restart.
    ``log_limit`` bounds the changes kept for replicas; one that lags further gets everything anew.
    """

    def __init__(self, incarnation: str, *, log_limit: int = 4096) -> None:
        self._incarnation = incarnation
        self._number = 0
        self._log: deque[Change] = deque(maxlen=log_limit)
        self._tree = SegmentTree()
        self._workers: dict[WorkerId, _Worker] = {}
        self._dispatches: dict[RequestId, Dispatch] = {}

    def __repr__(self) -> str:
        waiting = sum(not worker.synced for worker in self._workers.values())
        held = sum(len(worker.keys) for worker in self._workers.values())
        return (
            f"<Directory {self._incarnation}@{self._number}: {len(self._workers)} workers "
            f"({waiting} awaiting a snapshot), {len(self._tree)} segments, {held} holdings, "
            f"{len(self._dispatches)} dispatches>"
        )

    # --- workers and their reports -------------------------------------------------------------

    def join(self, info: WorkerInfo) -> None:
        """Admit a worker. Another epoch than before means that its cache and requests are gone;
        the same epoch again only renews ``info`` (say, a refitted profile)."""
        worker = self._workers.get(info.worker)
        if worker is not None and worker.info.epoch == info.epoch:
            if worker.info == info:
                return
            worker.info = info
        else:
            self._remove(info.worker)
            self._workers[info.worker] = _Worker(info)
        self._record(info)

    def apply(self, report: WorkerReport) -> Applied:
        """Take one report; a snapshot replaces all that was known and ends a gap.

        An epoch that is not the joined one is never applied: a late report of a dead engine costs
        one needless question to its successor, a restarted engine is never credited with a dead
        one's cache.
        """
        worker = self._workers.get(report.worker)
        if worker is None or worker.info.epoch != report.epoch:
            return Applied.UNKNOWN
        if report.sequence <= worker.sequence:
            return Applied.DUPLICATE
        if report.snapshot:
            self._drop_holdings(worker)
            worker.synced = True
        elif not worker.synced:
            return Applied.GAP
        elif report.sequence != worker.sequence + 1:
            self._drop_holdings(worker)
            worker.synced = False
            self._record(report)
            return Applied.GAP
        worker.sequence = report.sequence
        worker.load = report.load
        for event in report.events:
            if event.prefix_tokens > 0:
                self._tree.hold(report.worker, event)
                worker.keys.add(event.key)
            elif event.key in worker.keys:
                worker.keys.remove(event.key)
                self._tree.drop(report.worker, event.key)
        self._record(report)
        return Applied.APPLIED

    def forget(self, worker: WorkerId) -> None:
        """Drop a dead or leaving worker and the requests that were sent to it. Unknown is fine."""
        if worker in self._workers:
            self._remove(worker)
            self._record(Forgotten(worker))

    @property
    def workers(self) -> Mapping[WorkerId, WorkerInfo]:
        return {name: worker.info for name, worker in self._workers.items()}

    def load(self, worker: WorkerId) -> WorkerLoad:
        """As last reported; KeyError if the worker never joined."""
        return self._workers[worker].load

    # --- what is on its way --------------------------------------------------------------------

    def expect(self, dispatch: Dispatch) -> None:
        """Count the whole path of a dispatched request as held, so that siblings in a burst follow.

        Replaces an earlier announcement of the same request (a retry elsewhere, another phase). A
        dispatch to a worker that never joined, or left meanwhile, is ignored.
        """
        known = self._dispatches.get(dispatch.request)
        if known == dispatch:
            return
        if dispatch.worker not in self._workers:
            self.unexpect(dispatch.request)
            return
        self._tree.expect(dispatch.worker, dispatch.path)
        if known is not None:
            self._tree.unexpect(known.worker, known.path)
        self._dispatches[dispatch.request] = dispatch
        self._record(dispatch)

    def unexpect(self, request: RequestId) -> None:
        """The request was cancelled or failed: from now on only its worker's events count."""
        if request in self._dispatches:
            self._withdraw(request)
            self._record(Withdrawn(request))

    def started(self, request: RequestId) -> None:
        """Its first token has come; its path stays expected until the worker's events are in."""
        known = self._dispatches.get(request)
        if known is not None:
            self.expect(replace(known, phase=Phase.DECODE))

    def settled(self, request: RequestId, until_s: float | None = None) -> None:
        """The request finished: only its worker's events count, at once or, if ``until_s`` is given,
        once ``expire`` is called at or after it (the last events may still be on their way)."""
        known = self._dispatches.get(request)
        if known is None:
            return
        if until_s is None:
            self.unexpect(request)
        else:
            self.expect(replace(known, phase=Phase.DONE, expires_s=min(known.expires_s, until_s)))

    def expire(self, now_s: float) -> None:
        """Withdraw dispatches whose time is up."""
        due = [request for request, known in self._dispatches.items() if known.expires_s <= now_s]
        for request in due:
            self.unexpect(request)

    @property
    def dispatches(self) -> Mapping[RequestId, Dispatch]:
        """Announced requests that are neither withdrawn nor expired; a live, read-only view."""
        return MappingProxyType(self._dispatches)

    # --- questions -----------------------------------------------------------------------------

    def locate(self, path: Sequence[PathStep]) -> dict[WorkerId, Residency]:
        """Leading prompt tokens that each worker can reuse, by tier, in whole blocks.

        Workers that hold nothing are left out. At most the blocks before the prompt's last token
        count, since an engine always recomputes that one.
        """
        if not path:
            return {}
        by_block: dict[int, set[WorkerId]] = {}
        for name, worker in self._workers.items():
            if worker.synced:
                by_block.setdefault(worker.info.block_tokens, set()).add(name)
        located: dict[WorkerId, Residency] = {}
        for block_tokens, workers in by_block.items():
            located.update(self._tree.locate(path, block_tokens, workers))
        return located

    def held_tokens(self, worker: WorkerId) -> dict[Tier, int]:
        """Tokens that a worker reported as held, each counted once, by the slowest tier of their segment's
        held blocks; KeyError if it never joined."""
        tokens = dict.fromkeys(Tier, 0)
        for event in self._held(worker):
            tokens[event.tier] += max(0, event.prefix_tokens - event.start_tokens)
        return tokens

    def holders(self, key: SegmentKey) -> frozenset[WorkerId]:
        """Workers that hold some of a segment, or are expected to."""
        node = self._tree.get(key)
        return frozenset() if node is None else frozenset(node.holders) | frozenset(node.expected)

    # --- copies --------------------------------------------------------------------------------

    @property
    def version(self) -> Version:
        return Version(self._incarnation, self._number)

    def snapshot(self) -> Full:
        workers = tuple(
            WorkerState(worker.info, worker.sequence, worker.synced, worker.load, self._held(name))
            for name, worker in self._workers.items()
        )
        return Full(self.version, workers, self._tree.links(), tuple(self._dispatches.values()))

    @classmethod
    def from_snapshot(cls, full: Full, *, log_limit: int = 4096) -> Directory:
        """A directory that equals the one ``full`` was taken of, and goes on counting from there."""
        directory = cls(full.version.incarnation, log_limit=log_limit)
        directory._number = full.version.number
        directory._tree = SegmentTree(full.links)
        for state in full.workers:
            keys = {event.key for event in state.held}
            directory._workers[state.info.worker] = _Worker(
                state.info, state.sequence, state.synced, state.load, keys
            )
            for event in state.held:
                directory._tree.hold(state.info.worker, event)
        for dispatch in full.dispatches:
            directory._tree.expect(dispatch.worker, dispatch.path)
            directory._dispatches[dispatch.request] = dispatch
        return directory

    def changes_since(self, version: Version | None) -> Changes:
        """What a replica at ``version`` lacks; everything if it has nothing, lags more than the log
        reaches back, or followed another incarnation."""
        if version is None or version.incarnation != self._incarnation:
            return self.snapshot()
        missing = self._number - version.number
        if not 0 <= missing <= len(self._log):
            return self.snapshot()
        changes = tuple(self._log[index] for index in range(len(self._log) - missing, len(self._log)))
        return Delta(version.number, self.version, changes)

    def replay(self, change: Change) -> None:
        """Apply a change that another directory accepted."""
        match change:
            case WorkerInfo():
                self.join(change)
            case WorkerReport():
                self.apply(change)
            case Dispatch():
                self.expect(change)
            case Forgotten(worker):
                self.forget(worker)
            case Withdrawn(request):
                self.unexpect(request)

    def check(self) -> None:
        """Assert the invariants; for tests."""
        self._tree.check()
        held: dict[WorkerId, set[SegmentKey]] = {name: set() for name in self._workers}
        expected: dict[tuple[SegmentKey, WorkerId], int] = {}
        for node in self._tree:
            for name in node.holders:
                held[name].add(node.key)
            expected.update({(node.key, name): count for name, count in node.expected.items()})
        for name, worker in self._workers.items():
            assert held[name] == worker.keys, f"{name}: {held[name] ^ worker.keys}"
            assert worker.synced or not worker.keys, f"{name} holds something before its snapshot"
        for dispatch in self._dispatches.values():
            assert dispatch.worker in self._workers, dispatch
            for step in dispatch.path:
                expected[step.key, dispatch.worker] -= 1
        assert not any(expected.values()), expected

    # --- internals -----------------------------------------------------------------------------

    def _record(self, change: Change) -> None:
        self._number += 1
        self._log.append(change)

    def _held(self, name: WorkerId) -> tuple[ResidencyEvent, ...]:
        nodes = (self._tree.get(key) for key in self._workers[name].keys)
        return tuple(node.holders[name] for node in nodes if node is not None)

    def _drop_holdings(self, worker: _Worker) -> None:
        for key in worker.keys:
            self._tree.drop(worker.info.worker, key)
        worker.keys.clear()

    def _remove(self, name: WorkerId) -> None:
        worker = self._workers.get(name)
        if worker is None:
            return
        self._drop_holdings(worker)
        for request in [known.request for known in self._dispatches.values() if known.worker == name]:
            self._withdraw(request)
        del self._workers[name]

    def _withdraw(self, request: RequestId) -> None:
        known = self._dispatches.pop(request)
        self._tree.unexpect(known.worker, known.path)
