"""What prefilling beside retrieval is worth, against prefilling when retrieval has ended.

    python -m benchmarks.speculation [--preset ragcache-mmlu] [--shares 0.1,0.3,1] [--loads 0.2,0.9] ...
    python -m benchmarks.speculation --real PAIRS [--shares 0.1,0.3,1]

The first on emulated engines in virtual time. Searches take a declared share of the seconds that the mean
prompt takes to compute when nothing is cached; what they have found after each of four stages follows a real
IVF index. The second with a real engine behind the real HTTP path, at low load; a declared delay stands for
the search's work. Prints a table, writes it as JSON; exit status 1 if a target is missed.
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
from benchmarks.speculation import measure, patterns
from benchmarks.speculation.plan import Line, broken, broken_pairs, line
from benchmarks.tiers import measure as tiers
from benchmarks.tiers.plan import MYGO, Setting
from benchmarks.verdict import conclude
from mygo.errors import MygoError


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(width=140)
    try:
        study = _emulated if options.real is None else _real
        report, problems = study(options, console)
        report |= {"commit": revision(), "broken": problems}
        return conclude(console, report, problems, options.out)
    except MygoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _emulated(options: argparse.Namespace, console: Console) -> tuple[dict[str, Any], list[str]]:
    setting = Setting(options.profile, options.output_scale, device_share=options.device_share)
    lines: list[Line] = []
    rows: list[dict[str, Any]] = []
    with tiers.settled_pool() as pool:
        found = pool.submit(patterns.searched, options.vectors, options.queries, 0).result()
        sizes = (options.requests, options.warmup)
        ground = pool.submit(tiers.survey, setting, options.preset, *sizes, MYGO).result()
        for load in options.loads:
            for share in options.shares:
                by_way: dict[str, list[dict[str, Any]]] = {way.name: [] for way in measure.WAYS}
                for seed in range(options.seeds):
                    for way in measure.WAYS:
                        task = measure.Task(
                            setting,
                            ground,
                            options.preset,
                            load,
                            share,
                            options.staged_cost,
                            options.step_tokens,
                            way,
                            seed,
                            found,
                        )
                        row = pool.submit(measure.run, task).result()
                        by_way[way.name].append(row)
                        rows.append({"load": load, "share": share, "way": way.name, "seed": seed} | row)
                lines += [line(load, share, way, by_way) for way in measure.WAYS]
                console.print(f"load {load:g}, retrieval {share:g} of a cold prefill: done")
    console.print(
        f"{options.preset}: {ground.requests} requests behind {ground.warmup}, {options.seeds} seeds; "
        f"saturation {ground.saturation_per_s:.2f} a second. In stages a search takes "
        f"{options.staged_cost:g} times as long. Emulated. Ratios are off's over its, with 95 % intervals."
    )
    console.print("hidden: of the retrieval that could be. wasted: of all prefill seconds, with decoding.")
    console.print(_table(lines))
    report = {"ground": asdict(ground), "lines": [asdict(each) for each in lines], "rows": rows}
    return report, broken(lines)


def _real(options: argparse.Namespace, console: Console) -> tuple[dict[str, Any], list[str]]:
    # imported here, since Ray and the openai client take seconds
    from benchmarks.speculation import real

    report = real.measure(options.shares, options.real, console.print)
    table = Table()
    for column in ("retrieval", "delay s", "TTFT off s", "TTFT on s", "hidden %", "adopted", "differing"):
        table.add_column(column)
    problems: list[str] = []
    for each in report["pairs"]:
        low, high = (100 * bound for bound in each["interval"])
        table.add_row(
            f"{each['share']:g}",
            f"{each['delay_s']:.2f}",
            f"{statistics.mean(each['off_s']):.2f}",
            f"{statistics.mean(each['on_s']):.2f}",
            f"{100 * each['hidden_share']:.0f} [{low:.0f}, {high:.0f}]",
            f"{each['outcomes'].count('adopted')} of {len(each['outcomes'])}",
            str(each["differing"]),
        )
        problems += broken_pairs(each)
    console.print(
        f"A cold prompt takes {report['cold_s']:.2f} s. hidden: of what is left of a search when it shows"
    )
    console.print("the final documents. Real engine, real HTTP; the search's seconds are declared.")
    console.print(table)
    return report, problems


def _table(lines: list[Line]) -> Table:
    table = Table()
    for column in (
        "load", "retrieval", "way", "TTFT mean s", "ratio", "p99 ratio", "hidden %", "ITL p99 s", "adopted %",
        "wrong %", "wasted %",
    ):  # fmt: skip
        table.add_column(column)
    for each in lines:
        table.add_row(
            f"{each.load:g}",
            f"{each.share:g}",
            each.way,
            f"{each.ttft_mean_s:.3f}",
            str(each.mean_ratio),
            str(each.p99_ratio),
            f"{100 * each.hidden_share:.0f}",
            f"{each.itl_p99_s:.4f}",
            f"{100 * each.adopted:.0f}",
            f"{100 * each.wrong:.0f}",
            f"{100 * each.wasted:.1f}",
        )
    return table


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speculation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", default="ragcache-mmlu", help="workload (ragcache-mmlu)")
    add("--requests", type=types.count, default=600, help="of each trace that count (600)")
    add("--warmup", type=types.count, default=300, help="requests before those, which fill the cache (300)")
    add(
        "--shares",
        type=types.positives,
        default=[0.1, 0.3, 1.0],
        help="retrieval, of a cold prefill (0.1,0.3,1)",
    )
    add("--loads", type=types.positives, default=[0.2, 0.9], help="shares of the saturation rate (0.2,0.9)")
    add("--seeds", type=types.count, default=3, help="traces (3)")
    add("--vectors", type=types.count, default=100_000, help="in the index that results come from (100000)")
    add("--queries", type=types.count, default=500, help="different searches (500)")
    add(
        "--staged-cost", type=types.positive, default=1.15, help="of a search in stages, beside one go (1.15)"
    )
    add(
        "--step-tokens",
        type=types.count,
        default=2_048,
        help="most per engine step: aborts wait for it (2048)",
    )
    add("--device-share", type=types.positive, default=0.05, help="of the working set (0.05)")
    add("--profile", default="llama-3-8b-h100", help="of the emulated engine: a name, or a JSON file")
    add("--output-scale", type=types.positive, default=0.1, help="factor on the length of answers (0.1)")
    add("--real", type=types.count, metavar="PAIRS", help="a real engine instead; questions of each length")
    add("--out", type=Path, default=Path("results") / "speculation.json", help="JSON file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
