"""START HERE: how MyGO is wired. Every deployment is made in this file, and nowhere else.

    READ    client ─► Ingress ─► Searcher ─► Embedder, Shards     which passages answer the question
                         ├─────► PromptBuilder                    [system][doc 1]..[doc k][question] as ids
                         ├─────► Dispatcher ─► one Worker         whose cache serves these ids soonest
            client ◄─────┘                                        tokens, citations, where the time went

    WRITE   client ─► Ingress ─► Librarian ─► Shards              a file, parsed, journalled, searchable
                                        └► Workers                what is deleted leaves every cache
            Worker ─► Directory ─► every Ingress                  what each worker's cache really holds

Arrows are data. Ray Serve deployments, each with its file here:

- ``ingress.py``: HTTP in OpenAI's shape (the shape itself is ``mygo/api``); one request, top to bottom.
- ``librarian.py``: the corpus on disk. Shards pull its journal, workers what is deleted (``deletions.py``).
- ``retriever.py``: the FAISS shards, which are pure functions of the journal.
- ``text_models.py``: the embedder, and the reranker if one is configured.
- ``worker.py``: one vLLM engine each (``vllm_engine.py``). Says what its cache holds; dies with its engine.
  ``emulated_worker.py`` stands in for it in load tests: the same, but its engine only takes time.
- ``directory_server.py``: collects what workers say. Each ingress pulls it into a copy of its own.

Inside the ingress: ``overlapping.py`` (an answer may begin before its search has ended), ``search.py`` (who
may read what), ``planning.py`` (prompts, by ``mygo/prompt``), and ``dispatch.py``, which routes from that
copy without a remote call, sends (``pinned.py`` makes Ray Serve obey), and tries another worker if one dies
before the first token.

Decisions are made by pure rooms that know nothing of Ray: ``mygo/prompt``, ``mygo/directory``,
``mygo/routing``, ``mygo/speculation``, ``mygo/tree``. Read ``mygo/types.py`` next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ray import serve
from ray.serve.deployment import Application, Deployment

from mygo import models
from mygo.config import Config
from mygo.serve import emulated_worker, worker
from mygo.serve.directory_server import DirectoryServer
from mygo.serve.ingress import Ingress
from mygo.serve.librarian import Librarian
from mygo.serve.retriever import ShardServer
from mygo.serve.text_models import EmbedderServer, RerankerServer
from mygo.serve.transport import runtime_env


@dataclass(frozen=True)
class ModelPaths:
    """Where the weights lie on every node."""

    language_model: Path
    embedder: Path


def resolve_models(config: Config, *, progress: bool = False) -> ModelPaths:
    """Find, convert or download both models once; raises ConfigError that says what to do."""
    cache_dir = config.cluster.cache_dir
    return ModelPaths(
        models.resolve(config.model.source, cache_dir, progress=progress),
        models.resolve(config.embedder.source, cache_dir, progress=progress),
    )


def build(
    config: Config,
    paths: ModelPaths,
    workers: Callable[[Application], Application] | None = None,
    shard: type[ShardServer] = ShardServer,
) -> Application:
    """The whole application, ready for ``serve.run``.

    Benchmarks pass ``workers`` to deploy a stand-in for vLLM: given the directory to report to, it makes
    the worker deployment; and ``shard`` to have searches take as long as they say.
    """
    directory = _light(DirectoryServer, "directory").bind()
    librarian = _light(Librarian, "librarian").bind(config, paths.language_model)
    if workers is not None:
        worker_app = workers(directory)
    elif config.workers.device == "emulated":
        worker_app = emulated_worker.deployment(config, directory)
    else:
        worker_app = worker.deployment(config, paths.language_model, directory, librarian)

    embedder = _light(EmbedderServer, "embedder").bind(config, paths.embedder)
    gpus = config.retrieval.shard_gpus if config.retrieval.index == "gpu" else 0.0
    shards = [
        _light(shard, f"shard-{index}", replicas=config.retrieval.shard_replicas, gpus=gpus).bind(
            index, config, librarian, embedder
        )
        for index in range(config.retrieval.shards)
    ]

    reranker = None
    if config.retrieval.reranker is not None:
        reranker = _light(RerankerServer, "reranker").bind(config.retrieval.reranker, config.embedder.batch)

    ingress = _light(Ingress, "ingress", replicas=config.http.ingress_replicas)
    return ingress.bind(
        config, paths.language_model, worker_app, directory, librarian, embedder, shards, reranker
    )


def _light(part: type, name: str, *, replicas: int = 1, gpus: float = 0.0) -> Deployment:
    """A deployment that reserves no core: only workers do, the others use what is idle.

    It takes many calls at once, since most of them only wait (long polls, streams).
    """
    return serve.deployment(
        part,
        name=name,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": 0, "num_gpus": gpus, "runtime_env": runtime_env()},
        max_ongoing_requests=10_000,
        graceful_shutdown_timeout_s=5.0,
    )
