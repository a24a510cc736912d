"""What the workers' quality guards know, as one tenant may see it: ``/v1/mygo/cache/quality``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from ray.serve.handle import DeploymentHandle

from mygo.api.context import tenant_of
from mygo.config import Config
from mygo.errors import Unauthorized
from mygo.serve.calls import reply
from mygo.serve.dispatch import Dispatcher
from mygo.types import TenantId, WorkerId
from mygo.vllm_plugin.chunks.quality_view import BucketView, QualityView

ASK_S = 10.0
"""An engine answers between two steps; one that does not is reported as such."""


class QualityReport:
    """Asks every worker. Other tenants' documents are counted, not named."""

    def __init__(
        self, config: Config, workers: DeploymentHandle, librarian: DeploymentHandle, dispatcher: Dispatcher
    ) -> None:
        self._several_tenants = len(set(config.http.api_keys.values())) > 1
        self._workers = workers
        self._librarian = librarian
        self._dispatcher = dispatcher

    async def report(self, request: Request) -> dict[str, Any]:
        return await self._report(tenant_of(request), reset=False)

    async def reset(self, request: Request) -> dict[str, Any]:
        """Let every guard begin anew. Raises Unauthorized where tenants share them: it costs all of them."""
        if self._several_tenants:
            raise Unauthorized(
                "the quality guard serves several tenants, and none of them may reset it: stop the cluster, "
                "remove the folder guard/ of cluster.cache_dir on its machines, and start it again"
            )
        return await self._report(tenant_of(request), reset=True)

    async def _report(self, tenant: TenantId, *, reset: bool) -> dict[str, Any]:
        names = list(self._dispatcher.directory.workers)
        answers = await asyncio.gather(*(self._ask(name, reset) for name in names))
        off = {
            document for view in answers if isinstance(view, QualityView) for document in view.documents_off
        }
        named: Mapping[str, Mapping[str, Any]] = {}
        if off:
            named = await reply(self._librarian.name_passages.remote(tenant, off), "librarian")
        return {
            "workers": [
                {"id": name} | _worker(answer, named) for name, answer in zip(names, answers, strict=True)
            ]
        }

    async def _ask(self, worker: WorkerId, reset: bool) -> QualityView | Exception | None:
        try:
            asked = self._workers.quality.remote(reset, worker=worker)
            view: QualityView | None = await asyncio.wait_for(reply(asked, "worker"), ASK_S)
        except Exception as error:
            return error
        return view


def _worker(answer: QualityView | Exception | None, named: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    if isinstance(answer, Exception):
        return {"answered": False}
    if answer is None:
        return {"answered": True, "guarded": False}
    return {
        "answered": True,
        "guarded": True,
        "kl_bound": answer.kl_bound,
        "decisions": {action.value: requests for action, requests in answer.decisions.items()},
        "observations": answer.observations,
        "buckets": [_bucket(bucket) for bucket in answer.buckets],
        "documents_off": len(answer.documents_off),
        "documents": [named[document] for document in answer.documents_off if document in named],
    }


def _bucket(bucket: BucketView) -> dict[str, Any]:
    return {
        "bucket": bucket.bucket,
        "need": [bucket.need_from, bucket.need_to],
        "state": bucket.state,
        "alpha": bucket.alpha,
        "mean_kl": _rounded(bucket.mean_kl),
        "top1_agreement": _rounded(bucket.top1_agreement),
        "overlap": _rounded(bucket.overlap),
        "observations": bucket.observations,
    }


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 4)
