"""How far emulated figures can be trusted: what the last check of the emulated engine found."""

from __future__ import annotations

import json
from pathlib import Path

COMMAND = "python -m benchmarks.emulation_check"
KEPT = Path("results/emulation_check.json")
"""Where the check keeps its result unless told otherwise."""


def last_check(path: Path = KEPT) -> str:
    """One sentence for a report; says so if there was no check, or if its file cannot be read."""
    begin = f"`{COMMAND}` sends the same requests through a real engine and through an emulated one"
    try:
        found = json.loads(path.read_text())
        verdict = "within" if found["within_bounds"] else "OUTSIDE"
        requests = sum(len(one["comparison"]["real"]) for one in found["rounds"])
        return (
            f"{begin}. Last time (commit {found['commit']}, {found['date']}, {found['machine']}, {requests} "
            f"requests), the emulated mean TTFT was {found['ttft_error']:+.1%} off and the token hit ratio "
            f"{100 * found['hit_error']:+.2f} points: {verdict} the bounds of {found['ttft_bound']:.0%} and "
            f"{100 * found['hit_bound']:g} points."
        )
    except FileNotFoundError:
        return f"{begin}. It has not been run here."
    except (OSError, ValueError, KeyError, TypeError):
        return f"{begin}. Its last result, {path}, cannot be read: run it again."
