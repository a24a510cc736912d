"""Does the emulated engine tell the truth? One trace through a real engine and through an emulated one.

    python -m benchmarks.emulation_check [--rounds N] [--requests N] [--seed N] [--out FILE] [--profile FILE]

The real one is vLLM on this machine's CPU with MyGO's plugin. Before, between and after the rounds its
T(cached, new) and decode rate are measured, as a worker measures them; from those that enclose a round the
emulated engine is calibrated for it. The trace has Zipf reuse, a cache smaller than its documents, and
arrivals that keep the engine half busy. Prints a table; writes every request as JSON, which other reports
quote, and the table as Markdown beside it. Exit status 1 if mean TTFT differs by more than 15 % or the token
hit ratio by more than 2 points.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import folders
from benchmarks.accept import revision
from benchmarks.arguments import count, whole_number
from benchmarks.engine_pair import (
    SETTINGS,
    Served,
    busy_s,
    calibrate,
    drive,
    emulate,
    profile_between,
    requests_of,
    start_engine,
)
from benchmarks.harness.machine import cpu_name, kv_bytes_per_token
from benchmarks.report.validation import KEPT, last_check
from mygo import models
from mygo.config import Config
from mygo.emulation import profile as profiles
from mygo.emulation.profile import EngineProfile
from mygo.errors import ConfigError, MygoError

TTFT_BOUND = 0.15
HIT_BOUND = 0.02
UTILIZATION = 0.5


@dataclass(frozen=True)
class Comparison:
    """The same requests through both engines."""

    real: list[Served]
    emulated: list[Served]

    @property
    def ttft_error(self) -> float:
        """Relative error of the emulated mean TTFT."""
        return mean_ttft_s(self.emulated) / mean_ttft_s(self.real) - 1

    @property
    def hit_error(self) -> float:
        """Difference of the token hit ratios."""
        return hit_ratio(self.emulated) - hit_ratio(self.real)

    @property
    def within_bounds(self) -> bool:
        return abs(self.ttft_error) <= TTFT_BOUND and abs(self.hit_error) <= HIT_BOUND


@dataclass(frozen=True)
class Round:
    profile: EngineProfile
    """What the emulated engine was calibrated with."""
    comparison: Comparison


def mean_ttft_s(served: Sequence[Served]) -> float:
    return statistics.fmean(one.ttft_s for one in served)


def hit_ratio(served: Sequence[Served]) -> float:
    """Cached tokens over prompt tokens."""
    return sum(one.cached_tokens for one in served) / sum(one.prompt_tokens for one in served)


async def check(model_path: Path, rounds: int, requests: int, seed: int, console: Console) -> list[Round]:
    """Alternate calibration and rounds; each round draws a trace of its own."""
    kv_bytes = kv_bytes_per_token(model_path, "bfloat16")
    client, engine = start_engine(model_path)
    try:
        with console.status("calibrating"):
            before = await calibrate(engine, seed)
        guess = profile_between(before, before, kv_bytes)
        work_s = busy_s(guess, requests_of(requests, seed, 1.0))
        rate_per_s = UTILIZATION * requests / work_s
        minutes = rounds * requests / rate_per_s / 60
        console.print(
            f"{rounds} rounds of {requests} requests at {rate_per_s:.2f}/s: about {minutes:.0f} minutes, "
            "and a calibration after each"
        )
        done: list[Round] = []
        for number in range(rounds):
            arriving = requests_of(requests, seed + number, rate_per_s)
            with console.status(f"round {number + 1} of {rounds}"):
                real = await drive(engine, arriving, str(number))
                await engine.reset_cache()
                after = await calibrate(engine, seed + number + 1)
            profile = profile_between(before, after, kv_bytes)
            found = Comparison(real, emulate(profile, arriving))
            done.append(Round(profile, found))
            console.print(f"round {number + 1}: TTFT {found.ttft_error:+.1%}, hits {found.hit_error:+.2%}")
            before = after
        return done
    finally:
        client.shutdown()


def pooled(comparisons: Sequence[Comparison]) -> Comparison:
    return Comparison(
        [one for each in comparisons for one in each.real],
        [one for each in comparisons for one in each.emulated],
    )


HEAD = ("", "real engine", "emulated", "difference", "bound")


def table_rows(total: Comparison) -> list[tuple[str, ...]]:
    """Cells under ``HEAD``."""
    real, emulated = total.real, total.emulated
    rows: list[tuple[str, ...]] = [
        (
            "mean TTFT",
            f"{mean_ttft_s(real):.3f} s",
            f"{mean_ttft_s(emulated):.3f} s",
            f"{total.ttft_error:+.1%}",
            f"{TTFT_BOUND:.0%}",
        )
    ]
    for name, rank in (("p50 TTFT", 50), ("p95 TTFT", 95)):
        values = [
            statistics.quantiles([one.ttft_s for one in side], n=100)[rank - 1] for side in (real, emulated)
        ]
        difference = f"{values[1] / values[0] - 1:+.1%}"
        rows.append((name, f"{values[0]:.3f} s", f"{values[1]:.3f} s", difference, ""))
    rows.append(
        (
            "token hit ratio",
            f"{hit_ratio(real):.1%}",
            f"{hit_ratio(emulated):.1%}",
            f"{total.hit_error * 100:+.2f} points",
            f"{HIT_BOUND * 100:.0f} points",
        )
    )
    return rows


def print_table(console: Console, total: Comparison) -> None:
    table = Table(*HEAD, box=None)
    for row in table_rows(total):
        table.add_row(*row)
    console.print(table)


def write(out: Path, rounds: Sequence[Round], seed: int, commit: str) -> None:
    """``out`` (JSON, every request), and a table with the same name in Markdown."""
    total = pooled([run.comparison for run in rounds])
    found = {
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
        "machine": cpu_name(),
        "settings": asdict(SETTINGS),
        "seed": seed,
        "ttft_error": total.ttft_error,
        "ttft_bound": TTFT_BOUND,
        "hit_error": total.hit_error,
        "hit_bound": HIT_BOUND,
        "within_bounds": total.within_bounds,
        "rounds": [asdict(run) for run in rounds],
    }
    out.write_text(json.dumps(found, indent=1) + "\n")
    lines = [HEAD, ("---", *("---:" for _ in HEAD[1:])), *table_rows(total)]
    by_round = "; ".join(
        f"TTFT {run.comparison.ttft_error:+.1%}, hits {100 * run.comparison.hit_error:+.2f} points"
        for run in rounds
    )
    out.with_suffix(".md").write_text(
        f"# The emulated engine beside the real one\n\n{last_check(out)}\n\n"
        + "\n".join(f"| {' | '.join(line)} |" for line in lines)
        + f"\n\nRound by round: {by_round}.\n"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emulation_check", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=count, default=3)
    add("--requests", type=count, default=60, help="per round")
    add("--seed", type=whole_number, default=0)
    add("--out", type=Path, default=KEPT, help=f"JSON file (default: {KEPT})")
    add("--profile", type=Path, help="keep the last calibration as an engine profile, for `mygo simulate`")
    options = parser.parse_args(arguments)
    if options.requests < 2:
        parser.error("--requests must be at least 2")
    console = Console()
    config = Config()
    commit = revision()  # of the code that runs, which may change meanwhile
    try:
        folders.made(options.out.parent)
        if options.out.is_dir():
            raise ConfigError(f"--out {options.out}: is a folder; give the path of a JSON file")
        model_path = models.resolve(config.model.source, config.cluster.cache_dir, progress=True)
        rounds = asyncio.run(check(model_path, options.rounds, options.requests, options.seed, console))
    except MygoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    total = pooled([run.comparison for run in rounds])
    print_table(console, total)
    write(options.out, rounds, options.seed, commit)
    if options.profile is not None:
        profiles.store(options.profile, rounds[-1].profile)
    console.print(f"{'within' if total.within_bounds else 'OUT OF'} bounds; every request: {options.out}")
    return 0 if total.within_bounds else 1


if __name__ == "__main__":
    sys.exit(main())
