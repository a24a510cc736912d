"""``mygo simulate``: a trace on a cluster that is not there; and how large that cluster must be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mygo.cli.terminal import err, out
from mygo.emulation.profile import EngineProfile
from mygo.emulation.profile import load as load_profile
from mygo.errors import ConfigError
from mygo.simulation.planner import Plan, Slo, least_workers
from mygo.simulation.plots import plot_plan, plot_sweep
from mygo.simulation.sweep import BYTES_PER_GB, Grid, Memory, Point, Row, Setting, simulate
from mygo.simulation.working_set import working_set_tokens
from mygo.tree.admission import ORDERS
from mygo.tree.policies import POLICIES
from mygo.types import Tier
from mygo.vllm_plugin.settings import TierSettings
from mygo.workloads.trace import Trace

T = TypeVar("T")

COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "workers": lambda row: str(row.point.workers),
    "KV GB": lambda row: f"{row.point.kv_gb:g}",
    "host GB": lambda row: f"{row.point.host_gb:g}",
    "disk GB": lambda row: f"{row.point.disk_gb:g}",
    "req/s": lambda row: f"{row.summary.requests_per_s:.2f}",
    "policy": lambda row: row.point.policy,
    "order": lambda row: row.point.document_order,
    "TTFT p50": lambda row: f"{row.summary.ttft_p50_s:.3f}",
    "p95": lambda row: f"{row.summary.ttft_p95_s:.3f}",
    "p99": lambda row: f"{row.summary.ttft_p99_s:.3f}",
    "ITL p99": lambda row: f"{row.summary.itl_p99_s:.4f}",
    "hit %": lambda row: f"{100 * row.summary.hit_ratio:.1f}",
    "host %": lambda row: f"{100 * row.summary.hit_share(Tier.HOST):.1f}",
    "disk %": lambda row: f"{100 * row.summary.hit_share(Tier.DISK):.1f}",
    "shares %": lambda row: f"{100 * row.summary.least_share:.0f}-{100 * row.summary.largest_share:.0f}",
    "refused": lambda row: str(row.refused),
}
SETTINGS = ("workers", "KV GB", "host GB", "disk GB", "policy", "order", "host %", "disk %", "refused")
"""Columns that say nothing where all rows have the same."""
TEXTS = ("policy", "order")
RULES = (
    "policy",
    "lookahead_share",
    "prefetch",
    "load_gate",
    "layerwise",
    "admission",
    "admission_window",
)
"""Of ``TierSettings``: what rules the tiers of all rows."""


@dataclass(frozen=True, slots=True)
class Result:
    setting: Setting
    rows: list[Row]
    plans: dict[Memory, Plan]
    """Empty without a promise."""
    slo: Slo | None

    def as_dict(self) -> dict[str, Any]:
        profile, trace = self.setting.profile, self.setting.trace
        return {
            "emulated": True,
            "profile": {"name": profile.name, "source": profile.source},
            "trace": {
                "name": trace.name,
                "seed": trace.seed,
                "requests": len(trace.requests),
                **trace.parameters,
            },
            "slo": None if self.slo is None else asdict(self.slo),
            "cache": {name: getattr(self.setting.tiers, name) for name in RULES},
            "plans": [
                {
                    "kv_gb": memory.device_gb,
                    "host_gb": memory.host_gb,
                    "disk_gb": memory.disk_gb,
                    "workers": plan.workers,
                }
                for memory, plan in self.plans.items()
            ],
            "rows": [row.as_dict() for row in self.rows],
        }


def setting(trace: Trace, profile: str, seed: int, tiers: TierSettings | None = None) -> Setting:
    """``tiers``: what rules them; sizes are the grid's. Raises ConfigError if there is no such profile or
    replacement policy."""
    loaded: EngineProfile = load_profile(profile)
    tiers = tiers or TierSettings()
    if tiers.policy not in POLICIES:
        raise ConfigError(f"--cache-policy {tiers.policy!r}: does not exist; use {', '.join(POLICIES)}")
    if tiers.admission not in ORDERS:
        raise ConfigError(f"--admission {tiers.admission!r}: does not exist; use {', '.join(ORDERS)}")
    return Setting(loaded, trace, seed, tiers=tiers)


def grid(
    setting: Setting,
    *,
    workers: str,
    kv_gb: str,
    rate: str = "",
    policy: str = "predicted_seconds",
    order: str = "retrieval",
    host: str = "0",
    disk: str = "0",
) -> Grid:
    """The axes from lists with commas. Sizes of ``host`` and ``disk`` are GB, or with a % sign shares of the
    trace's working set. Raises ConfigError that names the option and the value."""
    return Grid(
        host_gb=_sizes("--host", host, setting),
        disk_gb=_sizes("--disk", disk, setting),
        workers=_list("--workers", workers, int),
        kv_gb=_list("--kv-gb", kv_gb, float),
        rates_per_s=_list("--rate", rate, float) if rate else [None],
        policies=_list("--policy", policy, str),
        document_orders=_list("--order", order, str),
    )


def promise(ttft_s: float, percentile: int) -> Slo:
    """Raises ConfigError for a time or percentile that cannot be."""
    if not 0 < ttft_s < math.inf:
        raise ConfigError(f"--plan: must be seconds above 0, not {ttft_s}")
    if percentile not in (50, 95, 99):
        raise ConfigError(f"--percentile: must be 50, 95 or 99, not {percentile}")
    return Slo(ttft_s, percentile)


def sweep(setting: Setting, grid: Grid) -> Result:
    with _progress() as progress:
        rows = [
            _run(setting, point, progress, f"{i}/{len(grid)}") for i, point in enumerate(grid.points(), 1)
        ]
    return Result(setting, rows, {}, None)


