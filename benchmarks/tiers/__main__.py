"""Tiers against vLLM's own offloading with the same memory, on emulated engines in virtual time.

    python -m benchmarks.tiers [--full] [--presets a,b] [--requests 1500] [--loads 0.3,0.9] [--ablations] ...

Prints the report; writes ``report.md``, ``report.json``, ``loads.png`` and one line per run in
``runs.jsonl``. The same command goes on where it was stopped. Ends with status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import arguments as types
from benchmarks.accept import revision
from benchmarks.cluster_routing.store import Store
from benchmarks.report.validation import last_check
from benchmarks.tiers import measure
from benchmarks.tiers.compare import lines
from benchmarks.tiers.measure import Ground, Task
from benchmarks.tiers.plan import FULL, SMOKE, SYSTEMS, Setting, Size, cells, systems
from benchmarks.tiers.plots import draw
from benchmarks.tiers.report import CellResult, Study, all_verdicts, as_dict, markdown
from benchmarks.tiers.sustained import Sustained, sustained
from mygo.emulation import profile as profiles
from mygo.errors import MygoError


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(stderr=True)
    try:
        size = _size(options)
        setting = Setting(options.profile, options.output_scale, options.step_tokens)
        profile = profiles.load(setting.profile)
        commit = revision()
        store = Store(
            options.out,
            {"commit": commit, "requests": size.requests, "warmup": size.warmup, "setting": asdict(setting)},
        )
        study = _study(size, setting, store, options.jobs, console)
    except MygoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 130
    command = " ".join(["python -m benchmarks.tiers", *(arguments or sys.argv[1:])])
    origin = f"Commit {commit}, `{command}`"
    text = markdown(study, setting, profile, origin, draw(study.cells, options.out), last_check())
    (options.out / "report.md").write_text(text)
    (options.out / "report.json").write_text(json.dumps(as_dict(study, setting, origin), indent=1) + "\n")
    Console(width=200 if not sys.stdout.isatty() else None).print(Markdown(text))
    console.print(f"written to {options.out}", markup=False)
    return 0 if all(verdict.met for verdict in all_verdicts(study)) else 1


def _study(size: Size, setting: Setting, store: Store, jobs: int, console: Console) -> Study:
    with measure.settled_pool(jobs) as pool:
        try:
            grounds = {name: _ground(pool, size, setting, store, name) for name in size.presets}
            wanted = [
                Task(setting, grounds[cell.preset], cell, system, seed)
                for seed in range(size.seeds)
                for cell in cells(size)
                for system in systems(size, cell)
            ]
            _finish(pool, wanted, store, console)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # or leaving it would run all that was submitted
            raise
    found = {name: _sustained(size, store, wanted, grounds[name], name) for name in size.presets}
    return Study(_collect(size, store, wanted), found)


def _finish(pool: Executor, wanted: Sequence[Task], store: Store, console: Console) -> None:
    """Run what is not there yet, and keep each row as it comes."""
    missing = {pool.submit(measure.run, task): task for task in wanted if task.key not in store.rows}
    for number, done in enumerate(as_completed(missing), 1):
        task, row = missing[done], done.result()
        store.add(task.key, row)
        mean_s = sum(row["ttft_s"]) / len(row["ttft_s"])
        console.print(
            f"{number}/{len(missing)} {task.key}: TTFT {1e3 * mean_s:.0f} ms, goodput "
            f"{row['goodput_per_s']:.3f}/s",
            markup=False,
            highlight=False,
        )


def _ground(pool: Executor, size: Size, setting: Setting, store: Store, name: str) -> Ground:
    kept = store.grounds()
    if name not in kept:
        store.add_ground(
            name, asdict(pool.submit(measure.survey, setting, name, size.requests, size.warmup).result())
        )
        kept = store.grounds()
    return Ground(**kept[name])


def _collect(size: Size, store: Store, tasks: Sequence[Task]) -> list[CellResult]:
    results: list[CellResult] = []
    for cell in cells(size):
        rows: dict[str, list[dict[str, object]]] = {}
        members = [task for task in tasks if task.cell == cell]
        for task in members:
            rows.setdefault(task.system.name, []).append(store.rows[task.key])
        results.append(CellResult(cell, members[0].ground, lines(rows, systems(size, cell))))
    return results


def _sustained(
    size: Size, store: Store, tasks: Sequence[Task], ground: Ground, preset: str
) -> list[Sustained]:
    rows: dict[str, list[list[dict[str, object]]]] = {}
    for system in SYSTEMS:
        members = [task for task in tasks if task.cell.preset == preset and task.system == system]
        members.sort(key=lambda task: task.cell.load)
        rows[system.name] = [
            [store.rows[task.key] for task in members if task.seed == seed] for seed in range(size.seeds)
        ]
    return sustained(rows, SYSTEMS, ground.slo_s)


def _size(options: argparse.Namespace) -> Size:
    """The named size with the options' changes. Raises MygoError for what cannot be."""
    size = FULL if options.full else SMOKE
    changes = {
        "presets": options.presets,
        "requests": options.requests,
        "warmup": options.warmup,
        "loads": options.loads,
        "seeds": options.seeds,
        "ablations": options.ablations,
    }
    return replace(size, **{name: value for name, value in changes.items() if value is not None})


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(types.positive(part) for part in _names(text))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tiers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--full",
        action="store_true",
        help="600 requests, four loads, three seeds, ablations: half an hour",
    )
    add("--presets", type=_names, help="workloads, with commas")
    add("--requests", type=types.count, help="of each trace that count")
    add("--warmup", type=types.count, help="requests before those, which fill the caches (none)")
    add("--loads", type=_numbers, help="shares of the saturation rate, with commas")
    add("--seeds", type=types.count, help="traces per cell")
    add("--ablations", action=argparse.BooleanOptionalAction, default=None, help="at the middle load")
    add("--profile", default="llama-3-8b-h100", help="of the emulated engine: a name, or a JSON file")
    add("--output-scale", type=types.positive, default=0.1, help="factor on the length of answers (0.1)")
    add("--step-tokens", type=types.count, default=2_048, help="of an engine step, for all systems (2048)")
    add("--jobs", type=types.count, default=1, help="processes")
    add("--out", type=Path, help="folder of the study (results/tiers/<commit>/smoke or full)")
    options = parser.parse_args(arguments)
    if options.out is None:
        options.out = Path("results/tiers") / revision() / ("full" if options.full else "smoke")
    return options


if __name__ == "__main__":
    sys.exit(main())
