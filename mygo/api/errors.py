"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import errno
import json
import math
from dataclasses import dataclass, field

from mygo.errors import (
    BadRequest,
    Conflict,
    MygoError,
    NotFound,
    OutOfSpace,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnparsableDocument,
    WorkerLost,
)

_INVALID = "invalid_request_error"
_SERVER = "server_error"
# Official clients retry 409 and every 5xx by themselves; this header says that it would not help.
_NO_RETRY = {"x-should-retry": "false"}

# The nearest class in an error's MRO decides: (status, type, code).
_KINDS: dict[type[BaseException], tuple[int, str, str | None]] = {
    Unauthorized: (401, _INVALID, "invalid_api_key"),
    NotFound: (404, _INVALID, "not_found"),
    Conflict: (409, _INVALID, "conflict"),
    TooLarge: (413, _INVALID, "too_large"),
    UnparsableDocument: (400, _INVALID, "unparsable_document"),
    BadRequest: (400, _INVALID, None),
    OutOfSpace: (507, _SERVER, "out_of_space"),
    WorkerLost: (503, _SERVER, "worker_lost"),
    Unavailable: (503, _SERVER, "unavailable"),
    MygoError: (500, _SERVER, "misconfigured"),
}


@dataclass(frozen=True, slots=True)
class ErrorView:
    """An error as the client sees it."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, object]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def json(self) -> bytes:
        return json.dumps(self.body).encode()


def is_bug(error: BaseException) -> bool:
    """True if the error is not one that MyGO raises on purpose: log it, and hide its text."""
    return not isinstance(error, MygoError) and not _is_out_of_space(error)


def view(error: BaseException, request_id: str) -> ErrorView:
    """Map an error to status, body and headers."""
    if _is_out_of_space(error):
        error = OutOfSpace("no space is left on the server's disk: nothing was written; free some and retry")
    for kind in type(error).__mro__:
        if kind in _KINDS:
            status, type_, code = _KINDS[kind]
            break
    else:
        message = f"internal error; report it with the request id {request_id} and the server's log"
        return ErrorView(500, message, _SERVER, code="internal_error")
    param = None
    if isinstance(error, BadRequest):
        param, code = error.param, error.code or code
    headers: dict[str, str] = {}
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    elif isinstance(error, OutOfSpace | Conflict):
        headers |= _NO_RETRY
    elif isinstance(error, Unavailable):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return ErrorView(status, str(error), type_, param, code, headers)


def _is_out_of_space(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
