"""What every resource's handlers share, and the small steps that all of them take."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from mygo.api.schemas.base import parse_json
from mygo.api.schemas.rag import FilterPart, RankingOptions, ReuseChoice
from mygo.api.service import Retrieval, Service
from mygo.config import Config
from mygo.errors import BadRequest, NotFound
from mygo.types import RequestId, Reuse, StoreId, TenantId

B = TypeVar("B", bound=BaseModel)

INLINE_BYTES = 256 * 2**10
"""Bodies up to this size are parsed on the event loop."""


@dataclass(frozen=True, slots=True)
class Context:
    config: Config
    service: Service

    def check_model(self, model: str) -> None:
        served = self.config.model.name
        if model != served:
            raise NotFound(
                f"model {model[:80]!r} is not served here; ask for {served!r}",
                param="model",
                code="model_not_found",
            )

    def top_k(self, asked: int | None, *, param: str) -> int:
        """Passages to retrieve; raises BadRequest above the deployment's limit."""
        retrieval = self.config.retrieval
        if asked is None:
            return retrieval.top_k
        if asked > retrieval.max_top_k:
            raise BadRequest(
                f"{param}: {asked} is above this deployment's limit; ask for at most {retrieval.max_top_k}",
                param=param,
            )
        return asked

    def retrieval(
        self,
        store_ids: Iterable[str],
        *,
        top_k: int,
        filters: FilterPart | None,
        ranking: RankingOptions | None,
    ) -> Retrieval:
        """Raises BadRequest for a hybrid search where there is no index of words."""
        hybrid = ranking.hybrid_search if ranking else None
        if hybrid and hybrid.text_weight and not self.config.retrieval.words:
            raise BadRequest(
                "ranking_options.hybrid_search: this deployment has no index of words (retrieval.words); "
                "leave it out",
                param="ranking_options",
            )
        return Retrieval(
            store_ids=tuple(StoreId(each) for each in dict.fromkeys(store_ids)),
            top_k=top_k,
            filters=filters.to_filter() if filters else None,
            min_score=ranking.score_threshold if ranking else None,
            embedding_weight=hybrid.embedding_weight if hybrid else 1.0,
            rerank=ranking is None or ranking.ranker != "none",
            text_weight=hybrid.text_weight if hybrid else self.config.retrieval.text_weight,
        )

    def max_tokens(self, asked: int | None, *, param: str) -> int:
        """Tokens to generate at most; raises BadRequest if they alone would fill the context."""
        if asked is None:
            return self.config.prompt.default_max_tokens
        limit = self.config.model.max_context_tokens
        if asked >= limit:
            raise BadRequest(
                f"{param}: {asked} tokens do not fit a context of {limit} beside a prompt; ask for fewer",
                param=param,
            )
        return asked

    def reuse(self, asked: ReuseChoice) -> Reuse:
        """What a request or a store allows; raises BadRequest for more than the deployment does."""
        allowed = Reuse(self.config.reuse.mode)
        if asked == "blend" and allowed is Reuse.EXACT:
            raise BadRequest(
                "reuse: this deployment is exact only: send 'exact', or leave it out", param="reuse"
            )
        return allowed if asked is None else Reuse(asked)


def tenant_of(request: Request) -> TenantId:
    return cast(TenantId, request.state.tenant)


def request_id_of(request: Request) -> RequestId:
    return cast(RequestId, request.state.request_id)


async def body_of(request: Request, model: type[B]) -> B:
    raw = await request.body()
    if len(raw) < INLINE_BYTES:
        return parse_json(model, raw)
    # long enough to hold up other requests' tokens
    return await asyncio.to_thread(parse_json, model, raw)


def json_response(
    value: Mapping[str, Any], *, headers: Mapping[str, str] | None = None, status: int = 200
) -> Response:
    body = json.dumps(value, separators=(",", ":")).encode()
    return Response(body, status_code=status, media_type="application/json", headers=headers)


def list_response(items: list[dict[str, Any]], *, has_more: bool) -> Response:
    """A page in OpenAI's shape; ``id`` of the last item is the cursor of the next page."""
    return json_response(
        {
            "object": "list",
            "data": items,
            "first_id": items[0]["id"] if items else None,
            "last_id": items[-1]["id"] if items else None,
            "has_more": has_more,
        }
    )
