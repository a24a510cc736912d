"""What a step of the acceptance run gets and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    passed: bool
    summary: str
    """One line for the final table."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Everything that was measured, for the record (JSON)."""


Say = Callable[[str], None]
"""Tells the reader how far a step is, one line at a time."""

Step = Callable[[Path, Say], Outcome]
"""``step(folder, say)``: the folder is empty and the step's own; logs and data may stay there.

Raises whatever goes wrong: that is a failed step too.
"""
