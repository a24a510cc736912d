"""How a worker keeps the directory informed, whatever engine it has."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from ray.serve.handle import DeploymentHandle

from mygo.directory import Applied
from mygo.serve.calls import DIRECTORY_ANSWER_S, reply
from mygo.types import WorkerInfo, WorkerReport

logger = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
REPORT_INTERVAL_S = 0.5
"""Pause between two reports; what changes meanwhile travels as one."""


class ReportSource(Protocol):
    """Where a worker's reports come from. Their sequences are dense over both methods together."""

    async def snapshot(self) -> WorkerReport:
        """All that the engine holds."""
        ...

    async def next_report(self, heartbeat_s: float | None = None) -> WorkerReport:
        """Wait for news; after ``heartbeat_s`` without any, report the load alone."""
        ...


async def keep_reporting(directory: DeploymentHandle, info: WorkerInfo, source: ReportSource) -> None:
    """Tell the directory what changed, and everything again whenever it lost track. Ends when cancelled."""
    joined = False
    while True:
        try:
            if not joined:
                await reply(directory.join.remote(info), "directory", DIRECTORY_ANSWER_S)
                report = await source.snapshot()
                joined = True
            else:
                report = await source.next_report(HEARTBEAT_S)
            outcome = await reply(directory.report.remote(report), "directory", DIRECTORY_ANSWER_S)
            joined = outcome in (Applied.APPLIED, Applied.DUPLICATE)
            await asyncio.sleep(REPORT_INTERVAL_S)
        except Exception as error:
            # the directory is being replaced: it will want to be told everything
            logger.warning("report failed, will introduce itself again: %s", error)
            joined = False
            await asyncio.sleep(HEARTBEAT_S)
