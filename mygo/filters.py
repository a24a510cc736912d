"""Filters over file attributes: OpenAI's comparison and compound filters as values, and their meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Scalar = str | float | bool
Operator = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]


@dataclass(frozen=True, slots=True)
class Comparison:
    key: str
    operator: Operator
    value: Scalar | tuple[Scalar, ...]
    """A tuple for ``in`` and ``nin``, a scalar otherwise."""


@dataclass(frozen=True, slots=True)
class Compound:
    operator: Literal["and", "or"]
    filters: tuple[Filter, ...]


Filter = Comparison | Compound


def matches(condition: Filter, attributes: Mapping[str, Scalar]) -> bool:
    """True if a file with these attributes passes.

    Values of different kinds (text, number, boolean) are never equal and never ordered. An attribute that
    the file lacks equals nothing: ``ne`` and ``nin`` pass, every other comparison fails.
    """
    if isinstance(condition, Compound):
        every = all if condition.operator == "and" else any
        return every(matches(part, attributes) for part in condition.filters)
    held = attributes.get(condition.key)
    value = condition.value
    if isinstance(value, tuple):
        found = any(_equal(held, each) for each in value)
        return found if condition.operator == "in" else not found
    match condition.operator:
        case "eq":
            return _equal(held, value)
        case "ne":
            return not _equal(held, value)
    if held is None or _kind(held) != _kind(value) or isinstance(held, bool):
        return False
    # Both are text or both are numbers; the comparison is by sign, so that it is written once.
    sign = (held > value) - (held < value)  # type: ignore[operator]
    match condition.operator:
        case "gt":
            return sign > 0
        case "gte":
            return sign >= 0
        case "lt":
            return sign < 0
        case _:
            return sign <= 0


def _equal(held: Scalar | None, value: Scalar) -> bool:
    return held is not None and _kind(held) == _kind(value) and held == value


def _kind(value: Scalar) -> type:
    """bool is an int in Python, but not here; int and float are both numbers."""
    if isinstance(value, bool):
        return bool
    return str if isinstance(value, str) else float
