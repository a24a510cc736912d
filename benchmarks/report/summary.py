"""A whole run in figures: what the tables, the plots and ``report.json`` are made of. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.records import Record, RoundRecord
from benchmarks.report.compare import (
    Agreement,
    Comparison,
    agreement,
    compare,
    slo_s,
    throughput_at_slo,
)
from benchmarks.report.figures import Figures, figures

NO_REUSE = "vllm"
"""The system whose answers are the reference."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One system under one load."""

    figures: Figures
    comparison: Comparison | None
    """None for a baseline."""
    agreement: Agreement | None
    """None if no system without reuse ran beside it, for itself, and for one that reorders documents."""
    ttft_s: tuple[float, ...]
    """Of every request, sorted."""


@dataclass(frozen=True, slots=True)
class Row:
    label: str
    group: int
    summary: str
    cells: dict[str, Cell]
    """By load; only loads that were served."""
    own_slo_s: float | None
    slo_rate: float | None
    """Highest rate with the mean TTFT below the run's objective."""
    own_slo_rate: float | None
    """The same with the objective that its own lowest-rate TTFT gives."""


@dataclass(frozen=True, slots=True)
class Summary:
    run: dict[str, Any]
    loads: tuple[str, ...]
    """That were served, in the order of the run."""
    rows: tuple[Row, ...]
    slo_s: float | None
    """The objective: of the baseline; None without open loads."""
    missing: int
    """Rounds that were planned and not run."""

    def cells(self, load: str) -> list[tuple[Row, Cell]]:
        return [(row, row.cells[load]) for row in self.rows if load in row.cells]


RequestsOf = Callable[[str, str], Sequence[Record]]
RoundsOf = Callable[[str, str], Sequence[RoundRecord]]


def summarise(run: dict[str, Any], requests_of: RequestsOf, rounds_of: RoundsOf) -> Summary:
    """``run`` is the manifest; the others give what is known of (system label, load)."""
    planned = {load["name"]: load["rounds"] for load in run["loads"]}
    rows: list[Row] = []
    objective_s: float | None = None
    missing = 0
    for members in run["systems"]:
        labels = [member["label"] for member in members]
        reference = next((member["label"] for member in members if member["system"] == NO_REUSE), None)
        for member in members:
            label = member["label"]
            cells: dict[str, Cell] = {}
            for load in planned:
                records, rounds = requests_of(label, load), rounds_of(label, load)
                missing += planned[load] - len(rounds)
                if not any(each.error is None for each in records):
                    continue
                cells[load] = Cell(
                    figures=figures(records, rounds),
                    comparison=None if label == labels[0] else compare(records, requests_of(labels[0], load)),
                    agreement=agreement(records, requests_of(reference, load))
                    if reference is not None and label != reference and member["keeps_order"]
                    else None,
                    ttft_s=tuple(sorted(each.ttft_s for each in records if each.ttft_s is not None)),
                )
            by_rate = {
                cell.figures.rate: cell.figures.ttft.mean
                for cell in cells.values()
                if cell.figures.rate is not None
            }
            if by_rate and objective_s is None:
                objective_s = slo_s(by_rate)
            own_s = slo_s(by_rate) if by_rate else None
            rows.append(
                Row(
                    label=label,
                    group=member["group"],
                    summary=member["summary"],
                    cells=cells,
                    own_slo_s=own_s,
                    slo_rate=None if objective_s is None else throughput_at_slo(by_rate, objective_s),
                    own_slo_rate=None if own_s is None else throughput_at_slo(by_rate, own_s),
                )
            )
    served = tuple(load for load in planned if any(load in row.cells for row in rows))
    return Summary(run, served, tuple(rows), objective_s, missing)
