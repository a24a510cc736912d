"""Whether answers are exact when documents from chunks are recomputed in full.

    python -m benchmarks.chunk_exactness [--prompts N] [--documents N] [--tokens N] [--out FOLDER]

Documents are kept out of one prompt and asked for in another. There, all of their tokens are recomputed,
and then all but the last one of each, which is computed in one step beside loaded ones as any repair is.
Both are compared with a cold run of the same prompt, and so is a plain prefix hit: the first token's
distribution, and whether the first 16 tokens of the greedy answer are the same. Where nothing is spared, a
prompt is planned as an exact one: that row says that it is, and the one of all but one that scattered
computation is right (but for the tokens that it leaves out). Runs of other step shapes round differently,
so not even a prefix hit always is the same. Exit status 1 if the mean KL of either is above the bound, or
answers of a full recomputation are the same less often than with a prefix hit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import folders
from benchmarks.accept import revision
from benchmarks.arguments import count, whole_number
from benchmarks.harness.machine import cpu_name
from benchmarks.texts import Docstrings
from mygo import models
from mygo.blend.selection import Repair
from mygo.config import Config
from mygo.errors import MygoError
from mygo.types import Prompt

KL_BOUND = 0.01
ANSWER_TOKENS = 16
BATCH = 5
"""Prompts that are computed at once."""
QUESTION = "Which of these functions returns an iterator, and over what?"
WAYS = HIT, ALL, MOST = "prefix hit", "all recomputed", "all but one of each"


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt, computed in one way, against its cold run."""

    way: str
    kl: float
    """KL(cold || this) of the first token, nats."""
    same: bool
    cached_tokens: int


def measure(model: Path, options: argparse.Namespace) -> Iterator[list[Sample]]:
    """Some prompts at a time."""
    # read when vLLM is first imported
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from mygo.calibration.engine import Asked, BlendEngine
    from mygo.calibration.measure import Prompts, kl

    config = Config()
    engine, prompts = BlendEngine(config, model), Prompts(config, str(model))
    texts, rng = Docstrings(model), random.Random(options.seed)
    most = Repair((options.tokens - 1) / options.tokens, floor_tokens=0)

    def ask(batch: Sequence[Prompt], repair: Repair | None = None) -> list[Any]:
        return engine.answer([Asked(prompt, repair, max_tokens=ANSWER_TOKENS) for prompt in batch])

    for first in range(0, options.prompts, BATCH):
        size = min(BATCH, options.prompts - first)
        drawn = [
            [texts.passage(rng, options.tokens) for _ in range(options.documents + 1)] for _ in range(size)
        ]
        # the first one of a prompt is of use in its own place only: it is in no other
        births = [prompts.prompt(documents, QUESTION) for documents in drawn]
        batch = [prompts.prompt(documents[:0:-1], QUESTION) for documents in drawn]
        engine.forget(chunks=True)
        ask(births)
        engine.forget(chunks=False)
        answers = {MOST: ask(batch, most)}
        engine.forget(chunks=False)
        answers[ALL] = ask(batch, Repair(1.0, floor_tokens=0))
        engine.forget(chunks=True)
        cold = ask(batch)
        answers[HIT] = ask(batch)
        yield [
            Sample(way, kl(exact.first, each.first), each.token_ids == exact.token_ids, each.cached_tokens)
            for way, found in answers.items()
            for each, exact in zip(found, cold, strict=True)
        ]
    engine.close()


def show(console: Console, samples: Sequence[Sample]) -> bool:
    """Prints the table and the bounds; True if all hold."""
    table = Table(title=f"against a cold run, {ANSWER_TOKENS} tokens of each answer")
    for column in ("computed", "prompts", "mean KL", "largest KL", "same answer"):
        table.add_column(column, justify="left" if column == "computed" else "right")
    ways = {way: [sample for sample in samples if sample.way == way] for way in WAYS}
    for way, found in ways.items():
        kls = [sample.kl for sample in found]
        same = f"{sum(sample.same for sample in found)}"
        table.add_row(way, str(len(found)), f"{fmean(kls):.5f}", f"{max(kls):.5f}", same)
    console.print(table)
    alike = sum(sample.same for sample in ways[ALL]) >= sum(sample.same for sample in ways[HIT])
    verdicts = [("the same answer as often as by a prefix hit", alike)]
    for way in (ALL, MOST):
        mean_kl = fmean(sample.kl for sample in ways[way])
        verdicts.append((f"mean KL, {way}: {mean_kl:.5f}, at most {KL_BOUND}", mean_kl <= KL_BOUND))
    for name, holds in verdicts:
        console.print(f"{name}: {'holds' if holds else '[red]broken[/]'}")
    return all(holds for _, holds in verdicts)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chunk_exactness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prompts", type=count, default=50, help="default 50")
    parser.add_argument("--documents", type=count, default=3, help="of each prompt (default 3)")
    parser.add_argument("--tokens", type=count, default=120, help="of each document (default 120)")
    parser.add_argument("--seed", type=whole_number, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/chunk_exactness"), help="where samples go")
    options = parser.parse_args()
    console = Console()
    try:
        out = folders.made(options.out)
        model = models.resolve(Config().model.source, Config().cluster.cache_dir)
        path, samples = out / "samples.json", list[Sample]()
        for some in measure(model, options):
            samples += some
            path.write_text(json.dumps([asdict(sample) for sample in samples], indent=1) + "\n")
            console.print(f"{len(samples) // len(WAYS)} of {options.prompts} prompts")
    except MygoError as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True)
        return 2
    console.print(f"{cpu_name()}, {revision()}")
    holds = show(console, samples)
    console.print(f"samples: {path}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
