"""Parsing of bodies: strict types, named fields, errors that carry the path of the offending value.

A field that we do not implement falls into one of three groups, by each body's own lists:

- *ignored*: it changes nothing that MyGO does (``user``, ``service_tier``);
- *refused*: it would change the answer, and we would do something else (``tools`` in chat): an error says
  what to do. A neutral value (null, an empty list, the field's default) passes;
- *unknown*: an error names the nearest field that exists, since a misspelt ``vector_store_id`` must not
  quietly turn a question about documents into one without.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mygo.errors import BadRequest

B = TypeVar("B", bound="BaseModel")

_NEUTRAL: tuple[object, ...] = (None, False, [], {}, "")
_MAX_SHOWN_CHARS = 80


class Part(BaseModel):
    """A nested object: strict types, further keys are of no interest."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class Body(BaseModel):
    """A request body: every top-level field is known, ignored or refused."""

    model_config = ConfigDict(
        extra="allow", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    IGNORED: ClassVar[frozenset[str]] = frozenset()
    REFUSED: ClassVar[Mapping[str, str]] = {}
    """Field -> what to do instead."""
    NEUTRAL: ClassVar[Mapping[str, Sequence[object]]] = {}
    """Refused field -> values that mean the same as its absence."""

    @model_validator(mode="after")
    def _check_further_fields(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if name in self.IGNORED:
                continue
            neutral = any(value == each for each in (*_NEUTRAL, *self.NEUTRAL.get(name, ())))
            if name in self.REFUSED:
                if not neutral:
                    raise BadRequest(
                        f"{name} is not supported: {self.REFUSED[name]}",
                        param=name,
                        code="unsupported_parameter",
                    )
                continue
            near = difflib.get_close_matches(name[:_MAX_SHOWN_CHARS], type(self).model_fields, n=1)
            hint = f"did you mean {near[0]}?" if near else "remove it"
            raise BadRequest(
                f"unknown parameter {_short(name)}: {hint}", param=name, code="unknown_parameter"
            )
        return self


def parse_json(model: type[B], raw: bytes) -> B:
    """Validate a JSON body; raises BadRequest whose ``param`` is a path like ``messages[0].content``.

    The parser stops at 200 levels of nesting, so a bomb of brackets is an ordinary error.
    """
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise _bad_request(error) from None


def parse_query(model: type[B], query: Mapping[str, str]) -> B:
    """Validate query parameters, which are all text."""
    try:
        return model.model_validate_strings(dict(query))
    except ValidationError as error:
        raise _bad_request(error) from None


def _bad_request(error: ValidationError) -> BadRequest:
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    if first["type"] == "json_invalid":
        reason = first["msg"].removeprefix("Invalid JSON: ")
        return BadRequest(f"the body is not valid JSON: {reason}", code="invalid_json")
    path = _path(first["loc"])
    message = first["msg"].removeprefix("Value error, ").removesuffix(".")
    shown = "" if first["type"] == "missing" else f" (got {_short(repr(first['input']))})"
    more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
    text = f"{path}: {message}{shown}{more}" if path else f"the body: {message}{shown}"
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return BadRequest(text, param=path or None, code=code)


def _path(loc: Sequence[int | str]) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def _short(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."


def text_parts(value: Any) -> Any:
    """Normalise message content: OpenAI allows a string wherever it allows a list of parts."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of text parts")
    return value


def one_or_many(value: Any) -> Any:
    """Normalise ``stop`` and ``query``: a string or a list of strings."""
    return [value] if isinstance(value, str) else value
