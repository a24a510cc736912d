"""The quality guard of a real cluster: requests over HTTP until it blends, and then so many blended answers.

    python -m benchmarks.guard_served QUESTIONS [--blended 200] [--passages 30] [--documents 3] [--out FOLDER]

QUESTIONS is a set in SQuAD's form. Starts a server with one worker that may blend; each request asks one of
the questions about its passage and others, in a new order, one request at a time; passages are the set's
shortest, since hundreds of requests are computed before the guard is convinced. Until comparisons have
proven that blending is good enough the guard answers exactly; from then on it blends, and goes on comparing.
At this deployment's settings it must never fire. Exit status 1 if it does, if a request fails, or if it has
not blended often enough by --most requests. What the guard has seen stays in FOLDER, so that the same command
goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks import arguments as types
from benchmarks import folders
from benchmarks.accept import revision
from benchmarks.cluster import Cluster, running_cluster
from benchmarks.harness.machine import cpu_name
from mygo import models
from mygo.calibration.questions import Material, Question, read_squad
from mygo.cli.quality import print_quality
from mygo.config import Config
from mygo.errors import BadRequest, MygoError

ANSWER_TOKENS = 8
FIRED = "off"
"""State of a bucket that is not blended any more."""
REPAIR_SHARE = Config().reuse.repair_share


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        material = read_squad(options.questions, lambda text: [text])
        posed = Posed(material, options.passages, options.documents, options.seed)
        answers, quality = _served(posed, options)
    except (MygoError, RuntimeError) as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True)
        return 2
    labels = Counter(answer["reuse"] for answer in answers)
    console.print(f"{cpu_name()}, {revision()}: {len(answers)} requests, answered {dict(labels)}")
    print_quality(quality)
    problems = broken(labels["blend"], options.blended, quality)
    for problem in problems:
        console.print(f"[red]broken[/]: {problem}")
    return 1 if problems else 0


class Posed:
    """The requests, each by its number: a question, and short passages, one of which answers it."""

    def __init__(self, material: Material, passages: int, documents: int, seed: int) -> None:
        """Raises BadRequest for a set with too few passages."""
        self._pool = sorted(material.passages, key=len)[:passages]
        self._questions = [each for each in material.questions if each.passages[0] in self._pool]
        if len(self._pool) < documents or not self._questions:
            raise BadRequest(
                f"the set has {len(self._pool)} passages and {len(self._questions)} questions of them"
            )
        self._documents, self._seed = documents, seed

    def __call__(self, number: int) -> tuple[Question, list[str]]:
        rng = Random(f"{self._seed} {number}")
        question = rng.choice(self._questions)
        others = [each for each in self._pool if each != question.passages[0]]
        chosen = [question.passages[0], *rng.sample(others, self._documents - 1)]
        rng.shuffle(chosen)
        return question, chosen


def broken(blended: int, wanted: int, quality: Mapping[str, Any]) -> list[str]:
    """What is not as it should be, as sentences."""
    problems: list[str] = []
    if blended < wanted:
        problems.append(f"{blended} requests were blended; {wanted} are wanted: give it more with --most")
    for worker in quality["workers"]:
        if not worker.get("guarded"):
            problems.append(f"worker {worker['id']} has no guard, or did not answer")
            continue
        for bucket in worker["buckets"]:
            if bucket["state"] == FIRED:
                problems.append("the guard has switched blending off: bucket {bucket}".format(**bucket))
            elif bucket["alpha"] > REPAIR_SHARE:
                problems.append(
                    "the guard has raised the repair to {alpha}: bucket {bucket}".format(**bucket)
                )
        if worker["documents_off"]:
            problems.append(f"the guard has switched {worker['documents_off']} documents off")
    return problems


def _served(posed: Posed, options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All answers, those of runs before this one, too, and the guard's state at the end."""
    out = folders.made(options.out)
    kept = out / "answers.jsonl"
    answers = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    blended = sum(answer["reuse"] == "blend" for answer in answers)
    source = models.resolve(Config().model.source, Config().cluster.cache_dir)
    embedder = models.resolve(Config().embedder.source, Config().cluster.cache_dir)
    settings: dict[str, dict[str, Any]] = {
        # with a cache folder of its own: what it proves, no other deployment shall believe
        "cluster": {"data_dir": str(out.absolute() / "data"), "cache_dir": str(out.absolute() / "cache")},
        "model": {"source": str(source), "max_context_tokens": 2048, "kv_cache_bytes": 100_000_000},
        "embedder": {"source": str(embedder)},
        "workers": {"replicas": 1},
        "retrieval": {"shards": 1},
        "reuse": {"mode": "blend"},
        "cache": {"host_bytes": 2**29},
    }
    with (
        running_cluster(out, **settings) as cluster,
        kept.open("a") as file,
        Progress(console=Console(stderr=True)) as progress,
    ):
        shown = progress.add_task("proving", total=options.blended, completed=blended)
        while blended < options.blended and len(answers) < options.most:
            answers.append(_asked(cluster, *posed(len(answers))))
            file.write(json.dumps(answers[-1]) + "\n")
            file.flush()
            blended += answers[-1]["reuse"] == "blend"
            doing = f"{len(answers)} requests, {'blended' if blended else 'none is blended yet'}"
            progress.update(shown, completed=blended, description=doing)
        return answers, cluster.quality()


def _asked(cluster: Cluster, question: Question, passages: Sequence[str]) -> dict[str, Any]:
    began_s = time.perf_counter()
    answer = cluster.chat(passages, question.text, max_tokens=ANSWER_TOKENS)
    return {
        "question": question.id,
        "reuse": answer["mygo"]["reuse"],
        "usage": answer["mygo"]["usage"],
        "latency_s": time.perf_counter() - began_s,
    }


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guard_served",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("questions", type=Path, help="a set in SQuAD's form")
    add("--blended", type=types.count, default=200, help="blended answers that are wanted (200)")
    add("--most", type=types.count, default=2000, help="requests at most (2000)")
    add("--passages", type=types.count, default=30, help="that requests draw from (30)")
    add("--documents", type=types.count, default=3, help="of each request (3)")
    add("--seed", type=types.whole_number, default=0)
    add("--out", type=Path, default=Path("results/guard_served"), help="folder of the server and the answers")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
