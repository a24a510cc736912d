"""What the workers' caches hold, as one tenant may see it: ``/v1/mygo/cache``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request
from ray.serve.handle import DeploymentHandle

from mygo.api.context import tenant_of
from mygo.config import Config
from mygo.errors import BadRequest
from mygo.serve.calls import reply
from mygo.serve.dispatch import Dispatcher
from mygo.types import PUBLIC, DomainTag, TenantId, WorkerId
from mygo.vllm_plugin.tiers.view import CacheNode, CacheView

MOST_NODES = 1000
LOOK_S = 10.0
"""An engine looks between two steps; one that does not is reported as such."""


class CacheReport:
    """Asks every worker for its most valuable nodes. Nodes in other tenants' domains are not shown, and
    documents of other tenants not named."""

    def __init__(
        self,
        config: Config,
        workers: DeploymentHandle,
        librarian: DeploymentHandle,
        dispatcher: Dispatcher,
        salt: Callable[[DomainTag], str],
    ) -> None:
        self._one_tenant = not config.http.api_keys
        self._workers = workers
        self._librarian = librarian
        self._dispatcher = dispatcher
        self._salt = salt

    async def report(self, request: Request, top: int = 50) -> dict[str, Any]:
        """``top``: nodes per worker, besides those before them."""
        if not 1 <= top <= MOST_NODES:
            raise BadRequest(f"top: must be between 1 and {MOST_NODES}, not {top}", param="top")
        tenant = tenant_of(request)
        names = list(self._dispatcher.directory.workers)
        views = await asyncio.gather(*(self._look(name, top) for name in names))
        seen = {node.tag for view in views if view is not None for node in self._visible(tenant, view)}
        documents: Mapping[str, Mapping[str, Any]] = {}
        if seen:
            documents = await reply(self._librarian.name_passages.remote(tenant, seen), "librarian")
        return {
            "workers": [
                self._worker(tenant, name, view, documents) for name, view in zip(names, views, strict=True)
            ]
        }

    def _visible(self, tenant: TenantId, view: CacheView) -> list[CacheNode]:
        if self._one_tenant:
            return list(view.nodes)
        salts = {self._salt(PUBLIC), self._salt(DomainTag(tenant))}
        return [node for node in view.nodes if node.salt in salts]

    async def _look(self, worker: WorkerId, top: int) -> CacheView | None:
        try:
            view: CacheView = await asyncio.wait_for(
                reply(self._workers.cache.remote(top, worker=worker), "worker"), LOOK_S
            )
        except Exception:
            return None
        return view

    def _worker(
        self,
        tenant: TenantId,
        name: WorkerId,
        view: CacheView | None,
        documents: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, Any]:
        if view is None:
            return {"id": name, "answered": False}
        visible = self._visible(tenant, view)
        return {
            "id": name,
            "answered": True,
            "held_tokens": view.held_tokens,
            "capacity_tokens": view.capacity_tokens,
            "total_nodes": view.total_nodes,
            "hidden_nodes": len(view.nodes) - len(visible),
            "nodes": [_node(node, documents.get(node.tag)) for node in visible],
        }


def _node(node: CacheNode, document: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "number": node.number,
        "parent": node.parent,
        "start_tokens": node.start_tokens,
        "tokens": node.tokens,
        "held_tokens": node.held_tokens,
        "frequency": round(node.frequency, 3),
        "value_s": round(node.value_s, 6),
        "live": node.live,
        "document": document,
    }
