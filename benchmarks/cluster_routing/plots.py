"""The study's plots, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.cluster_routing.compare import Line, lines
from benchmarks.cluster_routing.plan import OURS, RAYS
from benchmarks.cluster_routing.study import CellRuns

_COLORS = {
    OURS: "tab:blue",
    "round_robin": "0.6",
    "power_of_two": "0.35",
    "consistent_hash": "tab:green",
    "prefix_affinity": "tab:orange",
    RAYS: "tab:red",
}


def draw(study: Sequence[CellRuns], folder: Path) -> list[str]:
    """``ratios.png``, and ``loads.png`` if there are several loads; returns their names."""
    _ratios(study, folder / "ratios.png")
    if len({runs.cell.load for runs in study}) == 1:
        return ["ratios.png"]
    _loads(study, folder / "loads.png")
    return ["ratios.png", "loads.png"]


def _ratios(study: Sequence[CellRuns], path: Path) -> None:
    """Mean TTFT of each baseline over ours, with intervals, a group of rows per cell."""
    figure, axes = pyplot.subplots(figsize=(8.4, 1.2 + 1.05 * len(study)), layout="constrained")
    for group, runs in enumerate(study):
        for place, each in enumerate(lines(runs)[1:]):
            found = each.mean_ratio
            assert found is not None
            policy = _policy(each)
            axes.errorbar(
                found.estimate,
                group + 0.16 * (place - 2),
                xerr=[[found.estimate - found.low], [found.high - found.estimate]],
                fmt="o",
                capsize=3,
                color=_COLORS[policy],
                label=policy if group == 0 else None,
            )
    axes.axvline(1, color=_COLORS[OURS], linestyle="--", label=OURS)
    axes.set_yticks(range(len(study)), [runs.cell.name for runs in study])
    axes.invert_yaxis()
    axes.set_xscale("log")
    ticks = [tick for tick in (0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100) if _shown(tick, axes.get_xlim())]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("mean TTFT over ours (log scale; right of the line: ours is quicker)")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.4, -0.09 - 0.35 / len(study)), ncols=3, fontsize="small"
    )
    axes.set_title("Routers on emulated clusters, 95 % intervals over seeds")
    figure.savefig(path, dpi=140)
    pyplot.close(figure)


def _loads(study: Sequence[CellRuns], path: Path) -> None:
    """Mean TTFT and hit ratio against load, a column per workload and number of workers."""
    columns = list(dict.fromkeys((runs.cell.preset, runs.cell.workers) for runs in study))
    figure, grid = pyplot.subplots(
        2, len(columns), figsize=(1 + 3.6 * len(columns), 6.2), layout="constrained", squeeze=False
    )
    for column, (preset, workers) in enumerate(columns):
        members = [runs for runs in study if (runs.cell.preset, runs.cell.workers) == (preset, workers)]
        compared = [lines(runs) for runs in members]
        loads = [runs.cell.load for runs in members]
        for router in range(len(compared[0])):
            policy = _policy(compared[0][router])
            for row, name, scale in ((0, "ttft_mean_s", 1), (1, "hit_ratio", 100)):
                values = [scale * each[router].values[name] for each in compared]
                grid[row][column].plot(loads, values, marker="o", color=_COLORS[policy], label=policy)
        grid[0][column].set(title=f"{preset}, {workers} workers", yscale="log")
        grid[1][column].set(xlabel="load (share of saturation)", ylim=(0, None))
        for row in (0, 1):
            grid[row][column].grid(alpha=0.3, which="both")
    grid[0][0].set_ylabel("mean TTFT (s, log scale)")
    grid[1][0].set_ylabel("cached share of prompt tokens (%)")
    grid[1][0].legend(loc="lower left", fontsize="small")  # shares start at 0, so there is room
    figure.savefig(path, dpi=140)
    pyplot.close(figure)


def _policy(each: Line) -> str:
    return each.label.split()[0]


def _shown(tick: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= tick <= limits[1]
