"""The cache directory as one Ray Serve replica: workers report to it, ingress replicas follow it.

It is on nobody's request path. If it dies, Serve starts an empty one, workers introduce themselves
again with a snapshot each, and ingress replicas go on with the copy they have meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Sequence

from mygo.directory import Announcement, Applied, Changes, Directory, Version
from mygo.types import WorkerId, WorkerInfo, WorkerReport

logger = logging.getLogger(__name__)

SILENCE_S = 20.0
"""A worker that has not reported this long is forgotten; it reports every second."""
BATCH_S = 0.02
"""Changes within this window travel to the followers as one batch."""


class DirectoryServer:
    """Deployment; every method below is called through Ray Serve handles."""

    def __init__(self) -> None:
        self._directory = Directory(incarnation=secrets.token_hex(4))
        self._changed = asyncio.Event()
        self._heard_s: dict[WorkerId, float] = {}
        self._sweep = asyncio.create_task(self._forget_the_silent())

    async def join(self, info: WorkerInfo) -> None:
        """A worker introduces itself; its snapshot follows as its next report."""
        logger.info("worker %s joins", info.worker)
        self._directory.join(info)
        self._heard_s[info.worker] = time.monotonic()
        self._announce()

    async def report(self, report: WorkerReport) -> Applied:
        """Take in one batch; anything but APPLIED or DUPLICATE asks the worker to join again."""
        self._heard_s[report.worker] = time.monotonic()
        outcome = self._directory.apply(report)
        if outcome is Applied.APPLIED:
            self._announce()
        else:
            logger.info("report %s of %s: %s", report.sequence, report.worker, outcome.name)
        return outcome

    async def forget(self, worker: WorkerId) -> None:
        """Somebody saw this worker dead. If it is not, its next report brings it back."""
        logger.info("forgetting worker %s", worker)
        self._directory.forget(worker)
        self._heard_s.pop(worker, None)
        self._announce()

    async def sync(
        self, version: Version | None, announced: Sequence[Announcement], wait_s: float
    ) -> Changes:
        """An ingress replica tells what it dispatched and gets what it lacks.

        Waits up to ``wait_s`` if it lacks nothing.
        """
        for change in announced:
            self._directory.replay(change)
        if announced:
            self._announce()
        elif version == self._directory.version:
            changed = self._changed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), wait_s)
                await asyncio.sleep(BATCH_S)
        return self._directory.changes_since(version)

    async def _forget_the_silent(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now_s = time.monotonic()
            self._directory.expire(time.time())
            for worker in [w for w, heard_s in self._heard_s.items() if now_s - heard_s > SILENCE_S]:
                logger.warning("worker %s has been silent for %.0f s", worker, SILENCE_S)
                await self.forget(worker)

    def _announce(self) -> None:
        announced, self._changed = self._changed, asyncio.Event()
        announced.set()
