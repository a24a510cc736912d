"""A worker joins, tells a snapshot, then what changes; and all of it again when the directory lost track."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from mygo.directory import Applied
from mygo.serve import reporting
from mygo.types import ProfileGrid, WorkerId, WorkerInfo, WorkerLoad, WorkerReport

INFO = WorkerInfo(WorkerId("w"), "e", "m", 16, 1024, 512, ProfileGrid((0,), (1,), ((0.1,),)))


class Source:
    """Numbers its reports."""

    def __init__(self) -> None:
        self._sequence = 0

    def _report(self, snapshot: bool) -> WorkerReport:
        self._sequence += 1
        return WorkerReport(WorkerId("w"), "e", self._sequence - 1, (), WorkerLoad(), snapshot=snapshot)

    async def snapshot(self) -> WorkerReport:
        return self._report(True)

    async def next_report(self, heartbeat_s: float | None = None) -> WorkerReport:
        return self._report(False)


def cancel_this_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


class Directory:
    """Answers as scripted, an exception included, and ends the test when the script does."""

    def __init__(self, answers: list[Applied | BaseException]) -> None:
        self._answers = answers
        self.heard: list[str] = []
        self.join = SimpleNamespace(remote=self._join)
        self.report = SimpleNamespace(remote=self._report)

    async def _join(self, info: WorkerInfo) -> None:
        assert info is INFO
        self.heard.append("join")

    async def _report(self, report: WorkerReport) -> Applied:
        self.heard.append(f"snapshot {report.sequence}" if report.snapshot else f"report {report.sequence}")
        if not self._answers:
            cancel_this_task()
            await asyncio.sleep(0)
        answer = self._answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "REPORT_INTERVAL_S", 0.0)
    monkeypatch.setattr(reporting, "HEARTBEAT_S", 0.0)


def _heard(*answers: Applied | BaseException) -> list[str]:
    directory: Any = Directory(list(answers))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(reporting.keep_reporting(directory, INFO, Source()))
    heard: list[str] = directory.heard
    return heard


def test_worker_joins_and_tells_a_snapshot_then_changes() -> None:
    assert _heard(Applied.APPLIED, Applied.DUPLICATE) == ["join", "snapshot 0", "report 1", "report 2"]


@pytest.mark.parametrize(
    "lost", [each for each in Applied if each not in (Applied.APPLIED, Applied.DUPLICATE)]
)
def test_worker_introduces_itself_again_when_the_directory_lost_track(lost: Applied) -> None:
    assert _heard(Applied.APPLIED, lost) == ["join", "snapshot 0", "report 1", "join", "snapshot 2"]


@pytest.mark.parametrize("lost", [RuntimeError("replaced"), asyncio.CancelledError("its task was")])
def test_worker_introduces_itself_again_when_the_directory_was_away(lost: BaseException) -> None:
    heard = _heard(Applied.APPLIED, lost, Applied.APPLIED)
    assert heard == ["join", "snapshot 0", "report 1", "join", "snapshot 2", "report 3"]
