"""MyGO's real cluster: ingress, directory, workers, over HTTP, with the documents inline in each request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cluster import Cluster, start_cluster, stop_cluster
from benchmarks.systems.streams import events, http_client
from benchmarks.systems.system import Counters, Query, Reply, Settings
from mygo.types import Prompt, SegmentKind

DISK_PER_HOST = 5


@dataclass(frozen=True)
class MygoSystem:
    """A row: the cluster with some settings changed."""

    name: str
    summary: str
    workers: int = 1
    host_tier: bool = False
    disk_tier: bool = False
    """Five times the host tier, as in the tiers' study; needs one."""
    document_order: str = "retrieval"
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Sections of the configuration."""

    @property
    def memory_gb(self) -> float:
        return 4.5 + 3.2 * self.workers

    @property
    def keeps_order(self) -> bool:
        return self.document_order == "retrieval"

    def problem(self) -> str | None:
        return None

    def start(self, folder: Path, settings: Settings) -> MygoServer:
        sections: dict[str, dict[str, Any]] = {
            "cluster": {"cache_dir": str(settings.cache_dir)},
            "http": {"api_keys": {_key(tenant): tenant for tenant in settings.tenants}},
            "model": settings.model.model_dump(mode="json"),
            "cache": self._cache(folder, settings),
            "workers": {"replicas": self.workers, "cores": list(settings.worker_cores(self.workers))},
            # documents come with the requests: nothing is searched here
            "retrieval": {"shards": 1, "max_top_k": 1000},
        }
        for section, values in self.overrides.items():
            sections.setdefault(section, {}).update(values)
        return MygoServer(start_cluster(folder, **sections), settings.model.name, self.document_order)

    def _cache(self, folder: Path, settings: Settings) -> dict[str, Any]:
        if not self.host_tier:
            return {"host_bytes": 0}
        cache: dict[str, Any] = {"host_bytes": settings.host_kv_bytes}
        if self.disk_tier:
            cache |= {
                "disk_path": str(folder.absolute() / "kv"),
                "disk_bytes": DISK_PER_HOST * settings.host_kv_bytes,
            }
        if settings.throttle is not None:
            kv_bytes = settings.kv_bytes_per_token
            cache |= {
                "host_load_s_per_byte": settings.throttle.host_s_per_token / kv_bytes,
                "disk_read_s_per_byte": settings.throttle.disk_s_per_token / kv_bytes,
            }
        return cache


class MygoServer:
    """A running cluster."""

    engine_title = "VLLM::Worker"

    def __init__(self, cluster: Cluster, model: str, document_order: str) -> None:
        self._cluster = cluster
        self._model = model
        self._order = document_order
        self._client = http_client()
        self._cached_tokens: Counter[str] = Counter()
        """By tier, as the replies said."""

    @property
    def root_pids(self) -> tuple[int, ...]:
        return (self._cluster.process.pid,)

    async def ask(self, query: Query) -> Reply:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": role, "content": text} for role, text in query.messages],
            "documents": [{"id": name, "text": text} for name, text in query.documents],
            "document_order": self._order,
            "max_tokens": query.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
        }
        url = f"{self._cluster.url}/v1/chat/completions"
        headers = {"Authorization": f"Bearer {_key(query.tenant)}"}
        reply = Reply([], [], [], 0, 0.0, 0.0)
        async for arrived_s, event in events(self._client, url, body, headers):
            reply.prompt_ids = event.get("prompt_token_ids") or reply.prompt_ids
            for choice in event["choices"]:
                if token_ids := choice.get("token_ids"):
                    reply.token_times_s.append(arrived_s)
                    reply.output_ids += token_ids
            if account := event.get("mygo"):
                usage = account["usage"]
                reply.cached_tokens = sum(usage["cached_tokens"].values())
                self._cached_tokens.update(usage["cached_tokens"])
                reply.queue_s, reply.prefill_s = usage["queue_s"], usage["prefill_s"]
                reply.worker = account["worker"]
        same = is_same if self._order == "retrieval" else is_same_but_for_order
        if not same(query.prompt, reply.prompt_ids):
            raise RuntimeError(
                f"request {query.number}: MyGO built another prompt than the benchmark's own builder"
            )
        return reply

    async def counters(self) -> Counters:
        return Counters(dict(self._cached_tokens))

    def stop(self) -> None:
        stop_cluster(self._cluster)


def is_same(prompt: Prompt, ids: Sequence[int]) -> bool:
    return prompt.token_ids == list(ids)


def is_same_but_for_order(prompt: Prompt, ids: Sequence[int]) -> bool:
    """True if ``ids`` are those of ``prompt`` with its documents in any order.

    Takes the first document that matches at each place; documents of which one begins with another could
    mislead it, which a benchmark's texts never do.
    """
    position = 0
    waiting = [segment.token_ids for segment in prompt.segments if segment.kind is SegmentKind.DOCUMENT]
    for segment in prompt.segments:
        candidates = waiting if segment.kind is SegmentKind.DOCUMENT else [segment.token_ids]
        found = next((c for c in candidates if tuple(ids[position : position + len(c)]) == c), None)
        if found is None:
            return False
        if segment.kind is SegmentKind.DOCUMENT:
            waiting.remove(found)
        position += len(found)
    return position == len(ids)


def _key(tenant: str) -> str:
    return f"sk-{tenant}"
