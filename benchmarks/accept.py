"""The acceptance run: named steps at full size, each judged, resumable.

    python -m benchmarks.accept [--only STEP ...] [--fresh] [--list]

What a step found is kept in ``results/accept/<commit>/<step>.json``; a step that has passed on this
commit (and these uncommitted changes) is not run again. Exit status 1 if any step failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.acceptance import burst, exactness, ingest_crash, routing, suites
from benchmarks.acceptance.step import Outcome, Step

STEPS: dict[str, tuple[Step, str]] = {
    "exactness-float32": (exactness.step("float32"), "every answer identical to plain vLLM's"),
    "exactness-bfloat16": (exactness.step("bfloat16"), "answers part from plain vLLM's only at near ties"),
    "routing": (routing.run, "recomputed document tokens against the baseline routers"),
    "burst": (burst.run, "a new document is computed once per worker"),
    "faults": (suites.tests("tests/cluster/test_faults.py"), "killed engines, directory and shards"),
    "tiers": (
        suites.tests("tests/cluster/test_cluster_tiers.py", "tests/cluster/test_cluster_blend.py"),
        "documents pass through the tiers, a restart and their deletion; nothing is blended unproven",
    ),
    "guard": (
        suites.tests("tests/engine/test_guard_engine.py", "tests/unit/blend/test_blend_guard.py"),
        "broken chunks are noticed by a real engine's comparisons, sound ones not in 1,000 lives",
    ),
    "retrieval": (
        suites.tests("tests/cluster/test_cluster_retrieval.py"),
        "staged, hybrid and filtered search in a cluster with approximate indexes",
    ),
    "session": (suites.tests("tests/cluster/test_session.py"), "the official openai client"),
    "bad-input": (suites.tests("tests/cluster/test_bad_input.py"), "right status, helpful message"),
    "ingest-crash": (ingest_crash.run, "what was acknowledged survives SIGKILL of everything, once"),
    "stand-ins": (
        suites.tests(
            "tests/engine/test_emulation.py", "tests/unit/benchmarks/test_cluster_routing_parity.py"
        ),
        "the emulated engine and the affinity baseline decide as the real ones",
    ),
    "overhead": (suites.overhead, "control-plane cost above an empty application, both proxies"),
}
ROOT = Path("results/accept")


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(width=120)
    if options.list:
        for name, (_, meaning) in STEPS.items():
            console.print(f"{name:20} {meaning}")
        return 0
    # a terminated run stops its clusters, as an interrupted one does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = ROOT / revision()
    chosen = options.only or list(STEPS)
    console.print(f"results in {folder}")
    results: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(chosen, 1):
        known = None if options.fresh else passed_before(folder / f"{name}.json")
        if known is not None:
            console.print(f"[{index}/{len(chosen)}] {name}: passed before on this commit", markup=False)
            results[name] = known
            continue
        console.print(f"[{index}/{len(chosen)}] {name}: {STEPS[name][1]}", markup=False)
        results[name] = run_step(STEPS[name][0], folder / name, partial(_say, console))
        path = folder / f"{name}.json"
        path.write_text(json.dumps(results[name], indent=2) + "\n")
    _print(console, results)
    return 0 if all(result["passed"] for result in results.values()) else 1


def run_step(step: Step, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run one step in an empty folder; whatever it raises is a failure with the traceback as figure."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    try:
        outcome = step(folder, say)
    except Exception as error:
        say(traceback.format_exc())
        problem = f"{type(error).__name__}: {str(error)[:300]}"
        outcome = Outcome(False, problem, {"traceback": traceback.format_exc()})
    return asdict(outcome) | {"seconds": round(time.monotonic() - started, 1)}


def passed_before(path: Path) -> dict[str, Any] | None:
    """The stored result of a step that passed; None if it failed, never ran, or cannot be read."""
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return result if result.get("passed") else None


def revision() -> str:
    """The commit, and a digest of what was changed since; ``no-commit`` outside a repository."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD").decode().strip()
        changes = _git("diff", "HEAD", "--", "mygo", "benchmarks", "tests", "pyproject.toml")
    except (OSError, subprocess.CalledProcessError):
        return "no-commit"
    return f"{commit}+{hashlib.sha256(changes).hexdigest()[:8]}" if changes else commit


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], check=True, capture_output=True).stdout


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accept",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", metavar="STEP", action="append", choices=list(STEPS), help="can be repeated"
    )
    parser.add_argument("--fresh", action="store_true", help="run steps again that have passed")
    parser.add_argument("--list", action="store_true", help="name the steps and stop")
    return parser.parse_args(arguments)


def _say(console: Console, line: str) -> None:
    console.print(f"  {time.strftime('%H:%M:%S')}  {line}", markup=False, highlight=False)


def _print(console: Console, results: dict[str, dict[str, Any]]) -> None:
    table = Table(title="acceptance")
    for column in ("step", "", "minutes", "figures"):
        table.add_column(column)
    for name, result in results.items():
        verdict = "[green]passed" if result["passed"] else "[red]FAILED"
        table.add_row(name, verdict, f"{result['seconds'] / 60:.1f}", result["summary"])
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
