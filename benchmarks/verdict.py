"""How a benchmark with bounds ends: its figures in a file, what it broke on the screen, a status."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import folders


def conclude(console: Console, report: Mapping[str, Any], broken: Sequence[str], out: Path) -> int:
    """Write ``report`` to ``out`` and tell which bounds are ``broken``; the exit status.

    Raises ConfigError if ``out`` has no place.
    """
    folders.made(out.parent)
    out.write_text(json.dumps(report, indent=2) + "\n")
    for problem in broken:
        console.print(f"[red]{problem}")
    console.print(f"{'FAILED' if broken else 'passed'}; written to {out}")
    return 1 if broken else 0
