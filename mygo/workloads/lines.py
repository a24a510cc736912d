"""JSON lines from outside, checked one by one. An error names the file, the line, what is wrong with which
field, and what a right line looks like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mygo.errors import BadTrace

LineT = TypeVar("LineT", bound=BaseModel)

_SHOWN_CHARS = 60


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """(1-based number, text) of each line that is not blank; a byte order mark is no part of the first.

    Raises BadTrace if the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise BadTrace(f"{path}: cannot be read as text ({error}); give a trace in JSON lines") from error


def parsed(model: type[LineT], line: str, path: Path, number: int, *, example: str) -> LineT:
    """``line`` as a ``model``. Raises BadTrace; ``example`` is a right line."""
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        problems = "; ".join(
            ": ".join(
                [*(str(part) for part in problem["loc"][:1]), _message(problem["msg"], problem["input"])]
            )
            for problem in error.errors()[:3]
        )
        raise malformed(path, number, problems, example=example) from None


def loosely(line: str) -> object:
    """``line`` as JSON; None if it is none, or is nested too deeply to read."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def malformed(path: Path, number: int, problem: str, *, example: str) -> BadTrace:
    return BadTrace(f"{path}, line {number}: {problem}; expected a line like {example}")


def _message(message: str, value: object) -> str:
    shown = repr(value)
    if len(shown) > _SHOWN_CHARS:
        shown = f"{shown[:_SHOWN_CHARS]}..."
    return f"{message.removeprefix('Value error, ')} (got {shown})"
