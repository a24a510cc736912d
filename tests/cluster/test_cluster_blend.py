"""A deployment that may blend: answers are exact until that is proven, labelled, and watched."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.cluster import running_cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DOCUMENTS = [
    " ".join(f"{word} {number * (at + 3) % 97}" for number, word in enumerate(["rivet", "gasket"] * 40))
    for at in range(4)
]


METRICS_S = 60.0
"""Workers record every few seconds, and Ray's agents collect every ten."""


def test_answers_are_exact_and_labelled_while_blending_is_unproven(tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {
        "model": {"max_context_tokens": 2048, "kv_cache_bytes": 60_000_000},
        "workers": {"replicas": 1},
        "retrieval": {"shards": 1},
        "reuse": {"mode": "blend", "chunk_share": 1, "fillers": True},
        "cache": {"host_bytes": 2**26},
    }
    with running_cluster(tmp_path, **settings) as cluster:

        def ask(order: list[int]) -> dict[str, Any]:
            answer = cluster.chat([DOCUMENTS[at] for at in order], "What is this?", max_tokens=4)
            told: dict[str, Any] = answer["mygo"]
            return told

        def quality() -> list[dict[str, Any]]:
            workers: list[dict[str, Any]] = cluster.quality()["workers"]
            return workers

        first = ask([0, 1, 2])
        assert first["reuse"] == "exact"
        assert sum(first["usage"]["uncached_tokens"].values()) == first["usage"]["computed_tokens"]
        turned = ask([2, 1, 0])
        assert turned["reuse"] == "exact", "nothing is proven yet"
        (worker,) = quality()
        assert worker["guarded"]
        assert sum(worker["decisions"].values()) <= 1  # none if computing is predicted to be as fast
        assert not worker["decisions"].get("blend") and not worker["decisions"].get("check")

        def captured() -> float:
            page = httpx.get(f"{cluster.url}/metrics", timeout=30.0, trust_env=False).text
            lines = [
                line for line in page.splitlines() if "mygo_fillers" in line and 'outcome="captured"' in line
            ]
            return sum(float(line.split()[-1]) for line in lines)

        for _ in range(2):
            ask([3])
        ends_s = time.monotonic() + METRICS_S
        while not captured() and time.monotonic() < ends_s:
            time.sleep(1.0)
        assert captured() >= 1, "an idle worker computed it behind neutral documents"
