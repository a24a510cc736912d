from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from retrieval_cases import DIMENSIONS, embed, passages, shard_config

from mygo.config import RetrievalConfig
from mygo.errors import OutOfSpace
from mygo.retrieval import Shard, snapshot
from mygo.retrieval import shard as shard_module
from mygo.retrieval.flat import FlatIndex
from mygo.retrieval.ivf import IvfIndex
from mygo.retrieval.kinds import IndexBuilder
from mygo.types import DocId, DomainTag, Passage, StoreId

A, B = StoreId("vs_a"), StoreId("vs_b")
CONFIG = RetrievalConfig(shards=1, approximate_from_vectors=50, ivf_probes=1000)
PRINT = "fingerprint"


def filled_shard(documents: int = 20) -> Shard:
    shard = Shard(DIMENSIONS, index=0, config=CONFIG)
    for number in range(documents):
        doc = DocId(f"file-{number}")
        texts = [f'{number} {chunk} \u2028\n"line" ü' for chunk in range(5)]
        shard.upsert(A, doc, passages(doc, texts, A), embed(texts))
        shard.upsert(B, doc, passages(doc, texts[:1], B), embed(texts[:1]))
    while shard.rebuild_outgrown():
        pass
    return shard


def load(folder: Path, config: RetrievalConfig = CONFIG) -> tuple[Shard, int] | None:
    return snapshot.load(folder, DIMENSIONS, 0, config, PRINT)


def answers(shard: Shard) -> list[object]:
    return [
        shard.search(stores, embed([query])[0], k)
        for stores in ({A}, {B}, {A, B})
        for query in ("one", "two")
        for k in (1, 7, 1000)
    ]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    snapshot.save(filled_shard(), 77, PRINT, tmp_path)
    return tmp_path


def test_load_gives_the_same_answers_when_saved_before(tmp_path: Path) -> None:
    shard = filled_shard()
    snapshot.save(shard, 77, PRINT, tmp_path / "new" / "folder")
    restored = load(tmp_path / "new" / "folder")
    assert restored is not None
    assert restored[1] == 77
    assert answers(restored[0]) == answers(shard)
    assert repr(restored[0]) == repr(shard)
    assert restored[0].kind(A) == shard.kind(A) == "ivf"
    # and it goes on living
    restored[0].delete(A, DocId("file-3"))
    shard.delete(A, DocId("file-3"))
    assert answers(restored[0]) == answers(shard)


def test_snapshot_of_a_large_store_is_written_and_read_some_vectors_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = filled_shard()
    taken: list[int] = []

    def noting(method: Any) -> Any:
        def noted(index: Any, rows: Any, *vectors: Any) -> Any:
            taken.append(len(rows))
            return method(index, rows, *vectors)

        return noted

    monkeypatch.setattr(shard_module, "_COPIED_AT_ONCE", 7)
    monkeypatch.setattr(snapshot, "_READ_AT_ONCE", 7)
    for kind, method in (
        (IvfIndex, "vectors"),
        (FlatIndex, "vectors"),
        (IvfIndex, "add_to_lists"),
        (FlatIndex, "add"),
    ):
        monkeypatch.setattr(kind, method, noting(getattr(kind, method)))
    snapshot.save(shard, 77, PRINT, tmp_path)
    assert sum(taken) == 120 and max(taken) == 7
    restored = load(tmp_path)
    assert sum(taken) == 240 and max(taken) == 7
    assert restored is not None
    assert answers(restored[0]) == answers(shard)


def test_load_keeps_every_field_of_a_passage(tmp_path: Path) -> None:
    shard = Shard(DIMENSIONS, index=0, config=CONFIG)
    original = Passage(
        DocId("d"), 4, "text", passages("d", ["text"])[0].content_hash, A, "näme.pdf", DomainTag("acme")
    )
    shard.upsert(A, DocId("d"), [original], embed(["text"]))
    snapshot.save(shard, 1, PRINT, tmp_path)
    restored = load(tmp_path)
    assert restored is not None
    assert restored[0].search({A}, embed(["text"])[0], 1)[0].passage == original


def test_load_restores_an_empty_shard(tmp_path: Path) -> None:
    snapshot.save(filled_shard(0), 9, PRINT, tmp_path)
    restored = load(tmp_path)
    assert restored is not None
    assert (len(restored[0]), restored[1]) == (0, 9)


def test_save_leaves_only_the_new_snapshot_when_it_replaces_one(saved: Path) -> None:
    snapshot.save(filled_shard(3), 99, PRINT, saved)
    assert len(list(saved.iterdir())) == 2
    restored = load(saved)
    assert restored is not None
    assert (len(restored[0]), restored[1]) == (18, 99)


def outcome(caplog: pytest.LogCaptureFixture, folder: Path, config: RetrievalConfig = CONFIG) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="mygo.retrieval.snapshot"):
        assert load(folder, config) is None
    (record,) = caplog.records
    return record.getMessage().partition(": ")[2]


def test_load_says_absent_when_nothing_was_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert outcome(caplog, tmp_path / "nowhere").startswith("absent")


