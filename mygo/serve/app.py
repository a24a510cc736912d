"""START HERE: how MyGO is wired. Every part is made in this file, and nowhere else.

    client -> Ingress -> Retriever -> shards          documents for the question      (read path)
                      -> PromptBuilder                [system][doc 1]...[doc k][question] as token ids
                      -> Dispatcher -> one Worker     the worker whose cache serves it soonest
                      <- tokens, citations, and where the time went

    upload -> Librarian (journal) -> shards           what can be found               (write path)
    Worker (vLLM + plugin) -> Directory -> Ingress    what each worker's cache really holds

Each box is a Ray Serve deployment; arrows are handles, given to constructors here:

- ``ingress.py``: HTTP in OpenAI's shape; retrieves, builds the prompt, picks a worker, streams back.
- ``retriever.py``: the embedder, the FAISS shards, and the client that merges their answers.
- ``librarian.py``: the corpus on disk; parses uploads, appends to the journal, feeds the shards.
- ``worker.py``: one vLLM engine each; reports its cache and load, dies with its engine.
- ``directory_server.py``: collects the reports; ingress replicas follow it and keep a copy.
- ``dispatch.py``: the decision, inside the ingress, from that copy: no remote call.

Decisions are made by pure rooms that know nothing of Ray: ``mygo/prompt``, ``mygo/directory``,
``mygo/routing``, ``mygo/tree``. Read ``mygo/types.py`` next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ray import serve
from ray.serve.deployment import Application

from mygo import models
from mygo.config import Config
from mygo.serve import worker
from mygo.serve.directory_server import DirectoryServer
from mygo.serve.ingress import Ingress
from mygo.serve.librarian import Librarian
from mygo.serve.retriever import EmbedderServer, ShardServer

# Control-plane replicas wait more than they compute: they reserve no core, so that workers get them all.
LIGHT = {"num_cpus": 0}
MANY = 10_000
"""Ongoing calls that a deployment takes whose callers mostly wait (long polls, streams)."""


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
    config: Config, paths: ModelPaths, workers: Callable[[Application], Application] | None = None
) -> Application:
    """The whole application, ready for ``serve.run``.

    ``workers`` makes another worker deployment than vLLM's, given the directory to report to.
    """
    directory = serve.deployment(
        DirectoryServer, name="directory", ray_actor_options=LIGHT, max_ongoing_requests=MANY
    ).bind()
    make_workers = workers or partial(worker.deployment, config, paths.language_model)

    librarian = serve.deployment(
        Librarian, name="librarian", ray_actor_options=LIGHT, max_ongoing_requests=MANY
    ).bind(config, paths.language_model)
    embedder = serve.deployment(
        EmbedderServer, name="embedder", ray_actor_options=LIGHT, max_ongoing_requests=MANY
    ).bind(config, paths.embedder)
    shards = [
        serve.deployment(
            ShardServer, name=f"shard-{index}", ray_actor_options=LIGHT, max_ongoing_requests=MANY
        ).bind(index, config, librarian, embedder)
        for index in range(config.retrieval.shards)
    ]

    return serve.deployment(
        Ingress,
        name="ingress",
        num_replicas=config.http.ingress_replicas,
        ray_actor_options=LIGHT,
        max_ongoing_requests=MANY,
    ).bind(config, paths.language_model, make_workers(directory), directory, librarian, embedder, shards)
