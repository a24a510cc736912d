"""POST /v1/chat/completions."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from mygo.api import errors
from mygo.api.answering import AnswerResponse, event, now_s
from mygo.api.context import Context, body_of, request_id_of, tenant_of
from mygo.api.record import Record
from mygo.api.schemas.chat import ChatBody
from mygo.api.schemas.rag import joined
from mygo.api.service import AnswerRequest, InlineDocument, Message
from mygo.api.validation import check_documents, check_messages
from mygo.types import Sampling, TokenDelta, TokenLogprob


def routes(context: Context) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def create(request: Request) -> Response:
        body = await body_of(request, ChatBody)
        context.check_model(body.model)
        stream = bool(body.stream)
        return AnswerResponse(
            context.service,
            tenant_of(request),
            _answer_request(context, request, body),
            ChatRenderer(body),
            stream=stream,
            timeout_s=context.config.http.request_timeout_s,
        )

    return router


def _answer_request(context: Context, request: Request, body: ChatBody) -> AnswerRequest:
    config = context.config
    messages = tuple(
        Message("system" if each.role == "developer" else each.role, joined(each.content))
        for each in body.messages
    )
    check_messages(messages, config.http.max_message_chars, param="messages")
    top_k = context.top_k(body.top_k, param="top_k")
    documents = tuple(InlineDocument(each.id, each.text, each.title or "") for each in body.documents or ())
    check_documents(documents, config.http.max_message_chars, config.retrieval.max_top_k)
    retrieval = None
    if body.vector_store_ids:
        retrieval = context.retrieval(
            body.vector_store_ids, top_k=top_k, filters=body.filters, ranking=body.ranking_options
        )
    limit = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    return AnswerRequest(
        request_id=request_id_of(request),
        messages=messages,
        sampling=Sampling(
            max_tokens=context.max_tokens(getattr(body, limit), param=limit),
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            stop=tuple(body.stop or ()),
            seed=body.seed,
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            ignore_eos=bool(body.ignore_eos),
        ),
        retrieval=retrieval,
        documents=documents if body.top_k is None else documents[:top_k],
        document_order=body.document_order or config.prompt.document_order,
        reuse=context.reuse(body.reuse),
    )


class ChatRenderer:
    """Chat completions, and their chunks.

    The usual chunk carries text and nothing else: all of it but the text is rendered once. The ``mygo``
    block is in the document, and in the last chunk of a stream.
    """

    def __init__(self, body: ChatBody) -> None:
        self._model = body.model
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = now_s()
        self._logprobs = bool(body.logprobs)
        self._token_ids = bool(body.return_token_ids)
        self._citation_text = bool(body.citation_text)
        self._include_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._plain = not (self._logprobs or self._token_ids)
        opening = json.dumps(self._frame("chat.completion.chunk"), separators=(",", ":"))[:-1]
        self._before_text = f'data: {opening},"choices":[{{"index":0,"delta":{{"content":'
        self._after_text = '},"logprobs":null,"finish_reason":null}]}\n\n'

    def begin(self, record: Record) -> bytes:
        extra = {"prompt_token_ids": list(record.head.prompt_token_ids)} if self._token_ids else {}
        return self._chunk({"role": "assistant", "content": ""}, extra=extra)

    def delta(self, delta: TokenDelta) -> bytes:
        if self._plain:
            if not delta.text:
                return b""
            return (self._before_text + encode_basestring_ascii(delta.text) + self._after_text).encode()
        if not delta.text and not delta.token_ids:
            return b""
        return self._chunk({"content": delta.text}, token_ids=delta.token_ids, logprobs=delta.logprobs)

    def end(self, record: Record) -> bytes:
        mygo = record.mygo(citation_text=self._citation_text)
        if not self._include_usage:
            return self._chunk({}, finish_reason=record.finish_reason, extra={"mygo": mygo}) + _DONE
        last = self._frame("chat.completion.chunk")
        last |= {"choices": [], "usage": record.chat_usage(), "mygo": mygo}
        return self._chunk({}, finish_reason=record.finish_reason) + event(last) + _DONE

    def failed(self, error: errors.ErrorView) -> bytes:
        return event(error.body)

    def document(self, record: Record) -> bytes:
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": record.text, "refusal": None},
            "logprobs": _logprobs(record.logprobs) if self._logprobs else None,
            "finish_reason": record.finish_reason,
        }
        document = self._frame("chat.completion") | {"choices": [choice], "usage": record.chat_usage()}
        if self._token_ids:
            choice["token_ids"] = record.token_ids
            document["prompt_token_ids"] = list(record.head.prompt_token_ids)
        document["mygo"] = record.mygo(citation_text=self._citation_text)
        return json.dumps(document, separators=(",", ":")).encode()

    def _frame(self, object_: str) -> dict[str, Any]:
        return {"id": self._id, "object": object_, "created": self._created, "model": self._model}

    def _chunk(
        self,
        delta: dict[str, str],
        *,
        finish_reason: str | None = None,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
        extra: Mapping[str, object] | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {
            "index": 0,
            "delta": delta,
            "logprobs": _logprobs(logprobs) if logprobs else None,
            "finish_reason": finish_reason,
        }
        if self._token_ids:
            choice["token_ids"] = token_ids
        return event(self._frame("chat.completion.chunk") | {"choices": [choice], **(extra or {})})


_DONE = b"data: [DONE]\n\n"


def _logprobs(tokens: tuple[TokenLogprob, ...] | list[TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            _logprob(each.token, each.logprob)
            | {"top_logprobs": [_logprob(token, logprob) for token, logprob in each.top]}
            for each in tokens
        ],
        "refusal": None,
    }


def _logprob(token: str, logprob: float) -> dict[str, Any]:
    # JSON has no -Infinity; OpenAI's floor for a token out of reach is -9999.
    return {
        "token": token,
        "logprob": max(logprob, -9999.0),
        "bytes": list(token.encode("utf-8", "surrogatepass")),
    }
