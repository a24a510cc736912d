"""PURE. What blending gains, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.bootstrap import ratio

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    found: float
    limit: float
    at_most: bool
    shown: str = ""

    @property
    def met(self) -> bool:
        return self.found <= self.limit if self.at_most else self.found >= self.limit

    def row(self) -> list[str]:
        sign = "<=" if self.at_most else ">="
        return [
            self.name,
            self.shown or f"{self.found:.3f}",
            f"{sign} {self.limit:g}",
            "yes" if self.met else "**no**",
        ]


def targets(exact: Sequence[Row], blend: Sequence[Row], load: float) -> list[Target]:
    """Rows at one load, by seed."""
    ttft = ratio(np.mean, [row["ttft_s"] for row in blend], [row["ttft_s"] for row in exact])
    documents = _total(blend, "computed_document_tokens") / _total(exact, "computed_document_tokens")
    bound = _total(blend, "computed_tokens") / _total(blend, "bound_tokens")
    return [
        Target("computed prompt tokens, of the trace's bound at this size", bound, 1.15, at_most=True),
        Target("computed document tokens, of exact caching's", documents, 0.45, at_most=True),
        Target(
            f"mean TTFT of exact over ours at {load:g}", ttft.estimate, 1.5, at_most=False, shown=str(ttft)
        ),
    ]


def figures(exact: Sequence[Row], *blends: Sequence[Row]) -> list[list[str]]:
    """Lines of a table, beside the targets. ``blends``: whatever blends in whatever way."""
    both = (exact, *blends)
    seconds = (
        ("mean TTFT, ms", "ttft_s", 0),
        ("mean end-to-end latency, ms", "e2e_s", 0),
        ("p99 inter-token latency, ms", "itl_p99_s", 1),
    )
    shares = (
        ("computed of all prompt tokens, copies included", "computed_tokens", "prompt_tokens"),
        ("computed for copies behind neutral documents", "filling_tokens", "prompt_tokens"),
        ("computed of all document tokens", "computed_document_tokens", "document_tokens"),
        ("repaired of all document tokens", "repaired_tokens", "document_tokens"),
    )
    return [
        *([name, *(f"{_mean_ms(rows, key):.{digits}f}" for rows in both)] for name, key, digits in seconds),
        *([name, *(_share(rows, part, whole) for rows in both)] for name, part, whole in shares),
        [
            "the bound, of all prompt tokens",
            *[""] * len(blends),
            _share(blends[0], "bound_tokens", "prompt_tokens"),
        ],
        *(
            [name, *(str(sum(row[key] for row in rows)) for rows in both)]
            for name, key in (("copies made", "copies"), ("interrupted", "interrupted_copies"))
        ),
    ]


def _mean_ms(rows: Sequence[Row], key: str) -> float:
    return 1e3 * float(np.mean(np.concatenate([np.atleast_1d(row[key]) for row in rows])))


def _total(rows: Sequence[Row], key: str) -> float:
    return float(sum(row[key] for row in rows))


def _share(rows: Sequence[Row], part: str, whole: str) -> str:
    return f"{_total(rows, part) / _total(rows, whole):.1%}"
