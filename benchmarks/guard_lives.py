"""The quality guard over many lives, fed with divergences that ``mygo calibrate`` has measured.

    python -m benchmarks.guard_lives FOLDER [--method first_tokens] [--share 0.15] [--requests 2000]
        [--lives 1000]

FOLDER is the ``--out`` of ``mygo calibrate``, where a real engine answered questions exactly and blended.
Each life draws its requests from them; the guard decides which are compared, and is told what was measured.
Where the mean divergence keeps the bound it must hardly ever fire: printed are the share of lives in which it
does, the requests until it blends, and what its checks cost from then on. Ends with status 1 if it fires in
more than ``HARM_ERROR`` of the lives although the bound is kept, or if checks cost 3 % or more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import arguments as types
from mygo.blend.guard import HARM_ERROR, Guard
from mygo.blend.selection import Method
from mygo.blend.variants import DocumentTag
from mygo.blend.verdicts import Action, Divergence, GuardSettings, Verdict
from mygo.calibration.records import CACHE_ORDER, EXACT, Outcome, read
from mygo.errors import ConfigError, MygoError

FIRES = frozenset({Verdict.RAISED, Verdict.OFF, Verdict.DOCUMENT_OFF})
CHECK_COST = 5.0
"""Seconds of an exact answer over those of a blended one."""
MOST_COST_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class Life:
    fired: Verdict | None
    """The first time."""
    proven_at: int | None
    """Requests until the first is blended."""
    cost_share: float
    """Of the computation of blended requests, what checks took beside it."""


def live(outcomes: Sequence[Outcome], requests: int, kl_bound: float, rng: Random) -> Life:
    """One deployment's. All requests need as much repair as there is."""
    guard = Guard(GuardSettings((0.0,), kl_bound))
    fired: Verdict | None = None
    proven_at: int | None = None
    blended = checked = 0
    for number in range(requests):
        outcome = rng.choice(outcomes)
        decision = guard.decide(1.0, CHECK_COST, rng)
        blended += decision.action in (Action.BLEND, Action.CHECK)
        checked += decision.action is Action.CHECK
        if decision.action not in (Action.SHADOW, Action.CHECK):
            continue
        documents = [DocumentTag(f"{outcome.question} {each}") for each in range(outcome.documents)]
        same = float(outcome.same)
        for change in guard.observe(decision, documents, Divergence(outcome.first_token_kl, same, same)):
            if change.verdict is Verdict.PROVEN:
                proven_at = number + 1
            elif change.verdict in FIRES:
                fired = fired or change.verdict
    return Life(fired, proven_at, CHECK_COST * checked / blended if blended else 0.0)


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console()
    try:
        outcomes = _chosen(options.folder, options.method, options.share)
    except MygoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lives = [
        live(outcomes, options.requests, options.kl_bound, Random(seed))
        for seed in track(range(options.lives), "lives", console=Console(stderr=True), transient=True)
    ]
    kl = np.minimum([each.first_token_kl for each in outcomes], 1.0)
    proven = [each.proven_at for each in lives if each.proven_at is not None]
    fired = sum(each.fired is not None for each in lives) / len(lives)
    cost = float(np.mean([each.cost_share for each in lives]))
    table = Table(title=f"{options.lives} lives of {options.requests} requests, alpha {options.share:g}")
    table.add_column("")
    table.add_column("found", justify="right")
    for name, shown in (
        ("measured questions", f"{len(outcomes)}"),
        ("mean KL of the first token, nats", f"{kl.mean():.4f} of at most {options.kl_bound:g}"),
        ("lives in which the guard fired", f"{fired:.1%} (a sound deployment: at most {HARM_ERROR:.0%})"),
        ("lives in which it blended at last", f"{len(proven) / len(lives):.1%}"),
        ("requests until then, median", f"{np.median(proven):.0f}" if proven else "-"),
        ("checks, of the blended requests' computation", f"{cost:.2%} (at most {MOST_COST_SHARE:.0%})"),
    ):
        table.add_row(name, shown)
    console.print(table)
    sound = kl.mean() <= options.kl_bound
    return 0 if cost < MOST_COST_SHARE and (fired <= HARM_ERROR or not sound) else 1


def _chosen(folder: Path, method: str, share: float) -> list[Outcome]:
    path = folder / "outcomes.jsonl"
    if not path.exists():
        raise ConfigError(f"{folder}: holds no calibration; give the folder of `mygo calibrate --out`")
    found = [each for each in read(path) if each.method not in (EXACT, CACHE_ORDER)]
    chosen = [each for each in found if (each.method, each.share) == (method, share)]
    if not chosen:
        ways = ", ".join(f"{name} {each:g}" for name, each in sorted({(e.method, e.share) for e in found}))
        raise ConfigError(
            f"--method {method} --share {share:g}: was not measured; {folder} has {ways or 'none'}"
        )
    return chosen


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guard_lives",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, help="of `mygo calibrate --out`")
    add(
        "--method",
        default=Method.FIRST_TOKENS,
        choices=list(Method),
        help="whose outcomes count (first_tokens)",
    )
    add("--share", type=float, default=0.15, help="the repair share whose outcomes count (0.15)")
    add("--requests", type=types.count, default=2000, help="of each life (2000)")
    add("--lives", type=types.count, default=1000, help="(1000)")
    add("--kl-bound", type=types.positive, default=GuardSettings((0.0,)).kl_bound, help="nats (0.12)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
