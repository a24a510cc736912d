"""Twenty simultaneous questions about one new document: it is computed once per worker used."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.acceptance.accounting import Served, computed_tokens
from benchmarks.acceptance.prompts import Layouts
from benchmarks.acceptance.step import Outcome, Say
from benchmarks.cluster import running_cluster
from benchmarks.texts import Docstrings
from mygo import config as configs
from mygo import models

REQUESTS = 20
DOCUMENT_TOKENS = 2000
BURSTS = 3
ALLOWED = 1.1
"""Times the document's tokens per worker used."""
MAX_TOKENS = 8


def run(folder: Path, say: Say) -> Outcome:
    with running_cluster(folder / "cluster", prompt={"default_max_tokens": MAX_TOKENS}) as cluster:
        config = configs.parse(cluster.config)
        texts = Docstrings(models.resolve(config.model.source, config.cluster.cache_dir))
        layouts = Layouts(cluster)
        rng = random.Random(0)
        bursts: list[dict[str, float]] = []

        for number in range(BURSTS):
            document = texts.passage(rng, DOCUMENT_TOKENS)

            def ask(index: int, document: str = document) -> Served:
                question = f"What does part {index} say?"
                answer = cluster.chat([document], question, max_tokens=MAX_TOKENS)
                return layouts.served([document], question, answer)

            with ThreadPoolExecutor(REQUESTS) as threads:
                served = list(threads.map(ask, range(REQUESTS)))
            touch = served[0].touches[0]
            document_tokens = touch.end_tokens - touch.start_tokens
            workers = len({each.worker for each in served})
            computed = sum(
                computed_tokens(touch, each.cached_tokens, layouts.block_tokens) for each in served
            )
            ratio = computed / (document_tokens * workers)
            bursts.append(
                {
                    "document_tokens": document_tokens,
                    "workers": workers,
                    "computed_tokens": computed,
                    "ratio": round(ratio, 4),
                }
            )
            say(f"burst {number + 1}: {computed} tokens computed on {workers} workers, ratio {ratio:.3f}")
    worst = max(each["ratio"] for each in bursts)
    return Outcome(
        worst <= ALLOWED,
        f"computed {worst:.3f} times the document per worker used at worst (allowed {ALLOWED})",
        {"requests": REQUESTS, "step_tokens": config.model.step_tokens, "bursts": bursts},
    )
