"""Traces in files: our own JSON lines, and whatever ``load`` recognises.

Ours: a head line, then each text, request and update on a line of its own, under the names of
``mygo.workloads.trace``::

    {"format": "mygo-trace", "version": 1, "name": "burst", "seed": 1, "parameters": {...}, ...}
    {"text": "d17", "tokens": 241, "domain": "public"}
    {"request": 0, "arrival_s": 0.5, "system": "system", "documents": ["d17"], "question_tokens": 30, ...}
    {"update": "d17", "new": "d17@1", "at_s": 12.5}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mygo.errors import BadTrace
from mygo.types import DEFAULT_TENANT, PUBLIC, DomainTag, TenantId
from mygo.workloads import mooncake, ragpulse
from mygo.workloads.lines import lines_of, loosely, malformed, parsed
from mygo.workloads.trace import Text, TextId, Trace, TraceRequest, Update

FORMAT = "mygo-trace"
VERSION = 1

_HEAD = f'{{"format": "{FORMAT}", "version": {VERSION}, "name": "burst"}}'
_EXAMPLES = {
    "text": '{"text": "d17", "tokens": 241}',
    "request": (
        '{"request": 0, "arrival_s": 0.5, "system": "system", "documents": ["d17"], "question_tokens": 30, '
        '"output_tokens": 16}'
    ),
    "update": '{"update": "d17", "new": "d17@1", "at_s": 12.5}',
}


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Head(_Line):
    format: Literal["mygo-trace"]
    version: Literal[1]
    name: str
    seed: int | None = None
    parameters: dict[str, str] = Field(default_factory=dict)
    corpus_documents: int | None = Field(default=None, ge=0)


class _Text(_Line):
    text: str
    tokens: int = Field(ge=0)
    domain: str = PUBLIC
    copy_of: str | None = None


class _Request(_Line):
    request: int = Field(ge=0)
    arrival_s: float = Field(ge=0, allow_inf_nan=False)
    system: str
    documents: list[str] = Field(default_factory=list)
    question_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=1)
    history: list[str] = Field(default_factory=list)
    tenant: str = DEFAULT_TENANT
    session: str | None = None


class _Update(_Line):
    update: str
    new: str
    at_s: float = Field(ge=0, allow_inf_nan=False)


def load(path: Path) -> Trace:
    """Read a trace of ours, of RAGPulse or of Mooncake, recognised by its first line.

    Raises BadTrace if it is none of them, or is malformed; the message names the line.
    """
    number, line = next(lines_of(path), (0, ""))
    if not number:
        raise BadTrace(f"{path}: is empty; give a trace in JSON lines")
    head = loosely(line)
    if isinstance(head, dict) and "format" in head:
        return _load_ours(path)
    match head.get("hash_ids") if isinstance(head, dict) else None:
        case dict():
            return ragpulse.load_ragpulse(path)
        case list():
            return mooncake.load_mooncake(path)
        case _:
            raise BadTrace(
                f"{path}, line {number}: not a trace that is known; the first line must look like {_HEAD} "
                f"(MyGO), like {ragpulse.EXAMPLE} (RAGPulse), or like {mooncake.EXAMPLE} (Mooncake)"
            )


def save(trace: Trace, path: Path) -> None:
    """Write ``trace``, replacing the file; ``load`` gives an equal one. Raises BadTrace if it cannot."""
    try:
        with path.open("w", encoding="utf-8") as file:
            for line in _lines(trace):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    except OSError as error:
        raise BadTrace(f"{path}: cannot be written ({error}); give another path") from error


def _lines(trace: Trace) -> Iterator[dict[str, Any]]:
    yield {
        "format": FORMAT,
        "version": VERSION,
        "name": trace.name,
        "seed": trace.seed,
        "parameters": dict(trace.parameters),
        "corpus_documents": trace.corpus_documents,
    }
    for name, text in trace.texts.items():
        copy = {} if text.copy_of is None else {"copy_of": text.copy_of}
        yield {"text": name, "tokens": text.tokens, "domain": text.domain, **copy}
    for each in trace.requests:
        yield {
            "request": each.number,
            "arrival_s": each.arrival_s,
            "system": each.system,
            "documents": each.documents,
            "question_tokens": each.question_tokens,
            "output_tokens": each.output_tokens,
            "history": each.history,
            "tenant": each.tenant,
            "session": each.session,
        }
    for update in trace.updates:
        yield {"update": update.old, "new": update.new, "at_s": update.at_s}


def _load_ours(path: Path) -> Trace:
    lines = lines_of(path)
    number, line = next(lines)
    head = parsed(_Head, line, path, number, example=_HEAD)
    texts: dict[TextId, Text] = {}
    requests: list[TraceRequest] = []
    updates: list[Update] = []
    named: list[tuple[int, str, str]] = []
    """(line, kind of line, text) wherever a text is named, which may be before its own line."""
    for number, line in lines:
        match _kind(line):
            case "text":
                text = parsed(_Text, line, path, number, example=_EXAMPLES["text"])
                if text.text in texts:
                    problem = f"text: {text.text!r} is there already"
                    raise malformed(path, number, problem, example=_EXAMPLES["text"])
                original = None if text.copy_of is None else TextId(text.copy_of)
                texts[TextId(text.text)] = Text(text.tokens, DomainTag(text.domain), original)
                named += [(number, "text", original)] if original else []
            case "request":
                request = parsed(_Request, line, path, number, example=_EXAMPLES["request"])
                requests.append(_request(request, requests, path, number))
                names = (request.system, *request.documents, *request.history)
                named += [(number, "request", name) for name in names]
            case "update":
                update = parsed(_Update, line, path, number, example=_EXAMPLES["update"])
                if updates and update.at_s < updates[-1].at_s:
                    problem = f"at_s: {update.at_s:g} is before the update above"
                    raise malformed(path, number, problem, example=_EXAMPLES["update"])
                updates.append(Update(update.at_s, TextId(update.update), TextId(update.new)))
                named += [(number, "update", name) for name in (update.update, update.new)]
            case _:
                raise malformed(
                    path, number, "is no text, request or update", example=" or ".join(_EXAMPLES.values())
                )
    for number, kind, name in named:
        if name not in texts:
            raise malformed(path, number, f"names {name!r}, and no text has that id", example=_EXAMPLES[kind])
    if not requests:
        raise BadTrace(f"{path}: holds no request; add lines like {_EXAMPLES['request']}")
    return Trace(
        head.name,
        texts,
        tuple(requests),
        tuple(updates),
        head.seed,
        head.parameters,
        head.corpus_documents,
    )


def _kind(line: str) -> str | None:
    fields = loosely(line)
    return next((kind for kind in _EXAMPLES if isinstance(fields, dict) and kind in fields), None)


def _request(line: _Request, before: list[TraceRequest], path: Path, number: int) -> TraceRequest:
    if line.request != len(before):
        problem = f"request: {line.request} where {len(before)} is next"
        raise malformed(path, number, problem, example=_EXAMPLES["request"])
    if before and line.arrival_s < before[-1].arrival_s:
        problem = f"arrival_s: {line.arrival_s:g} is before the request above"
        raise malformed(path, number, problem, example=_EXAMPLES["request"])
    return TraceRequest(
        number=line.request,
        arrival_s=line.arrival_s,
        system=TextId(line.system),
        documents=tuple(map(TextId, line.documents)),
        question_tokens=line.question_tokens,
        output_tokens=line.output_tokens,
        history=tuple(map(TextId, line.history)),
        tenant=TenantId(line.tenant),
        session=line.session,
    )
