"""The study's plot, as a PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.tiers.plan import SYSTEMS
from benchmarks.tiers.report import CellResult

_COLORS = ("tab:blue", "tab:orange", "tab:red", "0.5", "tab:green")


def draw(study: Sequence[CellResult], folder: Path) -> list[str]:
    """``loads.png``: mean TTFT and goodput along the loads, a row for each workload; returns its name."""
    presets = list(dict.fromkeys(result.cell.preset for result in study))
    figure, grid = pyplot.subplots(
        len(presets), 2, figsize=(10, 0.6 + 3.2 * len(presets)), layout="constrained", squeeze=False
    )
    for (left, right), preset in zip(grid, presets, strict=True):
        results = [result for result in study if result.cell.preset == preset]
        loads = [result.cell.load for result in results]
        for place, (system, color) in enumerate(zip(SYSTEMS, _COLORS, strict=True)):
            found = [result.lines[place] for result in results]
            left.plot(loads, [line.ttft_mean_s for line in found], marker="o", color=color, label=system.name)
            right.plot(loads, [line.goodput_per_s for line in found], marker="o", color=color)
        left.axhline(results[0].ground.slo_s, color="black", linestyle=":", label="promise")
        left.set(ylabel="mean TTFT (s)", yscale="log", title=preset)
        right.set(ylabel="requests/s within the promise", ylim=(0, None), title=preset)
        for axes in (left, right):
            axes.set(xlabel="load (share of native saturation)", xticks=loads)
            axes.grid(alpha=0.3)
        left.legend(fontsize=8)
    figure.savefig(folder / "loads.png", dpi=130)
    pyplot.close(figure)
    return ["loads.png"]
