"""What the order of admission is worth, against first come, first served.

    python -m benchmarks.ordering [--requests 1200] [--warmup 400] [--load 0.9] [--seeds 3] ...
    python -m benchmarks.ordering --beside MODEL [--rounds 6]

The first on emulated engines in virtual time, with a device tier of a third of the working set and no other:
each order on the same traces, at a share of the rate that first come, first served sustains. The second in a
real engine: how long a warm request's first token takes beside a cold prompt of 4,000 tokens, and on an idle
engine. Prints a table, writes it as JSON; exit status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import arguments as types
from benchmarks.accept import revision
from benchmarks.ordering import beside
from benchmarks.ordering.plan import FIRST_COME, MOST_BESIDE_IDLE, SYSTEMS, Line, broken, lines
from benchmarks.tiers import measure
from benchmarks.tiers.measure import Task
from benchmarks.tiers.plan import Cell, Setting
from benchmarks.verdict import conclude
from mygo.errors import MygoError
from mygo.vllm_plugin.settings import TierSettings


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(width=130)
    try:
        study = _real if options.beside is not None else _emulated
        report, problems = study(options, console)
        report |= {"commit": revision(), "broken": problems}
        return conclude(console, report, problems, options.out)
    except MygoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _emulated(options: argparse.Namespace, console: Console) -> tuple[dict[str, Any], list[str]]:
    setting = Setting(options.profile, options.output_scale, device_share=options.device_share)
    sizes = (options.requests, options.warmup)
    with measure.settled_pool() as pool:
        ground = pool.submit(measure.survey, setting, options.preset, *sizes, FIRST_COME).result()
        cell = Cell(options.preset, options.load)
        rows: dict[str, list[dict[str, Any]]] = {system.name: [] for system in SYSTEMS}
        for seed in range(options.seeds):
            for system in SYSTEMS:
                row = pool.submit(measure.run, Task(setting, ground, cell, system, seed)).result()
                rows[system.name].append(row)
                console.print(f"seed {seed}, {system.name}: {statistics.mean(row['ttft_s']):.3f} s")
    found = lines(rows)
    console.print(
        f"{cell.name}: {ground.requests} requests behind {ground.warmup}, {options.seeds} seeds, "
        f"{options.load * ground.saturation_per_s:.2f} a second; device {ground.device_tokens:,} tokens of a "
        f"working set of {ground.working_set_tokens:,}. Emulated. Ratios are first come's over its."
    )
    console.print(_table(found))
    report = {"ground": asdict(ground), "lines": [asdict(line) for line in found], "rows": rows}
    return report, broken(found)


def _table(found: list[Line]) -> Table:
    table = Table()
    columns = ("order", "TTFT mean s", "p50", "p99", "ITL p99", "device %", "mean ratio", "p99 ratio")
    for column in columns:
        table.add_column(column)
    for line in found:
        figures = (line.ttft_mean_s, line.ttft_p50_s, line.ttft_p99_s, line.itl_p99_s, 100 * line.hits)
        ratios = (
            f"{each.estimate:.3f} [{each.low:.3f}, {each.high:.3f}]"
            for each in (line.mean_ratio, line.p99_ratio)
        )
        table.add_row(line.system.name, *(f"{figure:.3f}" for figure in figures), *ratios)
    return table


def _real(options: argparse.Namespace, console: Console) -> tuple[dict[str, Any], list[str]]:
    table = Table()
    for column in ("engine", "idle s", "beside s", "most", "beside / idle", "long s"):
        table.add_column(column)
    report: dict[str, Any] = {}
    problems: list[str] = []
    engines = {
        "mygo": TierSettings(),
        "first come": TierSettings(**FIRST_COME.overrides, protect_short=False),
    }
    for name, tiers in engines.items():
        found = beside.measure(options.beside, tiers, options.rounds)
        idle_s, beside_s = statistics.median(found.idle_s), statistics.median(found.beside_s)
        share = beside_s / idle_s
        report[name] = asdict(found) | {"beside_over_idle": share}
        figures = (idle_s, beside_s, max(found.beside_s), share, statistics.median(found.long_s))
        table.add_row(name, *(f"{figure:.3f}" for figure in figures))
        if name == "mygo" and share > MOST_BESIDE_IDLE:
            problems.append(
                f"a warm request takes {share:.2f} times as long beside a long prompt as on an idle engine; "
                f"{MOST_BESIDE_IDLE:g} are allowed"
            )
    console.print(table)
    return report, problems


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ordering",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", default="ragcache-mmlu", help="workload (ragcache-mmlu)")
    add("--requests", type=types.count, default=1_200, help="of each trace that count (1200)")
    add("--warmup", type=types.count, default=400, help="requests before those, which fill the cache (400)")
    add("--load", type=types.positive, default=0.9, help="share of the saturation rate (0.9)")
    add("--seeds", type=types.count, default=3, help="traces (3)")
    add("--device-share", type=types.positive, default=1 / 3, help="of the working set (a third)")
    add("--profile", default="llama-3-8b-h100", help="of the emulated engine: a name, or a JSON file")
    add("--output-scale", type=types.positive, default=0.1, help="factor on the length of answers (0.1)")
    add("--beside", type=Path, metavar="MODEL", help="folder of a checkpoint, for the real engine")
    add("--rounds", type=types.count, default=6, help="long prompts for the real engine (6)")
    add("--out", type=Path, help="JSON file (results/ordering.json, or results/ordering-beside.json)")
    options = parser.parse_args(arguments)
    if options.out is None:
        kind = "ordering" if options.beside is None else "ordering-beside"
        options.out = Path("results") / f"{kind}.json"
    return options


if __name__ == "__main__":
    sys.exit(main())
