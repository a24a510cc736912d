"""The plots of a load test, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.load.figures import Figures
from benchmarks.load.local import Memory
from benchmarks.load.report import Result
from benchmarks.load.samples import Outcome

_TIER_COLORS = {"device": "tab:blue", "host": "tab:orange", "disk": "tab:green"}
_MOST_LINES = 8


def draw(result: Result, folder: Path) -> list[str]:
    """Write what the test has data for; returns the names of the files."""
    names = ["over_time.png"]
    panels = 4 if result.memory else 3
    figure, axes = pyplot.subplots(
        panels, 1, figsize=(9.0, 2.5 * panels + 0.6), sharex=True, layout="constrained"
    )
    _rates(result.intervals, axes[0])
    _ttft(result, axes[1])
    _cached(result.intervals, axes[2])
    if result.memory:
        _memory(result.memory, axes[3])
    for panel in axes:
        panel.grid(alpha=0.3)
        for number, kill in enumerate(result.kills):
            panel.axvline(
                kill.at_s,
                color="tab:red",
                linestyle=":",
                label=f"{kill.role} killed" if number == 0 else None,
            )
        panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize="small", frameon=False)
    axes[-1].set_xlabel("seconds")
    axes[0].set_title(f"{result.manifest['profile']}: {result.manifest['trace']}")
    figure.savefig(folder / names[0], dpi=120)
    pyplot.close(figure)
    if result.steps:
        names.append("ramp.png")
        figure, panel = pyplot.subplots(figsize=(8.0, 4.6), layout="constrained")
        _ramp(result, panel)
        figure.savefig(folder / names[-1], dpi=120)
        pyplot.close(figure)
    return names


def _middles(rows: Sequence[Figures]) -> list[float]:
    return [(row.begin_s + row.end_s) / 2 for row in rows]


def _rates(rows: Sequence[Figures], axes: Axes) -> None:
    axes.plot(_middles(rows), [row.offered_rate for row in rows], color="0.45", label="offered")
    served = [row.served / (row.end_s - row.begin_s) for row in rows]
    axes.plot(_middles(rows), served, color="tab:blue", marker="o", label="served")
    for outcome in Outcome:
        lost = [row.outcomes.get(outcome, 0) / (row.end_s - row.begin_s) for row in rows]
        if outcome is not Outcome.OK and any(lost):
            axes.plot(_middles(rows), lost, marker="x", linestyle="--", label=outcome.value)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("requests/s, by when due")


def _ttft(result: Result, axes: Axes) -> None:
    rows = [row for row in result.intervals if row.ttft.mean]
    for name, color in (("p50", "tab:blue"), ("p95", "tab:orange"), ("p99", "tab:red")):
        axes.plot(
            _middles(rows), [getattr(row.ttft, name) for row in rows], color=color, marker="o", label=name
        )
    if result.objective_s is not None:
        axes.axhline(result.objective_s, color="0.3", linewidth=1, label="objective (mean)")
    _log_scale(axes)
    axes.set_ylabel("time to first token, s")


def _cached(rows: Sequence[Figures], axes: Axes) -> None:
    left = [0.0] * len(rows)
    for tier, color in _TIER_COLORS.items():
        shares = [100 * row.cached_ratio.get(tier, 0.0) for row in rows]
        if any(shares):
            width = [0.9 * (row.end_s - row.begin_s) for row in rows]
            axes.bar(_middles(rows), shares, width=width, bottom=left, color=color, label=tier)
            left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set_ylim(0, 100)
    axes.set_ylabel("cached prompt tokens, %")


def _memory(measured: Sequence[Memory], axes: Axes) -> None:
    last = measured[-1].pss_bytes
    times_s = [each.at_s for each in measured]
    for label in sorted(last, key=lambda each: -last[each])[:_MOST_LINES]:
        axes.plot(times_s, [each.pss_bytes.get(label, 0) / 1e6 for each in measured], label=label)
    _log_scale(axes)
    axes.set_ylabel("PSS, MB")


def _ramp(result: Result, axes: Axes) -> None:
    order = sorted(range(len(result.tried)), key=lambda number: result.tried[number][0])
    rates = [result.tried[number][0] for number in order]
    steps = [result.steps[number] for number in order]
    axes.plot(rates, [step.ttft.mean for step in steps], marker="o", label="mean")
    axes.plot(rates, [step.ttft.p99 for step in steps], marker="o", color="0.6", label="p99")
    if result.objective_s is not None:
        axes.axhline(result.objective_s, color="tab:red", linewidth=1, label="objective for the mean")
    if result.rate_at_slo is not None:
        axes.axvline(
            result.rate_at_slo, color="tab:green", linewidth=1, label=f"at SLO: {result.rate_at_slo:.2f}/s"
        )
    axes.set_xlim(left=0)
    _log_scale(axes)
    axes.set_xlabel("mean rate asked for, requests/s")
    axes.set_ylabel("time to first token, s (log scale)")
    axes.set_title("Time to first token against load")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")


def _log_scale(axes: Axes) -> None:
    """With 0.2, 0.5 and 2,000 on the axis, in place of powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
