"""What earlier processes left of a deleted passage is found by its tag, and not read meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from disk_chunks import NAMESPACE, chunk_files, key, open_store, path_of, payload, read, settle

from mygo.vllm_plugin.disk.files import ChunkFiles
from mygo.vllm_plugin.disk.format import MAX_TAGS, ChunkKey, is_intact, seal, tags_in
from mygo.vllm_plugin.disk.store import DiskStore

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))


def _left_behind(folder: Path, tags: dict[int, bytes]) -> DiskStore:
    """A store over what another process wrote: chunk number -> tags."""
    earlier = open_store(chunk_files(folder))
    for number, each in tags.items():
        assert earlier.write(key(number), payload(number), each)
        settle(earlier)
    assert earlier.close()
    return open_store(chunk_files(folder))


@pytest.mark.parametrize("tags", [b"", A, A + B, A * MAX_TAGS])
def test_header_keeps_its_tags_and_is_damaged_when_they_are_changed(tags: bytes) -> None:
    header = seal(NAMESPACE, key(1), payload(1), tags)
    assert len(header) == 4096
    assert tags_in(header) == tags
    assert is_intact(header, NAMESPACE, key(1), payload(1))
    if tags:
        changed = header.replace(tags, C * (len(tags) // 16))
        assert not is_intact(changed, NAMESPACE, key(1), payload(1))


def test_header_with_an_impossible_count_is_damaged(tmp_path: Path) -> None:
    header = bytearray(seal(NAMESPACE, key(1), payload(1)))
    header[88:90] = b"\xff\xff"
    assert len(tags_in(bytes(header))) <= 16 * MAX_TAGS
    assert not is_intact(bytes(header), NAMESPACE, key(1), payload(1))


def test_found_chunks_in_sight_of_a_purged_passage_are_deleted_and_others_stay(tmp_path: Path) -> None:
    store = _left_behind(tmp_path, {1: A, 2: A + B, 3: B, 4: b""})
    store.purge_tagged([A, C])
    settle(store)  # headers are read,
    settle(store)  # then files are deleted
    assert [store.holds(key(number)) for number in (1, 2, 3, 4)] == [False, False, True, True]
    assert [path_of(tmp_path, number).exists() for number in (1, 2, 3, 4)] == [False, False, True, True]
    assert store.stats.purged_chunks == 2
    store.purge_tagged([B])  # headers are known by now
    assert not store.holds(key(3))
    assert read(store, 4) == bytes(payload(4))
    assert store.close()


def test_no_found_chunk_is_read_until_it_is_known_what_must_go(tmp_path: Path) -> None:
    class SlowFiles(ChunkFiles):
        may_go_on = threading.Event()

        def tags(self, key: ChunkKey) -> bytes | None:
            self.may_go_on.wait(10)
            return super().tags(key)

    assert _left_behind(tmp_path, {1: A, 2: B}).close()
    files = SlowFiles(tmp_path, NAMESPACE, len(payload(0)), direct=False)
    store = open_store(files)
    assert store.write(key(3), payload(3), A)
    settle(store)
    store.purge_tagged([A])
    assert not store.holds(key(1)) and not store.holds(key(2))
    assert not store.read(key(2), memoryview(bytearray(len(payload(0)))))
    assert store.holds(key(3)), "what was written since the start is purged by its key"
    files.may_go_on.set()
    settle(store)
    assert not store.holds(key(1)) and store.holds(key(2))
    assert store.close()


def test_purge_that_comes_before_the_scan_has_ended_is_carried_out(tmp_path: Path) -> None:
    class SlowFiles(ChunkFiles):
        may_go_on = threading.Event()

        def scan(self):  # type: ignore[no-untyped-def]
            self.may_go_on.wait(10)
            return super().scan()

    assert _left_behind(tmp_path, {1: A, 2: B}).close()
    files = SlowFiles(tmp_path, NAMESPACE, len(payload(0)), direct=False)
    from mygo.vllm_plugin.disk.health import ReadSpeed

    store = DiskStore(
        files, 9, ReadSpeed(), min_free_bytes=0, read_threads=1, write_threads=1, max_queued_write_bytes=2**20
    )
    store.purge_tagged([A])
    files.may_go_on.set()
    while not store.holds(key(2)):
        store.poll()
    assert not store.holds(key(1))
    settle(store)
    assert not path_of(tmp_path, 1).exists()
    assert store.close()


def test_chunk_whose_header_cannot_be_read_goes_too(tmp_path: Path) -> None:
    store = _left_behind(tmp_path, {1: A, 2: B})
    path_of(tmp_path, 2).unlink()
    store.purge_tagged([A])
    settle(store)
    settle(store)
    assert not any(store.holds(key(number)) for number in (1, 2))
    assert store.close()
