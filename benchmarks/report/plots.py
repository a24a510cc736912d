"""The report's plots, as PNG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.report.compare import SLO_FACTOR
from benchmarks.report.figures import STAGES
from benchmarks.report.summary import Row, Summary

_COLORS = pyplot.get_cmap("tab10").colors  # type: ignore[attr-defined]
_BASELINE_COLOR = "0.45"
_TIER_COLORS = {"device": "tab:blue", "host": "tab:orange", "disk": "tab:green"}
VISIBLE_S = 0.001
"""A stage of which no system has more is not in the legend."""
_DASHES = ("-", "--", "-.", ":")


def draw(summary: Summary, folder: Path) -> list[str]:
    """Write what the run has data for; returns the names of the files."""
    drawers: dict[str, Callable[[Summary, Axes], None]] = {}
    if summary.loads:
        drawers |= {"ttft_cdf.png": _cdf, "hit_ratio.png": _hits, "stages.png": _stages}
        if any(cell.comparison for _, cell in summary.cells(summary.loads[0])):
            drawers["ratios.png"] = _ratios
    if summary.slo_s is not None:
        drawers["ttft_load.png"] = _ttft_against_load
    for name, drawer in drawers.items():
        bars = drawer in (_hits, _stages, _ratios)
        height = 1.6 + 0.45 * len(summary.rows) if bars else 4.8
        figure, axes = pyplot.subplots(figsize=(8.4, max(3.0, height)), layout="constrained")
        drawer(summary, axes)
        figure.savefig(folder / name, dpi=140)
        pyplot.close(figure)
    return sorted(drawers)


def _cdf(summary: Summary, axes: Axes) -> None:
    load = summary.loads[0]
    for row, cell in summary.cells(load):
        shares = [(index + 1) / len(cell.ttft_s) for index in range(len(cell.ttft_s))]
        axes.step(cell.ttft_s, shares, where="post", label=row.label, **_style(summary, row))
    axes.set_xscale("log")
    _plain(axes.xaxis)
    axes.set_xlabel("time to first token, s (log scale)")
    axes.set_ylabel("share of requests")
    axes.set_ylim(0, 1.02)
    axes.set_title(f"Time to first token, {_name(load)}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right", fontsize="small")


def _ttft_against_load(summary: Summary, axes: Axes) -> None:
    for row in summary.rows:
        points = sorted(
            (cell.figures.rate, cell.figures.ttft.mean)
            for cell in row.cells.values()
            if cell.figures.rate is not None
        )
        if points:
            rates, seconds = zip(*points, strict=True)
            axes.plot(rates, seconds, marker="o", label=row.label, **_style(summary, row))
    assert summary.slo_s is not None
    axes.axhline(
        summary.slo_s,
        color="tab:red",
        linewidth=1,
        label=f"objective: {SLO_FACTOR:g} x baseline at lowest rate",
    )
    axes.set_yscale("log")
    _plain(axes.yaxis)
    axes.set_xlim(left=0)
    axes.set_xlabel("offered rate, requests/s")
    axes.set_ylabel("mean time to first token, s (log scale)")
    axes.set_title("Time to first token against load")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")


def _hits(summary: Summary, axes: Axes) -> None:
    cells = summary.cells(summary.loads[0])
    left = [0.0] * len(cells)
    for tier, color in _TIER_COLORS.items():
        shares = [100 * cell.figures.cached_ratio.get(tier, 0.0) for _, cell in cells]
        if any(shares):
            axes.barh([row.label for row, _ in cells], shares, left=left, color=color, label=tier)
            left = [a + b for a, b in zip(left, shares, strict=True)]
    for index, total in enumerate(left):
        axes.text(total + 1, index, f"{total:.1f} %", va="center", fontsize="small")
    axes.set_xlim(0, 110)
    axes.set_xlabel("prompt tokens from a cache, %")
    axes.set_title(f"Cached tokens by tier, {_name(summary.loads[0])}")
    _bars(axes, legend=any(left))


def _ratios(summary: Summary, axes: Axes) -> None:
    cells = [(row, cell) for row, cell in summary.cells(summary.loads[0]) if cell.comparison]
    for index, (_, cell) in enumerate(cells):
        comparison = cell.comparison
        assert comparison is not None
        for offset, (name, value, color) in enumerate(
            (("mean", comparison.ttft_mean, "tab:blue"), ("median", comparison.ttft_median, "tab:orange"))
        ):
            place = index - 0.18 + 0.36 * offset
            error = [[value.estimate - value.low], [value.high - value.estimate]]
            axes.barh(
                place,
                value.estimate,
                height=0.34,
                color=color,
                xerr=error,
                capsize=3,
                label=f"{name} TTFT, 95 % interval" if index == 0 else None,
            )
            axes.annotate(
                f"{value.estimate:.2f}",
                (value.high, place),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
            )
    axes.set_yticks(range(len(cells)), [row.label for row, _ in cells])
    axes.axvline(1, color="0.3", linewidth=1)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel("time to first token: the group's baseline over the system (above 1: sooner)")
    axes.set_title(f"Beside {summary.rows[0].label}, {_name(summary.loads[0])}")
    _bars(axes, legend=True)


def _stages(summary: Summary, axes: Axes) -> None:
    cells = summary.cells(summary.loads[0])
    left = [0.0] * len(cells)
    for number, stage in enumerate(stage for stage in STAGES if stage != "decode"):
        seconds = [cell.figures.stages_s[stage] for _, cell in cells]
        label = stage if max(seconds) >= VISIBLE_S else None
        axes.barh([row.label for row, _ in cells], seconds, left=left, color=_COLORS[number], label=label)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    axes.set_xlabel("mean seconds to the first token")
    axes.set_title(f"Where the time to first token goes, {_name(summary.loads[0])}")
    _bars(axes, legend=True)


def _plain(axis: Axis) -> None:
    """Numbers as people write them on a log axis, closely enough for a range below a decade."""
    axis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _bars(axes: Axes, *, legend: bool) -> None:
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    if legend:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize="small", frameon=False)


def _style(summary: Summary, row: Row) -> dict[str, Any]:
    labels = [each.label for each in summary.rows]
    index = labels.index(row.label)
    if index == 0:
        return {"color": _BASELINE_COLOR, "linestyle": "-"}
    return {"color": _COLORS[(index - 1) % len(_COLORS)], "linestyle": _DASHES[(index - 1) % len(_DASHES)]}


def _name(load: str) -> str:
    kind, _, value = load.partition("-")
    if kind == "closed":
        return "one request at a time" if value == "1" else f"{value} requests at a time"
    return f"open load {value}"
