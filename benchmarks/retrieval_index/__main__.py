"""Recall, speed and memory of every index kind, and staged search beside search in one go.

    python -m benchmarks.retrieval_index [--vectors N] [--kinds flat,ivf,...] [--set KEY=VALUE] ...

Vectors are synthetic (topics, documents, passages; 384 dimensions). Truth is brute force. Each kind is
built and searched by the production code, with the shipped settings unless ``--set`` says otherwise, in a
process of its own. Finished kinds are kept: the same command at the same commit goes on where it was stopped.
Exit status 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import folders
from benchmarks.accept import revision
from benchmarks.arguments import count, whole_number
from benchmarks.harness.machine import cpu_name
from benchmarks.retrieval_index import vectors
from benchmarks.retrieval_index.measure import RESULTS, SETTINGS
from mygo import config
from mygo.errors import ConfigError, MygoError

KINDS = tuple(SETTINGS)
MEMORY_MB = 300
"""Bound of 10^6 vectors under ivfpq."""
STAGED_FROM_VECTORS = 100_000
"""Below, searches take microseconds, which production never stages: their ratios are not judged."""
STAGED_RATIO = 1.15
"""Bound of four stages over one of whole vectors. Codes are searched too fast for it at these sizes: every
stage computes their tables and ranks its candidates anew. In production, where stages take milliseconds, such
searches have one."""
console = Console(width=None if sys.stdout.isatty() else 140)


def main() -> None:
    try:
        run(_arguments())
    except MygoError as error:
        console.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        sys.exit(2)


def run(arguments: argparse.Namespace) -> None:
    folder = folders.made(arguments.out / f"{arguments.vectors}-{arguments.seed}")
    _prepare(folder, arguments)
    done = [_measured(folder, kind, arguments) for kind in arguments.kinds]
    _print(done)
    broken = _broken(done)
    for bound in broken:
        console.print(f"[red]broken[/]: {bound}")
    sys.exit(1 if broken else 0)


def _prepare(folder: Path, arguments: argparse.Namespace) -> None:
    data = folder / "vectors.f32"
    if not data.exists():
        console.print(f"making {arguments.vectors:,} vectors")
        vectors.write(data, arguments.vectors, arguments.seed)
    mapped = vectors.mapped(data, arguments.vectors)
    # apart, so that the truth stays true when another number of staged searches is asked for
    for name, number in (("questions", arguments.queries), ("staged", arguments.staged_queries)):
        np.save(folder / f"{name}.npy", vectors.questions(mapped, number, arguments.seed))
    truth = folder / f"truth-{arguments.queries}.npy"
    if not truth.exists():
        console.print("brute force")
        np.save(truth, _truth(folder, arguments))


def _truth(folder: Path, arguments: argparse.Namespace) -> np.ndarray[Any, np.dtype[np.int64]]:
    heap: Any = faiss.ResultHeap(arguments.queries, RESULTS, keep_max=True)
    asked = np.load(folder / "questions.npy")
    data = vectors.mapped(folder / "vectors.f32", arguments.vectors)
    for start in range(0, len(data), 100_000):
        part: Any = faiss.IndexFlatIP(vectors.DIMENSIONS)
        part.add(np.ascontiguousarray(data[start : start + 100_000]))
        scores, rows = part.search(asked, RESULTS)
        heap.add_result(scores, rows + start)
    heap.finalize()
    found: np.ndarray[Any, np.dtype[np.int64]] = heap.I
    return found


def _measured(folder: Path, kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    name = "-".join([kind, *(f"{key}={value}" for key, value in sorted(arguments.settings.items()))])
    kept = folder / f"{name}.json"
    depends_on = _depends_on(kind, arguments)
    if (earlier := _kept(kept, depends_on)) is not None:
        console.print(f"{name}: taken from an earlier run of the same commit, {depends_on['commit']}")
        return earlier
    console.print(f"{name}: building and searching")
    asked = {"folder": str(folder), "config": depends_on["config"], "vectors": arguments.vectors}
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.retrieval_index.measure", json.dumps(asked)],
        stdout=subprocess.PIPE,
        check=False,
    )
    if ended.returncode:
        raise MygoError(f"{name}: its process ended with status {ended.returncode}; its error is above")
    result: dict[str, Any] = {"depends_on": depends_on, **json.loads(ended.stdout)}
    unfinished = kept.with_suffix(".partial")
    unfinished.write_text(json.dumps(result, indent=1))
    unfinished.replace(kept)
    return result


def _depends_on(kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All that must be the same for a kept result to be that of this run."""
    return {
        "commit": revision(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "vectors": arguments.vectors,
        "seed": arguments.seed,
        "queries": arguments.queries,
        "staged_queries": arguments.staged_queries,
        "config": _config(kind, arguments.settings),
    }


def _config(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"index": kind, "approximate_from_vectors": 256, **settings}


def _kept(path: Path, depends_on: dict[str, Any]) -> dict[str, Any] | None:
    """The result in ``path`` if it is what would be measured now. Outside a repository nobody can tell."""
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    is_same = result.get("depends_on") == depends_on and depends_on["commit"] != "no-commit"
    return result if is_same else None


def _print(done: list[dict[str, Any]]) -> None:
    table = Table(
        title=f"{done[0]['vectors']:,} synthetic vectors x {vectors.DIMENSIONS}, top {RESULTS}, one thread"
    )
    for heading in (
        "index",
        "settings",
        "recall",
        "queries/s",
        "p50 ms",
        "p99 ms",
        "memory MB",
        "build s",
        "CPU s",
    ):
        table.add_column(heading, justify="left" if heading in ("index", "settings") else "right")
    for row in done:
        table.add_row(
            row["kind"],
            ", ".join(f"{key} {value}" for key, value in row["settings"].items()),
            f"{row['recall']:.3f}",
            f"{row['queries_per_s']:,.0f}",
            f"{row['median_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['memory_mb']:,.0f}",
            f"{row['build_s']:,.0f}",
            f"{row['build_cpu_s']:,.0f}",
        )
    console.print(table)
    staged = Table(title="staged against one go, interleaved")
    for heading in (
        "index",
        "stages",
        "one go ms",
        "staged ms",
        "ratio",
        "different",
        "final after stage",
    ):
        staged.add_column(heading, justify="left" if heading == "index" else "right")
    for row in done:
        for plan in row["staged"]:
            staged.add_row(
                row["kind"],
                str(plan["stages"]),
                f"{plan['one_go_ms']:.3f}",
                f"{plan['staged_ms']:.3f}",
                f"{plan['ratio']:.3f}",
                str(plan["different"]),
                " ".join(f"{share:.2f}" for share in plan["final_after"]),
            )
    console.print(staged)
    for line in _not_judged(done):
        console.print(line)


def _not_judged(done: list[dict[str, Any]]) -> list[str]:
    """What of the table of staged searches no bound is about, and why."""
    kinds = {row["kind"] for row in done if row["staged"]}
    if kinds and done[0]["vectors"] < STAGED_FROM_VECTORS:
        return [f"the bound of {STAGED_RATIO} is about {STAGED_FROM_VECTORS:,} vectors and more: not judged"]
    if "ivfpq" in kinds:
        return [f"the bound of {STAGED_RATIO} is about ivf: ivfpq, whose codes are searched fast, is exempt"]
    return []


def _broken(done: list[dict[str, Any]]) -> list[str]:
    broken = []
    for row in done:
        allowed_mb = MEMORY_MB * max(row["vectors"], 100_000) / 1e6
        if row["kind"] == "ivfpq" and row["memory_mb"] > allowed_mb:
            broken.append(f"ivfpq takes {row['memory_mb']:.0f} MB, more than {allowed_mb:.0f}")
        for plan in row["staged"]:
            if plan["different"]:
                broken.append(f"{row['kind']}: {plan['different']} staged searches differ from one go")
            is_large = row["vectors"] >= STAGED_FROM_VECTORS
            is_bound = is_large and row["kind"] == "ivf" and plan["stages"] == 4
            if is_bound and plan["ratio"] > STAGED_RATIO:
                broken.append(f"{row['kind']}: four stages take {plan['ratio']:.2f} of one go")
    return broken


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    for kind in kinds:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"{kind} is not one of {', '.join(KINDS)}")
    return kinds


