"""Where the plugin's socket would be: reports that stay in the process, numbered as a worker's are."""

from __future__ import annotations

from collections.abc import Iterable

from mygo.types import ResidencyEvent, WorkerId, WorkerLoad, WorkerReport
from mygo.vllm_plugin.residency import ResidencyLog


class InProcessReports:
    """A ``ReportSink``: takes what the connector publishes and hands it out on request."""

    def __init__(self, worker: WorkerId, epoch: str) -> None:
        self._worker = worker
        self._epoch = epoch
        self._log = ResidencyLog()
        self._load = WorkerLoad()
        self._sequence = 0

    def publish(self, events: Iterable[ResidencyEvent], load: WorkerLoad) -> None:
        """What the cache holds has changed, or the load has. Statements coalesce until ``take``."""
        self._log.record(events)
        self._load = load

    def close(self) -> None:
        """Nothing is open."""

    def take(self, *, snapshot: bool = False) -> WorkerReport:
        """What was not told yet; all that is held if ``snapshot``, or if it is the first report."""
        if snapshot:
            self._log.tell_all()
        events, is_all = self._log.take()
        report = WorkerReport(self._worker, self._epoch, self._sequence, events, self._load, snapshot=is_all)
        self._sequence += 1
        return report
