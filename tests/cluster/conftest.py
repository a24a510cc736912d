"""One real cluster for all tests of this folder: two vLLM workers, two FAISS shards, two tenants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from benchmarks.cluster import MODEL, Cluster, running_cluster

__all__ = ["MODEL", "Cluster", "mygo_of"]


@pytest.fixture(scope="package")  # gone before other folders start engines of their own
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # long beside a step, which takes seconds on a busy CPU
    workers = {"stall_timeout_s": 20.0}
    with running_cluster(tmp_path_factory.mktemp("cluster"), workers=workers) as running:
        yield running


@pytest.fixture
def client(cluster: Cluster) -> OpenAI:
    return cluster.client()


def mygo_of(response: Any) -> dict[str, Any]:
    """The ``mygo`` object of a response or chunk of the official client."""
    extra: dict[str, Any] = json.loads(response.model_dump_json())["mygo"]
    return extra
