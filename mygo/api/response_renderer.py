"""Responses and their event sequence, as the official client's types describe them."""

from __future__ import annotations

import json
import secrets
from json.encoder import encode_basestring_ascii
from typing import Any

from mygo.api import errors
from mygo.api.answering import event, now_s
from mygo.api.record import Record
from mygo.api.schemas.responses import ResponseBody
from mygo.api.service import AnswerRequest, Hit
from mygo.types import TokenDelta


class ResponseRenderer:
    """The answer is one message, after one ``file_search_call`` if there was a search.

    Every document in the prompt is cited, once per file, at the end of the text: the model writes no
    marks of its own. Passages with their numbers and hashes are in the ``mygo`` block of the response.
    """

    def __init__(self, body: ResponseBody, request: AnswerRequest) -> None:
        self.id = f"resp_{secrets.token_hex(16)}"
        self._body = body
        self._request = request
        self._created = now_s()
        self._message_id = f"msg_{secrets.token_hex(16)}"
        self._search_id = f"fs_{secrets.token_hex(16)}"
        self._message_index = 0 if request.retrieval is None else 1
        self._sequence = 0
        self._record: Record | None = None
        place = self._place()
        self._delta_opening = (
            f'event: response.output_text.delta\ndata: {{"type":"response.output_text.delta",'
            f'{json.dumps(place, separators=(",", ":"))[1:-1]},"logprobs":[],"sequence_number":'
        )

    def begin(self, record: Record) -> bytes:
        self._record = record
        started = self._frame("in_progress", output=[])
        events = [
            self._event("response.created", response=started),
            self._event("response.in_progress", response=started),
        ]
        if self._request.retrieval is not None:
            where = {"item_id": self._search_id, "output_index": 0}
            searching = self._search_item(record, "in_progress")
            found = self._search_item(record, "completed")
            events += [
                self._event("response.output_item.added", output_index=0, item=searching),
                self._event("response.file_search_call.in_progress", **where),
                self._event("response.file_search_call.searching", **where),
                self._event("response.file_search_call.completed", **where),
                self._event("response.output_item.done", output_index=0, item=found),
            ]
        opened = {**self._message_item("", [], "in_progress"), "content": []}
        part = _text_part("", [])
        events += [
            self._event("response.output_item.added", output_index=self._message_index, item=opened),
            self._event("response.content_part.added", **self._place(), part=part),
        ]
        return b"".join(events)

    def delta(self, delta: TokenDelta) -> bytes:
        if not delta.text:
            return b""
        number = self._next()
        return f'{self._delta_opening}{number},"delta":{encode_basestring_ascii(delta.text)}}}\n\n'.encode()

    def end(self, record: Record) -> bytes:
        place, text = self._place(), record.text
        annotations = _annotations(record)
        item = self._message_item(text, annotations, _status(record))
        events = [
            self._event(
                "response.output_text.annotation.added",
                **place,
                annotation_index=index,
                annotation=annotation,
            )
            for index, annotation in enumerate(annotations)
        ]
        events += [
            self._event("response.output_text.done", **place, text=text, logprobs=[]),
            self._event("response.content_part.done", **place, part=_text_part(text, annotations)),
            self._event("response.output_item.done", output_index=self._message_index, item=item),
            self._event(f"response.{_status(record)}", response=self.response(record)),
        ]
        return b"".join(events)

    def failed(self, error: errors.ErrorView) -> bytes:
        """``response.failed`` for clients that follow the response, then ``error``, which raises."""
        output = self._output(self._record, "incomplete") if self._record else []
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        failed = self._frame("failed", output=output) | {"error": {"code": code, "message": error.message}}
        return self._event("response.failed", response=failed) + self._event(
            "error", **error.body, message=error.message, code=error.code, param=error.param
        )

    def document(self, record: Record) -> bytes:
        return json.dumps(self.response(record), separators=(",", ":")).encode()

    def response(self, record: Record) -> dict[str, Any]:
        """The finished response."""
        status = _status(record)
        response = self._frame(status, output=self._output(record, status))
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            response["completed_at"] = now_s()
        return response | {"usage": record.response_usage(), "mygo": record.mygo()}

    def _frame(self, status: str, *, output: list[dict[str, Any]]) -> dict[str, Any]:
        body, sampling = self._body, self._request.sampling
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": body.previous_response_id,
            "store": body.store is not False,
            "temperature": sampling.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [tool.model_dump(exclude_none=True) for tool in body.tools or ()],
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def _output(self, record: Record, status: str) -> list[dict[str, Any]]:
        items = [] if self._request.retrieval is None else [self._search_item(record, "completed")]
        return [*items, self._message_item(record.text, _annotations(record), status)]

    def _search_item(self, record: Record, status: str) -> dict[str, Any]:
        results = None
        if status == "completed" and "file_search_call.results" in (self._body.include or ()):
            results = [_result(hit) for hit in record.head.citations]
        return {
            "id": self._search_id,
            "type": "file_search_call",
            "status": status,
            "queries": [self._request.query],
            "results": results,
        }

    def _message_item(self, text: str, annotations: list[dict[str, Any]], status: str) -> dict[str, Any]:
        return {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [_text_part(text, annotations)],
        }

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._message_id, "output_index": self._message_index, "content_index": 0}

    def _event(self, type_: str, **data: Any) -> bytes:
        return event({"type": type_, **data, "sequence_number": self._next()}, name=type_)

    def _next(self) -> int:
        number = self._sequence
        self._sequence += 1
        return number


def _status(record: Record) -> str:
    return "incomplete" if record.finish_reason == "length" else "completed"


def _text_part(text: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}


def _annotations(record: Record) -> list[dict[str, Any]]:
    """One ``file_citation`` per file, in the order of the ranking."""
    filenames: dict[str, str] = {}
    for hit in record.head.citations:
        filenames.setdefault(hit.document_id, hit.filename)
    index = len(record.text)
    return [
        {"type": "file_citation", "file_id": file_id, "filename": filename, "index": index}
        for file_id, filename in filenames.items()
    ]


def _result(hit: Hit) -> dict[str, Any]:
    return {
        "file_id": hit.document_id,
        "filename": hit.filename,
        "score": hit.score,
        "text": hit.text,
        "attributes": dict(hit.attributes),
    }
