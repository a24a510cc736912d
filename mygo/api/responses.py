"""POST /v1/responses, and what can be done with a response afterwards."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request
from starlette.responses import Response

from mygo.api.answering import AnswerResponse
from mygo.api.context import Context, body_of, json_response, request_id_of, tenant_of
from mygo.api.record import Record
from mygo.api.response_renderer import ResponseRenderer
from mygo.api.schemas.rag import joined
from mygo.api.schemas.responses import FileSearchTool, ResponseBody
from mygo.api.service import AnswerRequest, Message, Retrieval
from mygo.api.validation import check_messages
from mygo.errors import NotFound
from mygo.types import Sampling, TenantId


def routes(context: Context) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/responses")
    async def create(request: Request) -> Response:
        body = await body_of(request, ResponseBody)
        context.check_model(body.model)
        tenant = tenant_of(request)
        turns = await _earlier_turns(context, tenant, body.previous_response_id)
        turns += [
            Message("system" if each.role == "developer" else each.role, joined(each.content))
            for each in body.input
        ]
        answer_request = _answer_request(context, request, body, turns)
        renderer = ResponseRenderer(body, answer_request)

        async def remember(record: Record) -> None:
            messages = [[turn.role, turn.text] for turn in [*turns, Message("assistant", record.text)]]
            value = {"messages": messages, "response": renderer.response(record)}
            await context.service.remember_response(tenant, renderer.id, json.dumps(value).encode())

        return AnswerResponse(
            context.service,
            tenant,
            answer_request,
            renderer,
            stream=bool(body.stream),
            timeout_s=context.config.http.request_timeout_s,
            completed=None if body.store is False else remember,
        )

    @router.get("/v1/responses/{response_id}")
    async def retrieve(request: Request, response_id: str) -> Response:
        value = await context.service.recall_response(tenant_of(request), response_id)
        if value is None:
            raise _unknown(response_id, param="response_id")
        return json_response(json.loads(value)["response"])

    @router.delete("/v1/responses/{response_id}")
    async def delete(request: Request, response_id: str) -> Response:
        if not await context.service.forget_response(tenant_of(request), response_id):
            raise _unknown(response_id, param="response_id")
        return json_response({"id": response_id, "object": "response", "deleted": True})

    return router


async def _earlier_turns(context: Context, tenant: TenantId, response_id: str | None) -> list[Message]:
    """The conversation up to a response, without its instructions: those are given anew each time."""
    if response_id is None:
        return []
    value = await context.service.recall_response(tenant, response_id)
    if value is None:
        raise _unknown(response_id, param="previous_response_id")
    return [Message(role, text) for role, text in json.loads(value)["messages"]]


def _unknown(response_id: str, *, param: str) -> NotFound:
    return NotFound(
        f"response {response_id[:80]!r} is not known: responses are remembered for a while only, and not at "
        "all with store: false; send the whole conversation as input",
        param=param,
        code="response_not_found",
    )


def _answer_request(
    context: Context, request: Request, body: ResponseBody, turns: list[Message]
) -> AnswerRequest:
    config = context.config
    messages = ([Message("system", body.instructions)] if body.instructions else []) + turns
    check_messages(messages, config.http.max_message_chars, param="input")
    return AnswerRequest(
        request_id=request_id_of(request),
        messages=tuple(messages),
        sampling=Sampling(
            max_tokens=context.max_tokens(body.max_output_tokens, param="max_output_tokens"),
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
        ),
        retrieval=_retrieval(context, body.tools[0]) if body.tools else None,
        document_order=body.document_order or config.prompt.document_order,
        reuse=context.reuse(body.reuse),
    )


def _retrieval(context: Context, tool: FileSearchTool) -> Retrieval:
    return context.retrieval(
        tool.vector_store_ids,
        top_k=context.top_k(tool.max_num_results, param="tools[0].max_num_results"),
        filters=tool.filters,
        ranking=tool.ranking_options,
    )
