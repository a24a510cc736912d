"""One worker with three tiers: what answers say of them, restarts, and documents that are deleted."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import MODEL, Cluster, mygo_of

from benchmarks.cluster import running_cluster
from mygo.tree.keys import passage_tag
from mygo.types import ContentHash, DomainTag
from mygo.vllm_plugin.disk.format import HEADER_BYTES, TAG_BYTES, tags_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ANIMALS = ["otter", "heron", "badger", "lynx", "walrus", "gecko", "falcon", "beaver", "mole", "toad", "stork"]
STONES = ["basalt", "granite", "chalk", "flint", "gneiss", "marble", "slate", "quartz", "shale", "opal"]


SYSTEM = (
    "You are a careful librarian. Answer from the documents alone, in plain words and in full sentences, say "
    "so when they do not have the answer, and name the document and the line that you quote."
)
"""Of more than a block: a block that holds the beginning of a deleted passage goes with it, and what other
passages begin with must not be in the same one."""


def _text(seed: int, words: int = 130, of: list[str] = ANIMALS) -> str:
    return " ".join(f"{of[(seed * 7 + i * (seed + 3)) % len(of)]} {seed * i % 89}" for i in range(words))


def _settings(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        "model": {"max_context_tokens": 2048, "kv_cache_bytes": 60_000_000},  # about 2,600 tokens
        "workers": {"replicas": 1},
        "retrieval": {"shards": 1, "top_k": 1},
        "prompt": {"system": SYSTEM},
        "cache": {"host_bytes": 2**27, "disk_path": str(folder / "kv"), "disk_bytes": 2**30},
    }


def _ingest(cluster: Cluster, *texts: str) -> tuple[str, list[str]]:
    """Texts as files of a store; returns its id and theirs."""
    client = cluster.client()
    store = client.vector_stores.create(name="tiers").id
    files = []
    for number, text in enumerate(texts):
        file = client.files.create(file=(f"{number}.txt", io.BytesIO(text.encode())), purpose="assistants")
        client.vector_stores.files.create_and_poll(file.id, vector_store_id=store, poll_interval_ms=100)
        files.append(file.id)
    return store, files


def _ask(cluster: Cluster, store: str, question: str) -> dict[str, Any]:
    answer = cluster.client().responses.create(
        model=MODEL,
        input=question,
        tools=[{"type": "file_search", "vector_store_ids": [store]}],
        max_output_tokens=4,
        temperature=0,
    )
    return mygo_of(answer)


def _cache(cluster: Cluster, key: str) -> dict[str, Any]:
    answer = httpx.get(
        f"{cluster.url}/v1/mygo/cache",
        headers={"Authorization": f"Bearer {key}"},
        timeout=60.0,
        trust_env=False,
    )
    report: dict[str, Any] = answer.raise_for_status().json()
    return report


def _named(report: dict[str, Any]) -> set[str]:
    nodes = [node for worker in report["workers"] for node in worker["nodes"]]
    return {node["document"]["filename"] for node in nodes if node["document"]}


def _files_in_sight(folder: Path, tag: str) -> int:
    """Chunks on disk whose headers name a passage."""
    wanted = bytes.fromhex(tag)
    count = 0
    for path in (folder / "kv").rglob("*.kv"):
        with path.open("rb") as file:
            tags = tags_in(file.read(HEADER_BYTES))
        count += wanted in {tags[at : at + TAG_BYTES] for at in range(0, len(tags), TAG_BYTES)}
    return count


def _tag(folder: Path, answer: dict[str, Any]) -> str:
    secret = (folder / "data" / "secret").read_bytes()
    return passage_tag(secret, DomainTag("alice"), ContentHash(answer["citations"][0]["content_hash"]))


def test_document_passes_through_the_tiers_and_out_of_them_when_it_is_deleted(tmp_path: Path) -> None:
    leaver, keeper = _text(1), _text(2, of=STONES)
    with running_cluster(tmp_path, **_settings(tmp_path)) as cluster:
        store, (leaving, _) = _ingest(cluster, leaver, keeper)
        question = f"Which one has {leaver[:60]}?"
        cold = _ask(cluster, store, question)
        assert cold["citations"][0]["filename"] == "0.txt"
        usage = cold["usage"]
        assert usage["uncached_tokens"]["never_seen"] > 100
        assert sum(usage["uncached_tokens"].values()) == usage["computed_tokens"]
        warm = _ask(cluster, store, question)["usage"]["cached_tokens"]
        assert warm["device"] > 100 and not warm["host"]
        kept = _ask(cluster, store, f"Which one has {keeper[:60]}?")
        assert kept["citations"][0]["filename"] == "1.txt"
        keeping_tag = _tag(tmp_path, kept)
        for number in range(3, 6):  # push it off the device
            cluster.chat([_text(number, 400)], "What is this?", max_tokens=1)
        assert _ask(cluster, store, question)["usage"]["cached_tokens"]["host"] > 100
        assert "0.txt" in _named(_cache(cluster, "sk-alice"))
        assert "0.txt" not in _named(_cache(cluster, "sk-bob"))
        leaving_tag = _tag(tmp_path, cold)
        deadline_s = time.monotonic() + 30
        while not all(_files_in_sight(tmp_path, tag) for tag in (leaving_tag, keeping_tag)):
            assert time.monotonic() < deadline_s, "nothing was written to disk"
            time.sleep(0.2)
    with running_cluster(tmp_path, **_settings(tmp_path)) as cluster:
        after = _ask(cluster, store, question)["usage"]["cached_tokens"]
        assert after["disk"] > 100 and not after["device"]
        before = len(list((tmp_path / "kv").rglob("*.kv")))
        cluster.client().vector_stores.files.delete(leaving, vector_store_id=store)
        deadline_s = time.monotonic() + 30
        while left := _files_in_sight(tmp_path, leaving_tag):
            assert time.monotonic() < deadline_s, f"{left} chunks are left on disk"
            time.sleep(0.1)
        assert len(list((tmp_path / "kv").rglob("*.kv"))) > before / 2, "others stay"
        assert "0.txt" not in _named(_cache(cluster, "sk-alice"))
        again, _ = _ingest(cluster, leaver)
        late = _ask(cluster, again, question)["usage"]
        assert late["cached_tokens"]["disk"] <= late["prompt_tokens"] - 100
        kept = _ask(cluster, store, f"Which one has {keeper[:60]}?")
        assert kept["usage"]["cached_tokens"]["disk"] > 100, kept
