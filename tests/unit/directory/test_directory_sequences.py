"""Outcomes of reports, dispatches' lives, and what replicas see: one behaviour per test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mygo.directory import Applied, Delta, Directory, Full, Replica, Synced
from mygo.types import (
    Dispatch,
    PathStep,
    Phase,
    RequestId,
    Residency,
    ResidencyEvent,
    WorkerId,
    WorkerInfo,
    WorkerLoad,
    WorkerReport,
)

W = WorkerId("w0")
R = RequestId("r")
Info = Callable[..., WorkerInfo]
Path = Callable[..., tuple[PathStep, ...]]


def held(steps: tuple[PathStep, ...]) -> tuple[ResidencyEvent, ...]:
    """Statements that all of a path is held, in blocks of 4."""
    return tuple(
        ResidencyEvent(
            step.key,
            steps[i - 1].key if i else None,
            step.start_tokens,
            step.end_tokens,
            step.end_tokens // 4 * 4,
            complete=True,
        )
        for i, step in enumerate(steps)
        if step.end_tokens // 4 > step.start_tokens // 4
    )


def gone(event: ResidencyEvent) -> ResidencyEvent:
    return ResidencyEvent(event.key, event.parent, event.start_tokens, event.end_tokens, 0, complete=False)


def report(
    sequence: int, events: tuple[ResidencyEvent, ...] = (), *, epoch: str = "e0", snapshot: bool = False
) -> WorkerReport:
    return WorkerReport(W, epoch, sequence, events, WorkerLoad(waiting=sequence), snapshot)


def dispatch(path: tuple[PathStep, ...], *, expires_s: float = 30.0) -> Dispatch:
    return Dispatch(R, W, path, 1.0, 0.0, expires_s)


@pytest.fixture
def directory(worker_info: Info) -> Directory:
    directory = Directory("d")
    directory.join(worker_info())
    return directory


def test_report_is_unknown_when_worker_or_epoch_never_joined(directory: Directory, path_of: Path) -> None:
    path = path_of(("doc", 9))
    assert Directory("d").apply(report(0, held(path))) is Applied.UNKNOWN
    assert directory.apply(report(0, held(path), epoch="other", snapshot=True)) is Applied.UNKNOWN
    assert directory.locate(path) == {}


def test_report_is_ignored_when_its_sequence_was_seen(directory: Directory, path_of: Path) -> None:
    path = path_of(("doc", 9))
    directory.apply(report(0, held(path)))
    assert directory.apply(report(0)) is Applied.DUPLICATE
    assert directory.apply(report(0, snapshot=True)) is Applied.DUPLICATE
    assert directory.locate(path) == {W: Residency(8)}


def test_worker_counts_for_nothing_when_a_report_is_missing_until_its_snapshot(
    directory: Directory, path_of: Path
) -> None:
    path = path_of(("doc", 9))
    directory.apply(report(0, held(path)))
    directory.expect(dispatch(path))
    assert directory.apply(report(2, held(path))) is Applied.GAP
    assert directory.locate(path) == {}
    assert directory.apply(report(3, held(path))) is Applied.GAP
    assert directory.locate(path) == {}
    assert "1 awaiting a snapshot" in repr(directory)
    assert directory.apply(report(4, held(path), snapshot=True)) is Applied.APPLIED
    assert directory.locate(path) == {W: Residency(8)}
    assert directory.apply(report(5)) is Applied.APPLIED
    directory.check()


def test_snapshot_replaces_everything_when_it_arrives(directory: Directory, path_of: Path) -> None:
    old, new = path_of(("old", 9)), path_of(("new", 9))
    directory.apply(report(0, held(old)))
    assert directory.apply(report(7, held(new), snapshot=True)) is Applied.APPLIED
    assert directory.locate(old) == {}
    assert directory.locate(new) == {W: Residency(8)}
    assert directory.load(W).waiting == 7


def test_cache_is_forgotten_when_worker_rejoins_with_new_epoch(
    directory: Directory, worker_info: Info, path_of: Path
) -> None:
    """Scenario: the engine dies and restarts; a report of the dead one arrives late."""
    path = path_of(("doc", 9))
    directory.apply(report(0, held(path)))
    directory.expect(dispatch(path))
    directory.join(worker_info(epoch="e1"))
    assert directory.locate(path) == {}
    assert not directory.dispatches
    assert directory.apply(report(1, held(path))) is Applied.UNKNOWN
    assert directory.apply(report(0, epoch="e1")) is Applied.APPLIED
    assert directory.locate(path) == {}
    assert len(directory.snapshot().links) == 0


def test_cache_survives_when_worker_joins_twice_with_one_epoch(
    directory: Directory, worker_info: Info, path_of: Path
) -> None:
    path = path_of(("doc", 9))
    directory.apply(report(0, held(path)))
    before = directory.version
    directory.join(worker_info())
    assert directory.version == before
    assert directory.locate(path) == {W: Residency(8)}


def test_nodes_vanish_when_nobody_holds_them(directory: Directory, path_of: Path) -> None:
    path = path_of(("a", 5), ("b", 1), ("c", 9))
    events = held(path)
    assert len(events) == 2  # b owns no block, so only c's parent link tells of it
    directory.apply(report(0, events))
    assert len(directory.snapshot().links) == 3
    directory.apply(report(1, (gone(events[1]),)))
    assert [link.key for link in directory.snapshot().links] == [path[0].key]
    directory.apply(report(2, (gone(events[0]), gone(events[0]))))
    assert not directory.snapshot().links


def test_expected_path_counts_when_dispatched_until_expired(directory: Directory, path_of: Path) -> None:
    path = path_of(("sys", 5), ("doc", 9))
    directory.expect(dispatch(path))
    assert directory.locate(path) == {W: Residency(12)}
    assert directory.holders(path[1].key) == {W}
    directory.expire(29.9)
    assert directory.locate(path) == {W: Residency(12)}
    directory.expire(30.0)
    assert directory.locate(path) == {}


def test_expected_path_gives_way_to_events_when_settled(directory: Directory, path_of: Path) -> None:
    path = path_of(("sys", 5), ("doc", 9))
    directory.expect(dispatch(path))
    directory.apply(report(0, held(path)[:1]))
    assert directory.locate(path) == {W: Residency(12)}
    directory.started(R)
    assert directory.dispatches[R].phase is Phase.DECODE
    directory.settled(R, until_s=5.0)
    assert directory.dispatches[R].phase is Phase.DONE
    assert directory.locate(path) == {W: Residency(12)}
    directory.expire(5.0)
    assert directory.locate(path) == {W: Residency(4)}


def test_expectation_moves_when_the_request_is_retried_elsewhere(
    directory: Directory, worker_info: Info, path_of: Path
) -> None:
    path = path_of(("doc", 9))
    other = WorkerId("w1")
    directory.join(worker_info("w1"))
    directory.expect(dispatch(path))
    directory.expect(Dispatch(R, other, path, 1.0, 0.0, 30.0))
    assert directory.locate(path) == {other: Residency(8)}
    directory.forget(other)
    directory.expect(Dispatch(R, other, path, 1.0, 0.0, 30.0))
    assert directory.locate(path) == {}
    directory.check()


def test_replica_gets_everything_when_it_lags_behind_the_log(worker_info: Info, path_of: Path) -> None:
    directory = Directory("d", log_limit=2)
    directory.join(worker_info())
    replica = Replica()
    assert replica.follow(directory.changes_since(None)) is Synced.APPLIED
    for sequence in range(2):
        directory.apply(report(sequence, held(path_of((f"doc{sequence}", 9)))))
    assert isinstance(directory.changes_since(replica.version), Delta)
    directory.apply(report(2))
    full = directory.changes_since(replica.version)
    assert isinstance(full, Full)
    assert replica.follow(full) is Synced.APPLIED
    assert replica.follow(full) is Synced.STALE
    assert replica.locate(path_of(("doc1", 9))) == {W: Residency(8)}


def test_replica_starts_over_when_the_directory_was_restarted(worker_info: Info, path_of: Path) -> None:
    """Scenario: the new directory has counted to the very number that the replica had reached."""
    path = path_of(("doc", 9))
    old, new, replica = Directory("old"), Directory("new"), Replica()
    for directory in (old, new):
        directory.join(worker_info())
    old.apply(report(0, held(path)))
    new.apply(report(0))
    replica.follow(old.changes_since(None))
    assert replica.version is not None
    delta = new.changes_since(new.version)
    assert replica.follow(delta) is Synced.GAP
    full = new.changes_since(replica.version)
    assert isinstance(full, Full)
    replica.follow(full)
    assert replica.locate(path) == {}


def test_own_dispatches_survive_when_the_replica_starts_over(directory: Directory, path_of: Path) -> None:
    path = path_of(("doc", 9))
    replica = Replica()
    replica.follow(directory.snapshot())
    replica.expect(W, path, R, 0.0, 30.0)
    directory.apply(report(0))
    assert replica.follow(directory.snapshot()) is Synced.APPLIED
    assert replica.locate(path) == {W: Residency(8)}
    replica.check()


def test_siblings_learn_of_a_dispatch_when_it_is_announced(directory: Directory, path_of: Path) -> None:
    path = path_of(("doc", 9))
    sender, sibling = Replica(), Replica()
    for replica in (sender, sibling):
        replica.follow(directory.snapshot())

    def exchange() -> None:
        for change in sender.announcements():
            directory.replay(change)
        for replica in (sender, sibling):
            replica.follow(directory.changes_since(replica.version))
            replica.check()

    sender.expect(W, path, R, 0.0, 30.0, prefill_s=2.0)
    exchange()
    assert sibling.locate(path) == sender.locate(path) == {W: Residency(8)}
    assert [each.prefill_s for each in sibling.siblings()] == [2.0]
    assert sender.siblings() == []
    sender.started(R)
    exchange()
    assert [each.phase for each in sibling.siblings()] == [Phase.DECODE]
    sender.settled(R, until_s=3.0)
    exchange()
    assert [each.phase for each in sibling.siblings()] == [Phase.DONE]
    sender.settled(R)
    exchange()
    assert sibling.siblings() == []
    assert sibling.locate(path) == sender.locate(path) == {}


def test_own_settlement_stands_when_an_older_echo_arrives(directory: Directory, path_of: Path) -> None:
    """Scenario: the directory's echo of a dispatch comes after its first token was seen here."""
    path = path_of(("doc", 9))
    replica = Replica()
    replica.follow(directory.snapshot())
    replica.expect(W, path, R, 0.0, 30.0)
    for change in replica.announcements():
        directory.replay(change)
    replica.started(R)
    replica.follow(directory.changes_since(replica.version))
    assert [change.phase for change in replica.announcements() if isinstance(change, Dispatch)] == [
        Phase.DECODE
    ]


def test_own_dispatch_is_dropped_when_its_worker_is_forgotten(directory: Directory, path_of: Path) -> None:
    path = path_of(("doc", 9))
    replica = Replica()
    replica.follow(directory.snapshot())
    replica.expect(W, path, R, 0.0, 30.0)
    replica.announcements()
    directory.forget(W)
    replica.follow(directory.changes_since(replica.version))
    assert replica.locate(path) == {}
    replica.expect(W, path, R, 0.0, 30.0)
    assert replica.announcements() == ()
    replica.check()
