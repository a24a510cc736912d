"""PURE. The study as Markdown and as a dict for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.bootstrap import Ratio
from benchmarks.cluster_routing.compare import Line, best_baseline, line, lines, worse
from benchmarks.cluster_routing.measure import CLIENTS_PER_WORKER, Setting
from benchmarks.cluster_routing.plan import AFFINITY, OURS, RAYS
from benchmarks.cluster_routing.study import CellRuns

HEAD = (
    "| router | TTFT mean (s) | p50 | p95 | p99 | hit % | recomputed documents % | shares % "
    "| mean TTFT / ours | p99 / ours |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def markdown(
    study: Sequence[CellRuns], setting: Setting, origin: str, plots: Sequence[str], validation: str
) -> str:
    """The whole report. ``origin``: commit and command; ``validation``: what is known of the emulation."""
    parts = [
        "# Cluster routing, simulated",
        origin,
        f"Emulated workers ({setting.profile}): vLLM's scheduler and MyGO's plugin, directory and routers in "
        f"virtual time. Answers are cut to {setting.output_scale:g} of their length, documents stand as "
        "retrieved, one ingress. Means over seeds, each of which is another trace; intervals are 95 % "
        "bootstrap over seeds, paired. A ratio above 1: ours is quicker. Load is a share of what a closed "
        f"loop of {CLIENTS_PER_WORKER} clients per worker gets through under power of two choices. "
        "Recomputed: share of all document tokens that were computed although an earlier request brought "
        "them behind the same documents. Shares: of requests, on the workers with the fewest and the most. "
        f"`{RAYS}` is Ray Serve LLM's own class and tree, on the open requests that the ingress counts. "
        f"`{AFFINITY}` is our re-implementation of it with a tree that forgets, checked against it decision "
        "by decision (`tests/unit/benchmarks/test_cluster_routing_parity.py`). Both have the thresholds that "
        f"were best for `{AFFINITY}` in this cell, ours the defaults.",
        f"How true it is: {validation} Emulated workers have the device tier only, so no load from another "
        "tier is in these figures.",
        _verdict(study),
        *(f"![{name}]({name})" for name in plots),
    ]
    for runs in study:
        ground = runs.ground
        fits = ground.working_set_tokens / ground.device_tokens
        parts += [
            f"## {runs.cell.name}",
            f"{ground.requests} requests at {runs.cell.load * ground.saturation_per_s:.1f}/s; "
            f"{ground.device_tokens} tokens of KV per worker, working set {fits:.1f} times that.",
            HEAD + "\n" + "\n".join(_row(each) for each in lines(runs)),
        ]
    parts += _sensitivity(study) + _grids(study)
    return "\n\n".join(parts) + "\n"


def as_dict(study: Sequence[CellRuns], setting: Setting, origin: str) -> dict[str, Any]:
    """Every row of every seed, and what the table says of them."""
    return {
        "origin": origin,
        "emulated": True,
        "setting": asdict(setting),
        "cells": [
            {
                **asdict(runs.cell),
                "ground": asdict(runs.ground),
                "best_affinity": runs.affinity.label,
                "lines": [asdict(each) for each in lines(runs)],
                "rows": runs.rows,
            }
            for runs in study
        ],
    }


def _verdict(study: Sequence[CellRuns]) -> str:
    """Where ours stands against the best baseline of each cell."""
    won: list[str] = []
    lost: list[str] = []
    even: list[str] = []
    for runs in study:
        compared = lines(runs)
        best = best_baseline(compared)
        assert best.mean_ratio is not None
        text = f"{runs.cell.name}: {best.label} {_ratio(best.mean_ratio)}"
        (lost if worse(compared) else won if best.mean_ratio.low > 1 else even).append(text)
    return "\n".join(
        f"- {title} ({len(texts)} of {len(study)}): {'; '.join(texts) or 'none'}"
        for title, texts in (
            ("Quicker than the best baseline", won),
            ("No difference beyond the interval", even),
            ("**Slower** than a baseline", lost),
        )
    )


def _row(each: Line) -> str:
    value = each.values
    recomputed = 100 * value["recomputed_tokens"] / value["document_tokens"]
    cells = [
        each.label,
        *(f"{value[f'ttft_{name}_s']:.3f}" for name in ("mean", "p50", "p95", "p99")),
        f"{100 * value['hit_ratio']:.1f}",
        f"{recomputed:.1f}",
        f"{100 * value['least_share']:.1f}-{100 * value['largest_share']:.1f}",
        _ratio(each.mean_ratio),
        _ratio(each.p99_ratio),
    ]
    return "| " + " | ".join(cells) + " |"


def _ratio(found: Ratio | None) -> str:
    return "" if found is None else f"{found.estimate:.2f} ({found.low:.2f} to {found.high:.2f})"


def _tuned(each: Line) -> str:
    """A ratio from the tuning seeds; a single seed says nothing of how sure it is."""
    assert each.mean_ratio is not None
    return f"{each.mean_ratio.estimate:.2f} (one seed)" if each.seeds == 1 else _ratio(each.mean_ratio)


def _sensitivity(study: Sequence[CellRuns]) -> list[str]:
    """Mean TTFT under other weights over that under the default, on the same seeds."""
    table = []
    for runs in study:
        weights = [label for label in runs.rows if label.startswith(OURS) and label != OURS]
        if weights:
            found = ", ".join(f"{label.rpartition('=')[2]}: {_tuned(line(runs, label))}" for label in weights)
            table.append(f"- {runs.cell.name}: {found}")
    if not table:
        return []
    return ["## Other recompute weights, mean TTFT over that of the default", "\n".join(table)]


def _grids(study: Sequence[CellRuns]) -> list[str]:
    table = []
    for runs in study:
        grid = {
            label: rows for label, rows in runs.rows.items() if label.startswith(AFFINITY) or label == RAYS
        }
        shared = min(len(rows) for rows in grid.values())  # the winner has more seeds, which are not for here
        means_s = {
            label: sum(row["ttft_mean_s"] for row in rows[:shared]) / shared for label, rows in grid.items()
        }
        table.append(
            f"- {runs.cell.name}: "
            + ", ".join(
                f"{label.removeprefix(AFFINITY).strip()}: {means_s[label]:.3f} s"
                for label in sorted(means_s, key=means_s.__getitem__)
            )
        )
    return [f"## Thresholds of `{AFFINITY}`, mean TTFT on the tuning seeds, best first", "\n".join(table)]
