"""A load test's result: what is written of it, as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load.figures import LATE_S, Figures
from benchmarks.load.local import Kill, Memory
from benchmarks.load.samples import Outcome


@dataclass(frozen=True, slots=True)
class Result:
    """Everything but the single requests, which are in ``requests.jsonl``."""

    manifest: dict[str, Any]
    whole: Figures
    intervals: list[Figures]
    steps: list[Figures] = field(default_factory=list)
    """Of a ramp, in the order they were tried."""
    objective_s: float | None = None
    tried: list[tuple[float, bool]] = field(default_factory=list)
    """Of a ramp: the mean rate that each step asked for, and whether the objective held."""
    kills: list[Kill] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    """What the test found wrong, in sentences."""

    @property
    def rate_at_slo(self) -> float | None:
        """The highest rate that kept the objective; None if it is no ramp, or not even the first did."""
        return max((rate for rate, held in self.tried if held), default=None)


def write(result: Result, out: Path, plots: Sequence[str]) -> str:
    """``report.md`` (also returned) and ``report.json``."""
    text = render(result, plots)
    (out / "report.md").write_text(text)
    (out / "report.json").write_text(
        json.dumps(asdict(result) | {"rate_at_slo": result.rate_at_slo}, indent=2) + "\n"
    )
    return text


def render(result: Result, plots: Sequence[str]) -> str:
    """The report as Markdown."""
    manifest, whole = result.manifest, result.whole
    lost = ", ".join(f"{count} {name}" for name, count in _lost(whole).items()) or "none"
    lines = [
        f"# Load test: {manifest['profile']} of {manifest['trace']}",
        "",
        f"{whole.requests} requests sent, {whole.served} served, others: {lost}. "
        f"Client lag p99 {whole.lag_p99_s * 1e3:.1f} ms.",
    ]
    if whole.lag_p99_s > LATE_S:
        lines.append(
            f"\n**The client could not keep its schedule** (lag p99 above {LATE_S * 1e3:.0f} ms): the load "
            "was less even than asked, and waiting for the client counts as TTFT. Give it a core of its own, "
            "or a lower rate."
        )
    lines += _verdict(result)
    if result.steps:
        lines += ["", "## By rate", "", *_table(result.steps, lambda row: row.served_rate)]
        lines += ["", "Served: until the last answer of that rate."]
    lines += ["", "## Over time", "", *_table(result.intervals, _served_by_due)]
    lines += [
        "",
        "TTFT from when a request was due; rates in requests/s; cached: share of the prompt tokens; top: the "
        "busiest worker's share of the requests.",
        "",
        "## Workers",
        "",
        "Share of the served requests: "
        + ", ".join(f"{name or 'unknown'} {share:.1%}" for name, share in whole.worker_share.items())
        + ".",
    ]
    if result.kills:
        lines += ["", "## Kills", "", *_kills(result.kills)]
    if result.memory:
        lines += ["", "## Memory (PSS, MB)", "", *_memory(result.memory)]
    lines += ["", *(f"![{name}]({name})" for name in plots), "", "## Settings", ""]
    lines += [f"- {name}: {value}" for name, value in manifest.items() if not isinstance(value, dict)]
    return "\n".join(lines) + "\n"


def _verdict(result: Result) -> list[str]:
    lines: list[str] = []
    if result.steps and result.objective_s is not None:
        broke = [rate for rate, held in result.tried if not held]
        rate = "none" if result.rate_at_slo is None else f"{result.rate_at_slo:.2f} requests/s"
        above = f"; it broke at {min(broke):.2f}" if broke else "; it never broke, so the limit is higher"
        lines += [
            "",
            f"**Throughput at SLO: {rate}** (asked for; mean TTFT below {result.objective_s:.3f} s, five "
            f"times that of the lowest rate){above}.",
        ]
    if result.breaches:
        lines += ["", "**Not as it should be:**", "", *(f"- {each}" for each in result.breaches)]
    else:
        lines += ["", "Each request ended once, in a way that the contract allows, and nothing hung."]
    return lines


def _served_by_due(row: Figures) -> float:
    """Requests/s that were due in this stretch and ended well, whenever that was."""
    return row.served / (row.end_s - row.begin_s)


def _table(rows: Sequence[Figures], served: Callable[[Figures], float]) -> list[str]:
    lines = [
        "| from s | offered | served | lost | TTFT p50 s | p95 | p99 | ITL p50 ms | p99 | cached | top % |",
        "| --: | --: | --: | :-- | --: | --: | --: | --: | --: | :-- | --: |",
    ]
    for row in rows:
        lost = ", ".join(f"{count} {name}" for name, count in _lost(row).items()) or "-"
        cached = ", ".join(f"{tier} {share:.1%}" for tier, share in row.cached_ratio.items()) or "-"
        top = next(iter(row.worker_share.values()), 0.0)
        lines.append(
            f"| {row.begin_s:.1f} | {row.offered_rate:.2f} | {served(row):.2f} | {lost} "
            f"| {row.ttft.p50:.3f} | {row.ttft.p95:.3f} | {row.ttft.p99:.3f} "
            f"| {row.itl.p50 * 1e3:.0f} | {row.itl.p99 * 1e3:.0f} | {cached} | {top:.0%} |"
        )
    return lines


def _lost(row: Figures) -> dict[str, int]:
    return {name: count for name, count in row.outcomes.items() if name != Outcome.OK}


def _kills(kills: Sequence[Kill]) -> list[str]:
    lines = ["| at s | role | pid | whole again after s |", "| --: | :-- | --: | --: |"]
    for each in kills:
        after = "never" if each.recovered_s is None else f"{each.recovered_s - each.at_s:.1f}"
        lines.append(f"| {each.at_s:.1f} | {each.role} | {each.pid} | {after} |")
    return lines


def _memory(measured: Sequence[Memory]) -> list[str]:
    labels = sorted({label for each in measured for label in each.pss_bytes})
    lines = ["| processes | first | largest | last |", "| :-- | --: | --: | --: |"]
    for label in labels:
        sizes = [each.pss_bytes.get(label, 0) / 1e6 for each in measured]
        lines.append(f"| {label} | {sizes[0]:.0f} | {max(sizes):.0f} | {sizes[-1]:.0f} |")
    return lines
