"""How often retrieval finds the passage that answers a question: by vectors, by both, and reranked.

    python -m benchmarks.retrieval_quality --squad FILE [--reranker FOLDER] [--text-weight W] ...

FILE is in SQuAD's format: each paragraph is a passage, each question should find its own paragraph among the
first ``--results``; questions that no paragraph answers (``is_impossible``) are left out. Embedder, shard,
fusion and reranker are the production code, with the shipped settings but for ``retrieval.text_weight``.
Prints recall, mean reciprocal rank and a 95 % interval of the difference to vectors alone (over questions,
paired); exit status 1 if hybrid search finds fewer than vectors alone, beyond that interval.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.accept import revision
from benchmarks.arguments import count, positive
from mygo import models
from mygo.config import Config
from mygo.errors import ConfigError, MygoError
from mygo.retrieval import Embedder, Shard, ShardStages, Weights
from mygo.retrieval.index import Vectors
from mygo.retrieval.rerank import load_reranker
from mygo.types import ContentHash, DocId, Passage, ScoredPassage, StoreId

STORE = StoreId("squad")
BOOTSTRAPS = 2_000
console = Console()


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    doc_id: DocId
    """Of the paragraph that answers it."""


@dataclass(frozen=True, slots=True)
class Ranking:
    name: str
    ranks: npt.NDArray[np.float64]
    """Of the right paragraph, from 1; infinite where it is not among the results."""
    took_s: float
    """Per question, without embedding."""

    def found(self, results: int) -> npt.NDArray[np.bool_]:
        return self.ranks <= results


def main() -> None:
    arguments = _arguments()
    try:
        rankings = _rankings(arguments)
    except MygoError as error:
        console.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        sys.exit(2)
    _print(rankings, arguments.results)
    dense, hybrid = rankings[:2]
    low, high = _interval(dense, hybrid, arguments.results)
    if high < 0:
        console.print(
            f"[red]broken[/]: hybrid search finds {-high:.3f} to {-low:.3f} fewer than vectors alone"
        )
        sys.exit(1)


def read_squad(path: Path) -> tuple[list[Passage], list[Question], int]:
    """Each distinct paragraph once, all questions with an answer, and the number of those without one.
    Raises ConfigError, which names the place, if it is no such file."""
    contexts: dict[str, DocId] = {}
    questions, unanswerable = [], 0
    try:
        # Windows' editors put a byte order mark first
        for article_at, article in _each(json.loads(path.read_text(encoding="utf-8-sig")), "data", ""):
            for place, paragraph in _each(article, "paragraphs", article_at):
                context = _text(paragraph, "context", place)
                doc_id = contexts.setdefault(context, DocId(str(len(contexts))))
                for question_at, question in _each(paragraph, "qas", place):
                    text = _text(question, "question", question_at)
                    if question.get("is_impossible"):
                        unanswerable += 1
                    else:
                        questions.append(Question(text, doc_id))
        if not questions:
            raise ValueError("data has no question with an answer")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--squad {path}: is no file in SQuAD's format: {error}") from error
    passages = [Passage(doc_id, 0, text, ContentHash(doc_id), STORE) for text, doc_id in contexts.items()]
    return passages, questions, unanswerable


def _each(holder: Any, key: str, place: str) -> Iterator[tuple[str, Any]]:
    """The parts of a list, each with its place. Paragraphs without questions only distract."""
    at, parts = _part(holder, key, place)
    if not isinstance(parts, list):
        raise ValueError(f"{at} is not a list")
    for number, part in enumerate(parts):
        yield f"{at}[{number}]", part


def _text(holder: Any, key: str, place: str) -> str:
    at, text = _part(holder, key, place)
    if not isinstance(text, str):
        raise ValueError(f"{at} is not a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{at} is not valid Unicode text (a lone surrogate)") from None
    return text


def _part(holder: Any, key: str, place: str) -> tuple[str, Any]:
    if not isinstance(holder, dict):
        raise ValueError(f"{place or 'what it holds'} is not an object")
    at = f"{place}.{key}" if place else key
    if key not in holder:
        raise ValueError(f"{at} is missing")
    return at, holder[key]


def _rankings(arguments: argparse.Namespace) -> list[Ranking]:
    passages, questions, unanswerable = read_squad(arguments.squad)
    questions = questions[: arguments.questions]
    console.print(f"{len(passages):,} passages, {len(questions):,} questions, commit {revision()}")
    if unanswerable:
        console.print(f"{unanswerable:,} questions that no paragraph answers (is_impossible) are left out")
    config = Config()
    source = models.resolve(config.embedder.source, config.cluster.cache_dir)
    embedder = Embedder(str(source), config.embedder.batch, threads=arguments.threads)
    shard = Shard(embedder.dimensions, index=0, config=config.retrieval.model_copy(update={"shards": 1}))
    embedded = embedder.embed([passage.text for passage in passages])
    for passage, vector in zip(passages, embedded, strict=True):
        shard.upsert(STORE, passage.doc_id, [passage], vector[np.newaxis, :])
    asked = embedder.embed_queries([question.text for question in questions])

    depth = max(arguments.results, config.retrieval.reranker_candidates)
    by_both = Weights(1.0, arguments.text_weight)
    both = f"vectors {by_both.vectors:g} + words {by_both.words:g}"
    found: dict[str, list[list[ScoredPassage]]] = {}
    rankings = []
    for name, weights in (("vectors", Weights()), (both, by_both), ("words", Weights(0.0, 1.0))):
        began_s = time.perf_counter()
        found[name] = [
            _search(shard, question.text, vector, weights, depth)
            for question, vector in zip(questions, asked, strict=True)
        ]
        rankings.append(_ranking(name, found[name], questions, time.perf_counter() - began_s))
    if arguments.reranker:
        reranker = load_reranker(arguments.reranker, config.embedder.batch, threads=arguments.threads)
        candidates = config.retrieval.reranker_candidates
        for name in ("vectors", both):
            began_s = time.perf_counter()
            reordered = []
            for question, ranked in zip(questions, found[name], strict=True):
                head = ranked[:candidates]
                scores = reranker.scores(question.text, [scored.passage.text for scored in head])
                order = np.argsort(-np.array(scores), kind="stable")
                reordered.append([head[place] for place in order])
            rankings.append(
                _ranking(f"{name}, reranked", reordered, questions, time.perf_counter() - began_s)
            )
    return rankings


def _search(shard: Shard, text: str, vector: Vectors, weights: Weights, k: int) -> list[ScoredPassage]:
    merged = ShardStages(1, k, weights)
    for stage in shard.search_staged({STORE}, vector, weights.depth(k), 1.0, text if weights.words else None):
        merged.add(0, stage)
    result = merged.result()
    assert result is not None
    return list(result.passages)


def _ranking(
    name: str, found: Sequence[Sequence[ScoredPassage]], questions: Sequence[Question], took_s: float
) -> Ranking:
    ranks = np.full(len(questions), np.inf)
    for number, (ranked, question) in enumerate(zip(found, questions, strict=True)):
        for rank, scored in enumerate(ranked, 1):
            if scored.passage.doc_id == question.doc_id:
                ranks[number] = rank
                break
    return Ranking(name, ranks, took_s / len(questions))


def _interval(base: Ranking, other: Ranking, results: int) -> tuple[float, float]:
    """95 % of the difference of recalls, other - base, by bootstrap over questions."""
    difference = other.found(results).astype(float) - base.found(results)
    rng = np.random.default_rng(0)
    means = [rng.choice(difference, len(difference)).mean() for _ in range(BOOTSTRAPS)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _print(rankings: list[Ranking], results: int) -> None:
    table = Table(
        "ranking", "recall@1", f"recall@{results}", "difference to vectors", "MRR", "ms per question"
    )
    for ranking in rankings:
        low, high = _interval(rankings[0], ranking, results)
        table.add_row(
            ranking.name,
            f"{ranking.found(1).mean():.3f}",
            f"{ranking.found(results).mean():.3f}",
            "" if ranking is rankings[0] else f"{low:+.3f} to {high:+.3f}",
            f"{(1 / ranking.ranks).mean():.3f}",
            f"{ranking.took_s * 1e3:.1f}",
        )
    console.print(table)


def _arguments(argv: list[str] | None = None) -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval_quality", description=__doc__)
    parser.add_argument("--squad", type=Path, required=True, metavar="FILE")
    parser.add_argument("--reranker", metavar="FOLDER", help="as `retrieval.reranker`")
    parser.add_argument("--text-weight", type=positive, default=1.0, help="beside 1 for vectors")
    parser.add_argument("--results", type=count, default=5)
    parser.add_argument("--questions", type=count, help="only the first ones")
    parser.add_argument("--threads", type=count, default=2)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
