"""One kind of index in a process of its own, so that its memory is its own."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.retrieval_index.vectors import DIMENSIONS, mapped
from mygo.config_retrieval import RetrievalConfig
from mygo.retrieval.index import VectorIndex, Vectors
from mygo.retrieval.ivf import IvfIndex
from mygo.retrieval.kinds import IndexBuilder
from mygo.retrieval.stages import even_ends

RESULTS = 10
SETTINGS = {
    "flat": (),
    "ivf": ("ivf_lists", "ivf_probes", "ivf_on_disk"),
    "ivfpq": ("ivf_lists", "ivf_probes", "pq_bytes", "rerank_factor"),
    "hnsw": ("hnsw_links", "hnsw_ef_search"),
}
"""Kinds, and the keys of `retrieval` that change what is measured of them."""
STAGES = (2, 4, 8)
"""Of staged searches, even in lists."""
_ADDED_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class Staged:
    stages: int
    one_go_ms: float
    staged_ms: float
    """Means per query of the searching thread's CPU time, interleaved."""
    ratio: float
    """Of the sums."""
    different: int
    """Queries whose last stage was not the search in one go, in ids or scores."""
    final_after: list[float]
    """Share of queries whose list, in its order, was the final one after stage 1, 2, ..."""


@dataclass(frozen=True, slots=True)
class Measured:
    kind: str
    settings: dict[str, Any]
    vectors: int
    build_s: float
    """Training and adding."""
    build_cpu_s: float
    memory_mb: float
    """Anonymous memory that the process has more with the index than without. Memory-mapped files are not in
    it: the system takes their pages back when it needs them."""
    recall: float
    queries_per_s: float
    """Of one thread, one query after another, in its CPU time; so are the next two."""
    median_ms: float
    p99_ms: float
    staged: list[Staged]


def measure(folder: Path, config: RetrievalConfig, vectors: int) -> Measured:
    """``folder`` holds vectors.f32, questions.npy, their truth, and staged.npy, other questions."""
    data = mapped(folder / "vectors.f32", vectors)
    questions: Vectors = np.load(folder / "questions.npy")
    truth = np.load(folder / f"truth-{len(questions)}.npy")
    asked_staged: Vectors = np.load(folder / "staged.npy")
    before_mb = _anonymous_mb()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    index = _built(data, config, folder)
    build_s, build_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what training needed and gave back
    memory_mb = _anonymous_mb() - before_mb

    faiss.omp_set_num_threads(1)
    queries = len(questions)
    took_s, hits = np.empty(queries), 0
    for number, question in enumerate(questions):
        took_s[number], (_, rows) = _timed(lambda question=question: index.search(question, RESULTS))
        hits += len(np.intersect1d(rows, truth[number][truth[number] >= 0], assume_unique=True))
    staged = []
    if len(asked_staged) and isinstance(index, IvfIndex):
        staged = [_staged(index, asked_staged, stages) for stages in STAGES]
    return Measured(
        kind=config.index,
        settings=_settings(config),
        vectors=vectors,
        build_s=build_s,
        build_cpu_s=build_cpu_s,
        memory_mb=memory_mb,
        recall=hits / int((truth >= 0).sum()),  # -1 fills up where there are fewer vectors than results
        queries_per_s=queries / float(took_s.sum()),
        median_ms=float(np.median(took_s)) * 1e3,
        p99_ms=float(np.quantile(took_s, 0.99)) * 1e3,
        staged=staged,
    )


def _built(data: Vectors, config: RetrievalConfig, folder: Path) -> VectorIndex:
    builder = IndexBuilder(DIMENSIONS, config, folder)
    chosen = np.random.default_rng(1).permutation(len(data))[: builder.training_vectors(len(data))]
    began_s = time.perf_counter()
    index = builder.built(np.ascontiguousarray(data[np.sort(chosen)]), len(data))
    print(f"  trained in {time.perf_counter() - began_s:.0f} s", file=sys.stderr)
    for start in range(0, len(data), _ADDED_AT_ONCE):
        part = np.ascontiguousarray(data[start : start + _ADDED_AT_ONCE])
        index.add(np.arange(start, start + len(part), dtype=np.int64), part)
    print(f"  built in {time.perf_counter() - began_s:.0f} s", file=sys.stderr)
    return index


def _staged(index: IvfIndex, questions: Vectors, stages: int) -> Staged:
    ends = even_ends(index.probes(RESULTS), stages)
    one_go_s = staged_s = 0.0
    different = 0
    final_after = np.zeros(stages)
    for number, question in enumerate(questions):
        if number % 2:
            one_go_took_s, one_go = _timed(lambda question=question: [index.search(question, RESULTS)])
        staged_took_s, parts = _timed(
            lambda question=question: list(index.search_by_plan(question, RESULTS, ends))
        )
        if not number % 2:
            one_go_took_s, one_go = _timed(lambda question=question: [index.search(question, RESULTS)])
        one_go_s += one_go_took_s
        staged_s += staged_took_s
        scores, rows = one_go[0]
        different += not (np.array_equal(parts[-1].rows, rows) and np.array_equal(parts[-1].scores, scores))
        is_final = [np.array_equal(part.rows, rows) for part in parts]
        settled = len(parts) - next((i for i, same in enumerate(reversed(is_final)) if not same), len(parts))
        final_after[min(settled, stages - 1) :] += 1
    count = len(questions)
    return Staged(
        stages=stages,
        one_go_ms=one_go_s / count * 1e3,
        staged_ms=staged_s / count * 1e3,
        ratio=staged_s / one_go_s,
        different=different,
        final_after=(final_after / count).tolist(),
    )


def _timed(work: Any) -> tuple[float, Any]:
    """CPU seconds: a query takes less than the system's other processes are let in between."""
    began_s = time.thread_time()
    done = work()
    return time.thread_time() - began_s, done


def _settings(config: RetrievalConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in SETTINGS[config.index]}


def _anonymous_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    done = measure(
        Path(arguments["folder"]),
        RetrievalConfig(**arguments["config"]),
        arguments["vectors"],
    )
    json.dump(asdict(done), sys.stdout)
