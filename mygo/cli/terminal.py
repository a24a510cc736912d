"""Where the command line writes: results to stdout, progress and errors to stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout, for machines."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_piece(text: str) -> None:
    """A piece of streamed text on stdout, at once. Documents may hold control codes: none gets through."""
    sys.stdout.write("".join(each for each in text if each.isprintable() or each in "\n\t"))
    sys.stdout.flush()


def silent(text: str) -> None:
    """Takes the place of ``print_piece`` where only the whole answer is wanted."""


def quiet_vllm() -> None:
    """Hear of vLLM's errors only; to be called before it is imported, when it reads the environment."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(logging.ERROR)  # it warns before it has set its own level


def print_error(message: str) -> None:
    """The message in red on stderr; its text is never read as markup."""
    err.print(f"[red]error:[/red] {escape(message)}")


def seconds(value: float | None) -> str:
    """``0.134 s``, ``12.3 s``, or a dash if unknown."""
    if value is None:
        return "-"
    return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"
