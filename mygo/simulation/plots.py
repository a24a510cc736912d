"""Pictures of a sweep and of a plan. Needs matplotlib, which is imported only here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mygo.errors import ConfigError
from mygo.simulation.planner import Plan, Slo
from mygo.simulation.sweep import Memory, Point, Row

AXES: Mapping[str, tuple[str, Callable[[Point], float | None]]] = {
    "rate_per_s": ("requests/s of the cluster", lambda point: point.rate_per_s),
    "workers": ("workers", lambda point: point.workers),
    "kv_gb": ("device KV per worker (GB)", lambda point: point.kv_gb),
    "host_gb": ("KV in host memory per worker (GB)", lambda point: point.host_gb),
    "disk_gb": ("KV on disk per worker (GB)", lambda point: point.disk_gb),
}


def plot_sweep(rows: Sequence[Row], path: Path, title: str) -> bool:
    """TTFT and hit ratio along the first swept axis, a line for each combination of the others.

    False, and no file, if no axis has two values. Raises ConfigError without matplotlib.
    """
    axis = next((name for name, (_, value) in AXES.items() if len({value(r.point) for r in rows}) > 1), None)
    if axis is None:
        return False
    label, value = AXES[axis]
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(_line_name(row.point, rows, axis), []).append(row)
    figure, (left, right) = _pyplot().subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, members in lines.items():
        members.sort(key=lambda row: value(row.point) or 0.0)
        x = [value(row.point) for row in members]
        (drawn,) = left.plot(x, [row.summary.ttft_p95_s for row in members], marker="o", label=f"{name} p95")
        left.plot(
            x,
            [row.summary.ttft_p50_s for row in members],
            linestyle=":",
            marker=".",
            color=drawn.get_color(),
            label=f"{name} p50",
        )
        right.plot(x, [100 * row.summary.hit_ratio for row in members], marker="o", label=name)
    left.set(xlabel=label, ylabel="TTFT (s)", yscale="log")
    right.set(xlabel=label, ylabel="cached share of prompt tokens (%)", ylim=(0, 100))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(f"{title} (emulated)")
    _save(figure, path)
    return True


def plot_plan(plans: Mapping[Memory, Plan], slo: Slo, path: Path, title: str) -> None:
    """TTFT against workers for each size of their memory, with the promise as a line."""
    figure, axes = _pyplot().subplots(figsize=(7, 4.2), layout="constrained")
    for memory, plan in plans.items():
        found = "more" if plan.workers is None else str(plan.workers)
        axes.plot(
            [row.point.workers for row in plan.tried],
            [slo.seconds(row.summary) for row in plan.tried],
            marker="o",
            label=f"{memory}: {found} workers",
        )
    axes.axhline(slo.ttft_s, color="black", linestyle="--", label=f"SLO {slo.ttft_s:g} s")
    axes.set(xlabel="workers", ylabel=f"TTFT p{slo.percentile} (s)", xscale="log", yscale="log")
    tried = sorted({row.point.workers for plan in plans.values() for row in plan.tried})
    axes.set_xticks(tried, [str(workers) for workers in tried])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(f"{title} (emulated)")
    _save(figure, path)


def _line_name(point: Point, rows: Sequence[Row], axis: str) -> str:
    """The settings that differ between lines; those that all rows share say nothing."""
    parts = []
    for name, shown in (
        ("workers", f"{point.workers} workers"),
        ("kv_gb", f"{point.kv_gb:g} GB"),
        ("host_gb", f"{point.host_gb:g} GB host"),
        ("disk_gb", f"{point.disk_gb:g} GB disk"),
        ("rate_per_s", "" if point.rate_per_s is None else f"{point.rate_per_s:g}/s"),
        ("policy", point.policy),
        ("document_order", f"order {point.document_order}"),
    ):
        if name != axis and len({getattr(row.point, name) for row in rows}) > 1:
            parts.append(shown)
    return ", ".join(parts) or point.policy


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=130)
    _pyplot().close(figure)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install matplotlib, or leave out --out") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