def _settings(pairs: list[str], kinds: list[str]) -> dict[str, Any]:
    """Of ``--set``. Raises ConfigError, in one line, if a kind would refuse them."""
    allowed = sorted({key for keys in SETTINGS.values() for key in keys})
    settings = {}
    for key, is_set, value in (pair.partition("=") for pair in pairs):
        if key == "index":
            raise ConfigError(f"--set index: kinds are chosen by --kinds: {', '.join(KINDS)}")
        if key not in allowed:
            raise ConfigError(f"--set {key}: changes no index; allowed are {', '.join(allowed)}")
        if not is_set:
            raise ConfigError(f"--set {key}: has no value; write {key}=VALUE")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {key}: {value!r} is no value in YAML") from None
    for kind in kinds:
        try:
            config.parse({"retrieval": _config(kind, settings)}, origin=f"--set, --kinds {kind}")
        except ConfigError as error:
            raise ConfigError(str(error).replace("\n", "; ")) from None
    if vectors.DIMENSIONS % (settings.get("pq_bytes") or 1):
        raise ConfigError(f"--set pq_bytes: must divide {vectors.DIMENSIONS}, the dimensions of the vectors")
    return settings


def _arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval_index", description=__doc__)
    parser.add_argument("--vectors", type=count, default=100_000)
    parser.add_argument("--kinds", type=_kinds, default=list(KINDS), help="comma-separated")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a key of `retrieval`"
    )
    parser.add_argument("--queries", type=count, default=1_000, help="for recall and speed")
    parser.add_argument("--staged-queries", type=whole_number, default=10_000, help="per plan; 0 for none")
    parser.add_argument("--seed", type=whole_number, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/retrieval_index"))
    arguments = parser.parse_args(argv)
    arguments.settings = _settings(arguments.set, arguments.kinds)
    return arguments


if __name__ == "__main__":
    main()
