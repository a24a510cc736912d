"""MyGO's answers against plain vLLM's for the same prompt ids: cold and warm, on either worker, with
neighbours in the batch.

Two workers in turn (round robin), so that each prompt meets both, first without and then with its KV.
float32: every answer identical. bfloat16 (not batch-invariant even by itself): where an answer parts
from the reference, the reference's own two best tokens are at most ``MAX_GAP`` apart.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.acceptance.divergence import Answer, Reference, as_figures, compare, missing
from benchmarks.acceptance.step import Outcome, Say, Step
from benchmarks.cluster import Cluster, running_cluster
from benchmarks.texts import Docstrings
from mygo import config as configs
from mygo import models
from mygo.config import Config
from mygo.serve.placement import cores_of

PROMPTS = 50
MAX_TOKENS = 24
DOCUMENT_TOKENS = (300, 1500)
NEIGHBOURS = 4
MAX_GAP = 0.05
WORKERS = 2
KV_TOKENS = 16_000
"""Per worker: less than all prompts together, so that some are evicted and come back."""
KV_BYTES_PER_TOKEN_BF16 = 23_040
QUESTIONS = (
    "What is described here?",
    "Which function is mentioned first, and what does it do?",
    "Which arguments are explained?",
    "What should one be careful about?",
)


@dataclass(frozen=True)
class Question:
    documents: tuple[str, ...]
    text: str


def step(dtype: str) -> Step:
    """The step for one dtype: ``float32`` or ``bfloat16``."""

    def run(folder: Path, say: Say) -> Outcome:
        return _run(dtype, folder, say)

    return run


def _run(dtype: str, folder: Path, say: Say) -> Outcome:
    width = 2 if dtype == "float32" else 1
    model = {
        "dtype": dtype,
        "max_context_tokens": 4096,
        "kv_cache_bytes": KV_TOKENS * KV_BYTES_PER_TOKEN_BF16 * width,
    }
    workers = {"replicas": WORKERS}
    with running_cluster(
        folder / "cluster", model=model, workers=workers, routing={"policy": "round_robin"}
    ) as cluster:
        config = configs.parse(cluster.config)
        model_path = models.resolve(config.model.source, config.cluster.cache_dir)
        questions = _questions(Docstrings(model_path), random.Random(0))
        names = sorted(worker["id"] for worker in cluster.status()["workers"])
        answers, prompts = _ask(cluster, questions, names, say)
    say("asking plain vLLM")
    references = _reference(config, model_path, prompts, folder)
    tallies = compare(references, answers)
    wanted = [f"{state}, alone, worker {i}" for state in ("cold", "warm") for i in range(WORKERS)]
    lacking = missing(answers, wanted, PROMPTS)
    identical = sum(tally.identical for tally in tallies.values())
    largest_gap = max((tally.largest_gap for tally in tallies.values()), default=0.0)
    exact = identical == len(answers) if dtype == "float32" else largest_gap <= MAX_GAP
    summary = (
        f"{identical} of {len(answers)} answers identical, largest gap at a divergence {largest_gap:.4f}"
    )
    if lacking:
        summary += f"; conditions that some prompts never met: {lacking}"
    figures = {
        "prompts": PROMPTS,
        "prompt_tokens": sorted(len(ids) for ids in prompts),
        "max_tokens": MAX_TOKENS,
        "allowed_gap": 0.0 if dtype == "float32" else MAX_GAP,
        "conditions": as_figures(tallies),
        "missing": lacking,
    }
    return Outcome(exact and not lacking, summary, figures)


def _questions(texts: Docstrings, rng: random.Random) -> list[Question]:
    """One to three documents each, ``DOCUMENT_TOKENS`` together."""
    questions: list[Question] = []
    for number in range(PROMPTS):
        tokens, parts = rng.randint(*DOCUMENT_TOKENS), rng.randint(1, 3)
        documents = tuple(texts.passage(rng, tokens // parts) for _ in range(parts))
        questions.append(Question(documents, f"{rng.choice(QUESTIONS)} ({number})"))
    return questions


def _ask(
    cluster: Cluster, questions: Sequence[Question], names: Sequence[str], say: Say
) -> tuple[list[Answer], list[list[int]]]:
    """All answers, and each question's prompt ids."""
    prompts: dict[int, list[int]] = {}

    def ask(number: int, company: str) -> Answer:
        question = questions[number]
        answer = cluster.chat(question.documents, question.text, max_tokens=MAX_TOKENS)
        if prompts.setdefault(number, answer["prompt_token_ids"]) != answer["prompt_token_ids"]:
            raise RuntimeError(f"prompt {number} has other token ids than before")
        condition = f"{_state(answer)}, {company}, worker {names.index(answer['mygo']['worker'])}"
        return Answer(number, condition, tuple(answer["choices"][0]["token_ids"]))

    answers: list[Answer] = []
    for number in range(len(questions)):
        # in turn: cold here, cold there, warm here, warm there
        answers += [ask(number, "alone") for _ in range(2 * WORKERS)]
        if (number + 1) % 10 == 0:
            say(f"{number + 1} of {len(questions)} prompts alone")
    with ThreadPoolExecutor(NEIGHBOURS) as threads:
        for turn in range(2):
            answers += threads.map(lambda number: ask(number, "neighbours"), range(len(questions)))
            say(f"all prompts {NEIGHBOURS} at a time, {turn + 1} of 2")
    return answers, [prompts[number] for number in range(len(questions))]


def _state(answer: dict[str, Any]) -> str:
    """``warm`` if most of the prompt was cached; the system prompt always is, after a while."""
    usage = answer["mygo"]["usage"]
    return "warm" if sum(usage["cached_tokens"].values()) > usage["prompt_tokens"] / 2 else "cold"


def _reference(
    config: Config, model_path: Path, prompts: Sequence[list[int]], folder: Path
) -> list[Reference]:
    model = config.model
    engine = {
        "model": str(model_path),
        "dtype": model.dtype,
        "max_model_len": model.max_context_tokens,
        "kv_cache_memory_bytes": model.kv_cache_bytes,
        "block_size": model.block_tokens,
        "max_num_batched_tokens": model.step_tokens,
        "long_prefill_token_threshold": model.long_prefill_tokens,
        "max_num_seqs": model.max_running,
        "enforce_eager": model.enforce_eager,
    }
    job, result = folder / "plain.json", folder / "plain-result.json"
    job.write_text(json.dumps({"engine": engine, "prompts": prompts, "max_tokens": MAX_TOKENS}))
    cores = cores_of(0, config.workers.replicas, sorted(os.sched_getaffinity(0)))
    environment = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # as many threads as a worker has: their number decides the order of sums
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
    }
    command = [sys.executable, "-m", "benchmarks.acceptance.plain_vllm", str(job), str(result)]
    with (folder / "plain.log").open("wb") as log:
        subprocess.run(command, check=True, env=os.environ | environment, stdout=log, stderr=log)
    return [
        Reference(tuple(each["token_ids"]), tuple(each["gaps"])) for each in json.loads(result.read_text())
    ]
