"""What is up, what is missing, how far behind: for ``/readyz``, ``mygo status`` and the gauges."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ray.serve.handle import DeploymentHandle

from mygo import metrics
from mygo.api.service import Readiness
from mygo.config import Config
from mygo.serve.calls import reply
from mygo.serve.dispatch import Dispatcher
from mygo.serve.instruments import Instruments

ANSWER_S = 2.0


class ClusterStatus:
    """Looks at all parts from one ingress replica; a part that does not answer is reported as such."""

    def __init__(
        self,
        config: Config,
        librarian: DeploymentHandle,
        shards: Sequence[DeploymentHandle],
        dispatcher: Dispatcher,
    ) -> None:
        self._config = config
        self._librarian = librarian
        self._shards = shards
        self._dispatcher = dispatcher

    async def report(self) -> dict[str, Any]:
        """Everything, as JSON."""
        journal, shards = await self._corpus()
        return {
            "ready": not self._missing(journal, shards),
            "model": self._config.model.name,
            "workers": self._workers(),
            "shards": shards,
            "journal": journal,
            "routing": {
                "policy": self._config.routing.policy,
                "requests": dict(self._dispatcher.routed),
            },
        }

    async def readiness(self) -> Readiness:
        journal, shards = await self._corpus()
        detail = {
            "workers": len(self._dispatcher.directory.workers),
            "shards": sum(bool(shard["alive"]) for shard in shards),
            "journal": journal.get("position", 0),
            "searchable": journal.get("searchable", 0),
        }
        return Readiness(tuple(self._missing(journal, shards)), detail)

    async def record(self, instruments: Instruments) -> None:
        """Bring the gauges up to date; called when metrics are scraped."""
        for worker in self._workers():
            name = worker["id"]
            instruments.set(metrics.WORKER_QUEUED_TOKENS, worker["queued_tokens"], worker=name)
            instruments.set(metrics.WORKER_RUNNING, worker["running"], worker=name)
            instruments.set(metrics.WORKER_WAITING, worker["waiting"], worker=name)
        journal, _ = await self._corpus()
        instruments.set(metrics.JOURNAL_POSITION, journal.get("position", 0))
        instruments.set(metrics.SEARCHABLE_POSITION, journal.get("searchable", 0))

    def _missing(self, journal: dict[str, int], shards: list[dict[str, Any]]) -> list[str]:
        missing: list[str] = []
        wanted, up = self._config.workers.replicas, len(self._dispatcher.directory.workers)
        if up < wanted:
            missing.append(f"workers: {up} of {wanted} are up")
        dead = [str(shard["index"]) for shard in shards if not shard["alive"]]
        if dead:
            missing.append(f"retrieval shards that do not answer: {', '.join(dead)}")
        if not journal:
            missing.append("librarian does not answer")
        return missing

    def _workers(self) -> list[dict[str, Any]]:
        directory = self._dispatcher.directory
        workers: list[dict[str, Any]] = []
        for name, info in directory.workers.items():
            load, held = directory.load(name), directory.held_tokens(name)
            workers.append(
                {
                    "id": name,
                    "node": info.node,
                    "epoch": info.epoch,
                    "held_tokens": {tier.value: count for tier, count in held.items()},
                    "device_tokens": info.device_tokens,
                    "waiting": load.waiting,
                    "running": load.running,
                    "queued_tokens": load.queued_tokens,
                }
            )
        return workers

    async def _corpus(self) -> tuple[dict[str, int], list[dict[str, Any]]]:
        journal, *shards = await asyncio.gather(
            self._ask(self._librarian), *(self._ask(shard) for shard in self._shards)
        )
        return journal or {}, [
            {"index": index, "alive": bool(shard), "vectors": 0, "position": 0} | (shard or {})
            for index, shard in enumerate(shards)
        ]

    async def _ask(self, part: DeploymentHandle) -> dict[str, Any] | None:
        try:
            return await asyncio.wait_for(reply(part.status.remote(), "part"), ANSWER_S)
        except Exception:
            return None
