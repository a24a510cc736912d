"""How a worker follows the corpus: what is deleted there leaves the engine's tiers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ray.serve.handle import DeploymentHandle

from mygo.serve.calls import outlived, reply
from mygo.serve.librarian import Deletions
from mygo.types import WorkerId

T = TypeVar("T")
logger = logging.getLogger(__name__)

WAIT_S = 1.0
"""Longest wait for a deletion; then the librarian is told again that this worker lives."""
RETRY_S = 1.0
BATCH = 256
"""Deleted documents that are read at once."""
TAGS_PER_PURGE = 4096
"""An engine carries a purge out between two steps, so one must not take long."""


class DeletionFollower:
    """Reads what was deleted, has it purged, and says so. What fails is tried again, for ever."""

    def __init__(
        self,
        librarian: DeploymentHandle,
        worker: WorkerId,
        purge: Callable[[tuple[str, ...]], Awaitable[None]],
        *,
        from_start: bool,
    ) -> None:
        """``from_start``: the engine may hold KV from before it started, and so of anything that was ever
        deleted."""
        self._librarian = librarian
        self._worker = worker
        self._purge = purge
        self._position: int | None = 0 if from_start else None

    async def catch_up(self) -> None:
        """Return once all that was deleted before this call is purged."""
        status = await self._until_answered(self._status)
        if self._position is None:  # an empty cache holds nothing of what is gone
            self._position = int(status["position"])
        while self._position < int(status["position"]):
            await self._until_answered(self._step)

    async def follow(self) -> None:
        """Never returns. After ``catch_up``."""
        while True:
            await self._until_answered(self._step)

    async def _status(self) -> dict[str, int]:
        return await reply(self._librarian.status.remote(), "librarian")

    async def _step(self) -> None:
        found: Deletions = await reply(
            self._librarian.deletions.remote(self._position, BATCH, WAIT_S), "librarian"
        )
        for first in range(0, len(found.tags), TAGS_PER_PURGE):
            await self._purge(found.tags[first : first + TAGS_PER_PURGE])
        self._position = found.position
        await reply(self._librarian.purged.remote(self._worker, found.position), "librarian")

    async def _until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await outlived(ask())
            except Exception as error:
                logger.warning("cannot follow deletions, will try again: %s", error)
                await asyncio.sleep(RETRY_S)
