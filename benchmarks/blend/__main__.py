"""Chunk reuse against exact caching with the same memory, on emulated engines in virtual time.

    python -m benchmarks.blend [--presets ragpulse,cachecraft] [--requests 1000] [--warmup 2000] ...

Both sides are MyGO with its tiers; one gives half of host memory and disk to chunks and blends whatever it
can. Nothing is computed here, so this says what blending saves, and nothing of its quality: that is what
``mygo calibrate`` measures. Prints the report; writes ``report.md`` and one line per run in ``runs.jsonl``.
The same command goes on where it was stopped. Ends with status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import arguments as types
from benchmarks.accept import revision
from benchmarks.blend.measure import Setting, Task, run
from benchmarks.blend.report import Target, figures, targets
from benchmarks.cluster_routing.store import Row, Store
from benchmarks.tiers.measure import CLIENTS, settled_pool
from benchmarks.tiers.plan import Setting as Memory
from benchmarks.tiers.report import table
from mygo.errors import MygoError
from mygo.workloads import preset

Side = dict[str, bool]
"""Of a Task."""
SIDES: tuple[Side, ...] = ({"blends": False}, {"blends": True}, {"blends": True, "fills": True})


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(stderr=True)
    memory = Memory(options.profile, options.output_scale)
    setting = Setting(
        memory,
        options.requests,
        options.warmup,
        options.chunk_share,
        options.repair_share,
        options.tenants,
    )
    sides = SIDES if options.fill else SIDES[:2]
    commit = revision()
    try:
        names = options.presets.split(",")
        for name in names:
            preset(name)
        store = Store(options.out, {"commit": commit, "setting": asdict(setting)})
        with settled_pool() as pool:
            for name in names:
                for seed in range(options.seeds):
                    _measure(pool, store, setting, name, seed, options.load, sides, console)
    except MygoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 130
    found: list[Target] = []
    parts = [_head(setting, commit, arguments or sys.argv[1:])]
    for name in names:
        text, reached = _section(store, setting, name, options.seeds, options.load, sides)
        parts.append(text)
        found += reached
    text = "\n\n".join(parts) + "\n"
    (options.out / "report.md").write_text(text)
    Console(width=160 if not sys.stdout.isatty() else None).print(Markdown(text))
    console.print(f"written to {options.out}", markup=False)
    return 0 if all(target.met for target in found) else 1


def _measure(
    pool: ProcessPoolExecutor,
    store: Store,
    setting: Setting,
    name: str,
    seed: int,
    load: float,
    sides: Sequence[Side],
    console: Console,
) -> None:
    """Saturation of every side by a closed loop, and each at ``load`` of what exact caching, the first one,
    sustains."""

    def row(task: Task) -> Row:
        if task.key not in store.rows:
            store.add(task.key, pool.submit(run, task).result())
            made = store.rows[task.key]
            share = made["computed_tokens"] / made["prompt_tokens"]
            console.print(
                f"{task.key}: {made['requests_per_s']:.2f} requests/s, {share:.1%} of prompt tokens computed",
                markup=False,
                highlight=False,
            )
        return store.rows[task.key]

    tasks = [Task(setting, name, seed, **side) for side in sides]
    rate_per_s = load * row(tasks[0])["requests_per_s"]
    for task in tasks:
        if not task.fills:  # a closed loop leaves no idle time
            row(task)
        row(replace(task, load=load, rate_per_s=rate_per_s))


def _section(
    store: Store, setting: Setting, name: str, seeds: int, load: float, sides: Sequence[Side]
) -> tuple[str, list[Target]]:
    def rows(side: Side, at: float | None) -> list[Row]:
        return [store.rows[Task(setting, name, seed, load=at, **side).key] for seed in range(seeds)]

    exact, *blends = (rows(side, load) for side in sides)
    closed = [sum(row["requests_per_s"] for row in rows(side, None)) / seeds for side in SIDES[:2]]
    reached = targets(exact, blends[0], load)
    lines = [
        ["requests/s of the closed loop", *(f"{each:.2f}" for each in closed), *[""] * (len(sides) - 2)],
        *figures(exact, *blends),
    ]
    parts = [
        f"## {name}",
        table(["target", "found", "limit", "met"], [target.row() for target in reached]),
        table(["", "exact", "blend", "and fill"][: len(sides) + 1], lines),
    ]
    return "\n\n".join(parts), reached


def _head(setting: Setting, commit: str, arguments: list[str]) -> str:
    memory = setting.memory
    command = " ".join(["python -m benchmarks.blend", *arguments])
    return (
        "# Chunk reuse, emulated\n\n"
        f"Commit {commit}, `{command}`. Virtual seconds of {memory.profile}; memory as shares of the working "
        f"set: device {memory.device_share:.0%}, host {memory.host_share:.0%}, disk {memory.disk_share:.0%}; "
        f"chunks have {setting.chunk_share:.0%} of host and disk where requests are blended, at a repair "
        f"share of {setting.repair_share:.0%}. {setting.requests} requests per seed count, behind "
        f"{setting.warmup} that fill the caches. Loads are shares of what a closed loop of {CLIENTS} clients "
        "gets through exact caching. The bound: every exact prefix that was ever computed, then chunks of a "
        "clairvoyant store of the same size, at the same repair."
    )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.blend",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--presets", default="ragpulse,cachecraft", help="workloads, with commas (ragpulse,cachecraft)")
    add("--requests", type=types.count, default=1000, help="of each trace that count (1000)")
    add("--warmup", type=types.count, default=2000, help="requests before those (2000)")
    add("--load", type=types.positive, default=0.6, help="share of exact caching's saturation (0.6)")
    add("--seeds", type=types.count, default=2, help="traces per workload (2)")
    add("--chunk-share", type=types.positive, default=0.5, help="of host memory and disk, for chunks (0.5)")
    add("--repair-share", type=types.positive, default=0.15, help="of a document, computed anew (0.15)")
    add("--fill", action="store_true", help="also with documents computed behind neutral ones when idle")
    add(
        "--tenants",
        type=types.whole_number,
        default=0,
        help="begin prompts with a private document of one (0)",
    )
    add("--profile", default="llama-3-8b-h100", help="of the emulated engine: a name, or a JSON file")
    add("--output-scale", type=types.positive, default=0.1, help="factor on the length of answers (0.1)")
    add("--out", type=Path, help="folder of the study (results/blend/<commit>)")
    options = parser.parse_args(arguments)
    if options.out is None:
        options.out = Path("results/blend") / revision()
    return options


if __name__ == "__main__":
    sys.exit(main())