def plan(setting: Setting, grid: Grid, slo: Slo, most_workers: int) -> Result:
    """The least workers for each size of their memory; the other axes of the grid must have one value."""
    for name, values in (
        ("--rate", grid.rates_per_s),
        ("--policy", grid.policies),
        ("--order", grid.document_orders),
    ):
        if len(values) != 1:
            raise ConfigError(f"{name}: a plan takes one value, not {len(values)}; run it once for each")
    plans: dict[Memory, Plan] = {}
    with _progress() as progress:
        for like in grid.points():

            def try_workers(workers: int, like: Point = like) -> Row:
                return _run(
                    setting, replace(like, workers=workers), progress, f"{like.memory}, {workers} workers"
                )

            if like.memory not in plans:
                plans[like.memory] = least_workers(try_workers, slo, most_workers)
    rows = [row for each in plans.values() for row in each.tried]
    return Result(setting, rows, plans, slo)


def show(result: Result) -> None:
    profile, trace = result.setting.profile, result.setting.trace
    title = f"{trace.name}, {len(trace.requests)} requests, {profile.model} on {profile.device}"
    out.print(title, style="bold", markup=False)
    out.print(
        "emulated: vLLM's scheduler and MyGO's plugin, directory and routing; times in s, from the profile"
    )
    varied, shared = _columns(result.rows)
    out.print(", ".join(f"{name} {cell}" for name, cell in shared.items()), markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 1))
    for name in varied:
        table.add_column(name, justify="left" if name in TEXTS else "right", no_wrap=True)
    for row in result.rows:
        table.add_row(*(COLUMNS[name](row) for name in varied))
    out.print(table)
    for memory, found in result.plans.items():
        assert result.slo is not None
        promise = f"TTFT p{result.slo.percentile} within {result.slo.ttft_s:g} s"
        if found.workers is None:
            most = found.tried[-1].point.workers
            out.print(f"{memory} each: even {most} workers do not keep {promise}")
        else:
            out.print(f"{memory} each: [bold]{found.workers} workers[/bold] keep {promise}")


def claim(folder: Path) -> None:
    """Make ``folder``, before hours are spent. Raises ConfigError if it cannot be made, or holds anything."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: no folder can be there ({error}); give another one") from error
    if any(folder.iterdir()):
        raise ConfigError(f"--out {folder}: is there already; give a folder that is new or empty")


def write(result: Result, folder: Path) -> list[Path]:
    """JSON, Markdown and a plot in ``folder``, which ``claim`` has made."""
    written = [folder / "simulation.json", folder / "simulation.md"]
    written[0].write_text(json.dumps(result.as_dict(), indent=2) + "\n")
    written[1].write_text(_markdown(result))
    title = f"{result.setting.trace.name} on {result.setting.profile.name}"
    picture = folder / "simulation.png"
    if result.slo is not None:
        plot_plan(result.plans, result.slo, picture, title)
        written.append(picture)
    elif plot_sweep(result.rows, picture, title):
        written.append(picture)
    return written


def _run(setting: Setting, point: Point, progress: Progress, name: str) -> Row:
    total = len(setting.trace.requests)
    task = progress.add_task(name, total=total)
    row, _ = simulate(setting, point, lambda done: progress.update(task, completed=done))
    progress.remove_task(task)
    return row


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err, transient=True)


def _columns(rows: Sequence[Row]) -> tuple[list[str], dict[str, str]]:
    """Columns that differ between rows or are measured, and settings that all rows share."""
    varied: list[str] = []
    shared: dict[str, str] = {}
    for name, cell in COLUMNS.items():
        cells = {cell(row) for row in rows}
        if name in SETTINGS and len(cells) == 1:
            shared[name] = cells.pop()
        else:
            varied.append(name)
    return varied, shared


def _markdown(result: Result) -> str:
    profile, trace = result.setting.profile, result.setting.trace
    lines = [
        f"# {trace.name} on {profile.name} (emulated)",
        "",
        f"{len(trace.requests)} requests, seed {trace.seed}. Seconds from: {profile.source}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + " --- |" * len(COLUMNS),
        *("| " + " | ".join(cell(row) for cell in COLUMNS.values()) + " |" for row in result.rows),
        "",
    ]
    for memory, found in result.plans.items():
        answer = "no number tried suffices" if found.workers is None else f"{found.workers} workers"
        lines.append(f"- {memory} per worker: {answer}")
    return "\n".join(lines) + "\n"


def _sizes(option: str, text: str, setting: Setting) -> list[float]:
    """GB, in the order given."""
    working_set_gb = working_set_tokens(setting.trace) * setting.profile.kv_bytes_per_token / BYTES_PER_GB
    sizes_gb: list[float] = []
    for part in text.split(","):
        number = part.strip()
        try:
            size = float(number.removesuffix("%"))
        except ValueError:
            raise ConfigError(
                f"{option} {text!r}: must be GB, or shares as 10%, with commas between"
            ) from None
        if not 0 <= size < math.inf:
            raise ConfigError(f"{option}: must be 0 or more and finite, not {number}")
        sizes_gb.append(size / 100 * working_set_gb if number.endswith("%") else size)
    return sizes_gb


def _list(option: str, text: str, kind: Callable[[str], T]) -> list[T]:
    try:
        values = [kind(part.strip()) for part in text.split(",")]
    except ValueError as error:
        kinds = {int: "whole numbers", float: "numbers"}.get(kind, "names")  # type: ignore[call-overload]
        raise ConfigError(f"{option} {text!r}: must be {kinds} with commas between ({error})") from None
    for value in values:
        if isinstance(value, int | float) and not 0 < value < math.inf:
            raise ConfigError(f"{option}: must be above 0 and finite, not {value}")
    return values
