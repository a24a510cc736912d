"""What dies is replaced; what had not begun is served; what had begun ends with a clear error."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from conftest import MODEL, Cluster, mygo_of
from openai import OpenAI

pytestmark = pytest.mark.ray


def _ask(cluster: Cluster, number: int, max_tokens: int = 4) -> str:
    """Ask with a document of its own; says how that ended."""
    text = " ".join(f"Item {number}-{i} is stored on shelf {i * number % 97}." for i in range(60))
    stream: Any = cluster.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Where is item 3?"}],
        max_tokens=max_tokens,
        stream=True,
        extra_body={"documents": [{"id": f"items-{number}", "text": text}]},
    )
    finished = False
    begun = False
    try:
        for chunk in stream:
            for choice in chunk.choices:
                begun = begun or bool(choice.delta.content)
                finished = finished or choice.finish_reason is not None
    except openai.APIError as error:
        assert begun, f"failed before it began: {error}"
        assert str(error), "an error without a message"
        return "cut"
    assert finished, "a stream ended without a finish reason and without an error"
    return "finished"


def _wait_for_replacement(cluster: Cluster, workers: set[str]) -> None:
    """Wait until all are up again; exactly one of ``workers`` must be another now."""
    deadline_s = time.monotonic() + 180
    while len(up := {worker["id"] for worker in cluster.status()["workers"]} - workers) < 1:
        assert time.monotonic() < deadline_s
        time.sleep(1.0)
    cluster.wait_ready()
    assert len(up) == 1


def test_killed_engine_costs_only_streams_that_had_begun(cluster: Cluster) -> None:
    workers = {worker["id"] for worker in cluster.status()["workers"]}
    assert len(workers) == 2
    engines = cluster.processes("VLLM::EngineCore")
    for process in [*engines, *cluster.processes("VLLM::Worker")]:
        maps = Path(f"/proc/{process}/maps").read_text()
        shared = re.findall(r"/dev/shm/(?:psm|vllm_offload)_.*", maps)
        assert shared and all(line.endswith("(deleted)") for line in shared), "it would outlive the engine"
    with ThreadPoolExecutor(8) as threads:
        pending = [threads.submit(_ask, cluster, number, 24) for number in range(8)]
        time.sleep(1.0)
        os.kill(engines[0], signal.SIGKILL)
        outcomes = [each.result() for each in pending]
    assert "finished" in outcomes
    assert set(outcomes) <= {"finished", "cut"}
    # the dead worker is forgotten, the other goes on
    assert _ask(cluster, 99) == "finished"
    _wait_for_replacement(cluster, workers)


@pytest.mark.slow
def test_hung_engine_is_replaced_and_its_requests_are_served_elsewhere(cluster: Cluster) -> None:
    cluster.wait_ready()
    workers = {worker["id"] for worker in cluster.status()["workers"]}
    engines = cluster.processes("VLLM::EngineCore")
    os.kill(engines[0], signal.SIGSTOP)
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda number: _ask(cluster, number), range(200, 208)))
    assert set(outcomes) == {"finished"}, "none had begun, so all are served"
    assert engines[0] not in cluster.processes("VLLM::EngineCore"), "it would hold its memory"
    _wait_for_replacement(cluster, workers)


def test_directory_is_rebuilt_from_the_workers_when_it_dies(cluster: Cluster) -> None:
    text = "The lighthouse keeper is called Marlow. " * 60

    def cached_tokens() -> int:
        answer = cluster.client().chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Who keeps the lighthouse?"}],
            max_tokens=2,
            extra_body={"documents": [{"id": "light", "text": text}]},
        )
        predicted: int = mygo_of(answer)["route"]["predicted_cached_tokens"]
        return predicted

    cached_tokens()
    time.sleep(1.5)
    before = cached_tokens()
    assert before > 300
    (directory,) = cluster.processes("ray::ServeReplica:mygo:directory")
    os.kill(directory, signal.SIGKILL)
    # no request fails meanwhile, and hits are predicted again once the workers have told all
    deadline_s = time.monotonic() + 60
    while not (pids := cluster.processes("ray::ServeReplica:mygo:directory")) or pids == [directory]:
        cached_tokens()
        assert time.monotonic() < deadline_s
    time.sleep(3.0)
    assert cached_tokens() >= before


def notes(client: OpenAI) -> str:
    """A store of 12 files, which both shards have a share of."""
    store = client.vector_stores.create(name="shards")
    for number in range(12):
        client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id,
            file=(f"note-{number}.txt", f"Note {number}: the code is {number * 111}.".encode()),
            poll_interval_ms=100,
        )
    return store.id


def ask_notes(client: OpenAI, store: str) -> dict[str, Any]:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the code of note 5?"}],
        max_tokens=2,
        extra_body={"vector_store_ids": [store], "top_k": 12},
    )
    return mygo_of(answer)


def test_shard_that_stands_still_degrades_answers_and_stops_no_other_part(cluster: Cluster) -> None:
    client = cluster.client()
    store = notes(client)
    (shard,) = cluster.processes("ray::ServeReplica:mygo:shard-0")
    os.kill(shard, signal.SIGSTOP)
    try:
        time.sleep(3.0)  # until it owes answers to what it had asked the librarian
        for _ in range(2):
            account = ask_notes(client, store)
            assert any("shard 0" in problem for problem in account["degraded"]), account
            assert account["citations"], "the other shard still answers"
    finally:
        os.kill(shard, signal.SIGCONT)
    account = ask_notes(client, store)
    assert len(account["citations"]) == 12 and not account["degraded"], account


def test_dead_shard_degrades_answers_and_says_so(cluster: Cluster) -> None:
    client = cluster.client()
    store = notes(client)
    (shard,) = cluster.processes("ray::ServeReplica:mygo:shard-0")
    os.kill(shard, signal.SIGKILL)
    account = ask_notes(client, store)
    # started anew in time, it has everything, or else it is named
    is_named = any("shard 0" in problem for problem in account["degraded"])
    assert is_named or len(account["citations"]) == 12, account
    assert account["citations"], "the other shard still answers"
    cluster.wait_ready()
    deadline_s = time.monotonic() + 60
    while True:
        with contextlib.suppress(openai.APIError):
            found = client.vector_stores.search(store, query="code", max_num_results=12)
            if len(found.data) == 12:
                break
        assert time.monotonic() < deadline_s, "the shard did not replay the journal"
        time.sleep(0.5)