def test_load_says_foreign_when_embedder_or_layout_differ(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "shards is 1, ours is 2" in outcome(caplog, saved, CONFIG.model_copy(update={"shards": 2}))
    for dimensions, index, fingerprint, named in (
        (DIMENSIONS, 0, "other", "fingerprint is 'fingerprint', ours is 'other'"),
        (DIMENSIONS + 1, 0, PRINT, "dimensions is 8, ours is 9"),
        (DIMENSIONS, 1, PRINT, "index is 0, ours is 1"),
    ):
        caplog.clear()
        two_shards = CONFIG.model_copy(update={"shards": 2}) if index else CONFIG
        assert snapshot.load(saved, dimensions, index, two_shards, fingerprint) is None
        assert "foreign" in caplog.text
        assert named in caplog.text


def test_load_says_damaged_when_any_file_is_cut_changed_or_gone(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    files = [path.relative_to(saved) for path in saved.rglob("*") if path.is_file()]
    assert len(files) == 4
    for file in files:
        for name, damage in {
            "cut": lambda data: data[: len(data) // 2],
            "emptied": lambda data: b"",
            "bit flipped": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
            "grown": lambda data: data + b"x",
        }.items():
            copy = tmp_path_factory.mktemp("copy") / "snapshot"
            shutil.copytree(saved, copy)
            (copy / file).write_bytes(damage((copy / file).read_bytes()))
            assert outcome(caplog, copy).startswith("damaged"), (file, name)
    for file in files:
        if file.name != "manifest.json":
            (saved / file).unlink()
            assert outcome(caplog, saved).startswith("damaged")


def test_load_says_damaged_when_the_position_was_edited(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["body"]["position"] = 10**6
    (saved / "manifest.json").write_text(json.dumps(manifest))
    assert outcome(caplog, saved).startswith("damaged")


def test_load_gives_the_old_snapshot_when_saving_was_cut_off(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario: the disk fills up, or the process is killed, at any of the steps to the disk."""
    real_fsync = os.fsync
    for failing_call in range(5):
        calls = 0

        def fsync(descriptor: int, *, failing_call: int = failing_call) -> None:
            nonlocal calls
            calls += 1
            if calls > failing_call:
                raise OSError(28, "No space left on device")
            real_fsync(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OutOfSpace, match="the earlier one"):
            snapshot.save(filled_shard(12), 99, PRINT, saved)
        monkeypatch.undo()
        restored = load(saved)
        assert restored is not None
        assert (len(restored[0]), restored[1]) == (120, 77)
        assert len(list(saved.iterdir())) == 2


@pytest.mark.parametrize("index", ["ivf", "ivfpq", "hnsw"])
def test_load_trains_nothing_when_the_structure_was_saved(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shard_config(index=index, approximate_from_vectors=300, pq_bytes=4, rerank_factor=4)
    shard = Shard(DIMENSIONS, index=0, config=config)
    texts = [f"text {number}" for number in range(500)]
    for start in range(0, 500, 10):
        doc = DocId(f"file-{start}")
        shard.upsert(A, doc, passages(doc, texts[start : start + 10]), embed(texts[start : start + 10]))
    assert shard.rebuild_outgrown()
    shard.delete(A, DocId("file-100"))
    snapshot.save(shard, 5, PRINT, tmp_path)
    monkeypatch.setattr(IndexBuilder, "built", None)
    restored = load(tmp_path, config)
    assert restored is not None
    assert restored[0].kind(A) == index
    assert not restored[0].rebuild_outgrown()
    assert answers(restored[0]) == answers(shard)
    monkeypatch.undo()
    # with other settings it is searched exactly until it is built anew
    other = load(tmp_path, config.model_copy(update={"ivf_lists": 7, "hnsw_links": 5}))
    assert other is not None
    assert other[0].kind(A) == "flat"
    assert other[0].rebuild_outgrown()
    assert other[0].kind(A) == index


REBUILD = """
import sys
from pathlib import Path
from mygo.config_retrieval import RetrievalConfig
from mygo.retrieval import snapshot
from mygo.retrieval.index import VectorIndex
from mygo.retrieval.hnsw import HnswIndex
from mygo.retrieval.ivf import IvfIndex

def slowly(add):
    def add_slowly(self, rows, vectors):
        add(self, rows, vectors)
        print("building", flush=True)
        sys.stdin.readline()  # until killed
    return add_slowly
HnswIndex.add, IvfIndex.add = slowly(HnswIndex.add), slowly(IvfIndex.add)
folder = Path(sys.argv[1])
settings = {"approximate_from_vectors": 300, "ivf_probes": 1000, "pq_bytes": 4}
config = RetrievalConfig(shards=1, index=sys.argv[2], **settings)
shard, _ = snapshot.load(folder, 8, 0, config, "fingerprint", folder)
assert shard.rebuild_outgrown()
"""


@pytest.mark.parametrize("index", ["ivf", "ivfpq", "hnsw"])
def test_snapshot_stands_when_the_process_is_killed_while_it_builds_an_index(
    index: str, tmp_path: Path
) -> None:
    exact = Shard(DIMENSIONS, index=0, config=shard_config())
    texts = [f"text {number}" for number in range(400)]
    exact.upsert(A, DocId("file"), passages("file", texts), embed(texts))
    snapshot.save(exact, 9, PRINT, tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", REBUILD, str(tmp_path), index],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        process.kill()
    config = shard_config(index=index, approximate_from_vectors=300, pq_bytes=4)
    restored = load(tmp_path, config)
    assert restored is not None
    assert (restored[1], len(restored[0])) == (9, 400)
    assert answers(restored[0]) == answers(exact)
    assert restored[0].rebuild_outgrown()
    assert restored[0].kind(A) == index
