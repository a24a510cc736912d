"""Small chunks for the disk tests, and a store over a folder."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from mygo.vllm_plugin.disk.files import ChunkFiles
from mygo.vllm_plugin.disk.format import HEADER_BYTES, ChunkKey
from mygo.vllm_plugin.disk.health import ReadSpeed
from mygo.vllm_plugin.disk.records import Presence, Transferred
from mygo.vllm_plugin.disk.store import DiskStore

NAMESPACE = b"n" * 32
PAYLOAD_BYTES = 1000
FILE_BYTES = HEADER_BYTES + PAYLOAD_BYTES


def key(number: int) -> ChunkKey:
    return ChunkKey(hashlib.sha256(str(number).encode()).digest() + bytes(4))


def payload(number: int) -> memoryview:
    return memoryview((hashlib.sha256(f"KV {number}".encode()).digest() * 32)[:PAYLOAD_BYTES])


def chunk_files(folder: Path) -> ChunkFiles:
    folder.mkdir(exist_ok=True)
    return ChunkFiles(folder, NAMESPACE, PAYLOAD_BYTES, direct=False)


def path_of(folder: Path, number: int) -> Path:
    name = key(number).hex()
    return folder / name[:2] / f"{name}.kv"


def open_store(files: ChunkFiles, max_chunks: int = 100, **options: Any) -> DiskStore:
    """A store whose scan has ended."""
    settings = {"min_free_bytes": 0, "read_threads": 2, "write_threads": 2, "max_queued_write_bytes": 2**30}
    store = DiskStore(files, max_chunks, ReadSpeed(), **{**settings, **options})
    until_s = time.monotonic() + 10
    while store.find(key(-1)) is Presence.NOT_YET_KNOWN or "scanning" in repr(store):
        assert time.monotonic() < until_s
        time.sleep(0.001)
        store.poll()
    return store


def settle(store: DiskStore) -> list[Transferred]:
    store.drain()
    return store.poll()


def write(store: DiskStore, number: int) -> bool:
    """Store a chunk and wait for it."""
    assert not settle(store)
    begun = store.write(key(number), payload(number))
    return begun and settle(store) == [Transferred(key(number), is_read=False, ok=True)]


def read(store: DiskStore, number: int) -> bytes | None:
    """Read a chunk and wait for it; None if that did not succeed."""
    buffer = bytearray(PAYLOAD_BYTES)
    if not store.read(key(number), memoryview(buffer)):
        return None
    (ended,) = settle(store)
    return bytes(buffer) if ended.ok else None
