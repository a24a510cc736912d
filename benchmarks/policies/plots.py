"""The comparison's plot, as a PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.ticker import NullLocator, PercentFormatter

from benchmarks.policies.report import lines
from benchmarks.policies.study import ORACLE, Run

_DASHED = {ORACLE: "black", "lru": "0.6"}


def draw(runs: Sequence[Run], path: Path, default: str) -> None:
    """Seconds saved against cache size, a panel per workload, a line per policy."""
    found = lines(runs)
    workloads = list(dict.fromkeys(line.workload for line in found))
    figure, panels = pyplot.subplots(
        1, len(workloads), figsize=(1 + 3.8 * len(workloads), 4.6), layout="constrained", squeeze=False
    )
    policies = sorted({line.policy for line in found}, key=lambda name: (name != default, name))
    for axes, workload in zip(panels[0], workloads, strict=True):
        for policy in policies:
            those = sorted(
                (line.size, line.saved_share, line.spread)
                for line in found
                if line.workload == workload and line.policy == policy
            )
            sizes, shares, spreads = zip(*those, strict=True)
            axes.errorbar(
                sizes,
                shares,
                yerr=spreads,
                capsize=2,
                marker="o",
                markersize=4,
                linewidth=2.5 if policy == default else 1.2,
                linestyle="--" if policy in _DASHED else "-",
                color=_DASHED.get(policy),
                label=policy,
            )
        axes.set(title=workload, xscale="log", xlabel="cache (share of the working set)", ylim=(0, None))
        axes.set_xticks(sizes, [f"{size:.0%}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("prefill seconds saved")
    panels[0][0].legend(fontsize="small", loc="lower right")
    figure.savefig(path, dpi=140)
    pyplot.close(figure)
