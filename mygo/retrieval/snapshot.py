"""Save a shard to a folder and load it again, so that a restart embeds nothing twice.

A folder holds one shard's snapshot: ``manifest.json`` names a data folder beside it with the
passages (JSON lines) and the vectors (float32, little endian), both store by store, what it took
long to compute of their indexes (NumPy archives), and the checksums of all. The manifest is replaced
atomically after all else is on the disk, so at every moment there is the old snapshot or the new one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mygo.config_retrieval import RetrievalConfig
from mygo.errors import OutOfSpace, Unavailable
from mygo.retrieval.contents import StoreContents
from mygo.retrieval.index import Structure, Vectors
from mygo.retrieval.shard import Shard
from mygo.types import Passage

logger = logging.getLogger(__name__)

FORMAT = 1
_MANIFEST = "manifest.json"
_DATA_PREFIX = "data-"
_PASSAGES = "passages.jsonl"
_VECTORS = "vectors.f32"
_READ_AT_ONCE = 10_000
"""Vectors: 15 MB of 384 dimensions."""


class Outcome(StrEnum):
    """How loading ended; all but the first mean: replay the journal from the start."""

    RESTORED = "restored"
    ABSENT = "absent"
    DAMAGED = "damaged"
    """Torn, tampered with, or unreadable."""
    FOREIGN = "foreign"
    """Whole, but made by another embedder, for another layout of shards, or in another format."""


def save(shard: Shard, position: int, fingerprint: str, folder: Path) -> None:
    """Write the shard as it is at journal ``position``, made with the embedder ``fingerprint``.

    Searches go on meanwhile, updates wait. Raises OutOfSpace or Unavailable if the folder cannot be
    written; the earlier snapshot then still stands.
    """
    data: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data = Path(tempfile.mkdtemp(prefix=_DATA_PREFIX, dir=folder))
        stores = _write_data(shard, data)
        body = {
            **_identity(shard.dimensions, shard.index, shard.shards, fingerprint),
            "position": position,
            "data": data.name,
            "stores": stores,
            "sha256": {path.name: _sha256(path) for path in sorted(data.iterdir())},
        }
        unpublished = data / _MANIFEST
        with unpublished.open("w", encoding="utf-8") as file:
            json.dump({"body": body, "sha256": _body_sha256(body)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(data)
        unpublished.replace(folder / _MANIFEST)
        published, data = data, None  # from here on the manifest needs it
        _sync_folder(folder)
    except OSError as error:
        if data is not None:
            shutil.rmtree(data, ignore_errors=True)
        kind = OutOfSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else Unavailable
        raise kind(
            f"the snapshot of shard {shard.index} cannot be written to {folder} ({error}); the earlier one "
            "still stands, and a restart replays the journal from there: free space or mend the folder"
        ) from error
    for stale in folder.glob(f"{_DATA_PREFIX}*"):
        if stale != published:
            shutil.rmtree(stale, ignore_errors=True)


def load(
    folder: Path,
    dimensions: int,
    index: int,
    retrieval: RetrievalConfig,
    fingerprint: str,
    scratch: Path | None = None,
) -> tuple[Shard, int] | None:
    """The shard and the journal position that it reflects; None if there is no such snapshot.

    None is never an error: the log names the ``Outcome`` and the reason, and the caller starts with
    an empty shard at position 0. A store whose structure was made with other settings is searched exactly
    until ``Shard.rebuild_outgrown`` has built its index. ``scratch``: ``Shard``'s ``folder``.
    """
    shard = Shard(dimensions, index=index, config=retrieval, folder=scratch)
    try:
        body = _read_manifest(folder / _MANIFEST, _identity(dimensions, index, retrieval.shards, fingerprint))
        data = folder / body["data"]
        for name, expected in body["sha256"].items():
            if _sha256(data / name) != expected:
                raise _MissError(Outcome.DAMAGED, f"{name} does not match its checksum")
        for contents in _read_data(data, body["stores"], dimensions):
            shard.fill(contents)
        position = int(body["position"])
    except _MissError as miss:
        _report(folder, index, miss.outcome, str(miss))
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _report(folder, index, Outcome.DAMAGED, repr(error))
        return None
    logger.info("snapshot in %s: %s %r at position %d", folder, Outcome.RESTORED, shard, position)
    return shard, position


class _MissError(Exception):
    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


def _report(folder: Path, index: int, outcome: Outcome, reason: str) -> None:
    level = logging.INFO if outcome is Outcome.ABSENT else logging.WARNING
    logger.log(
        level,
        "snapshot of shard %d in %s: %s (%s); replaying the journal from the start",
        index,
        folder,
        outcome,
        reason,
    )


def _identity(dimensions: int, index: int, shards: int, fingerprint: str) -> dict[str, Any]:
    """What must be equal for a snapshot to be of use."""
    return {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "dimensions": dimensions,
        "index": index,
        "shards": shards,
    }


def _read_manifest(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _MissError(Outcome.ABSENT, "none was saved yet") from None
    manifest = json.loads(text)
    body: dict[str, Any] = manifest["body"]
    if manifest["sha256"] != _body_sha256(body):
        raise _MissError(Outcome.DAMAGED, "the manifest does not match its checksum")
    for name, mine in identity.items():
        if body[name] != mine:
            raise _MissError(Outcome.FOREIGN, f"its {name} is {body[name]!r}, ours is {mine!r}")
    return body


def _write_data(shard: Shard, data: Path) -> list[dict[str, Any]]:
    """Write all files and sync them; [{store_id, passages (their number), structure (file name or None)}] in
    the order of the files."""
    stores: list[dict[str, Any]] = []
    with (
        shard.frozen() as all_contents,
        (data / _PASSAGES).open("w", encoding="ascii") as passages,
        (data / _VECTORS).open("wb") as vectors,
    ):
        for contents in all_contents:
            # JSON's escapes keep each passage on one line
            passages.writelines(f"{json.dumps(asdict(passage))}\n" for passage in contents.passages)
            for part in contents.vectors:
                vectors.write(np.ascontiguousarray(part, "<f4").data)
            structure = None
            if contents.structure is not None:
                structure = f"structure-{len(stores)}.npz"
                _write_structure(data / structure, contents.structure)
            stores.append(
                {
                    "store_id": contents.store_id,
                    "passages": contents.count,
                    "structure": structure,
                }
            )
        for file in (passages, vectors):
            file.flush()
            os.fsync(file.fileno())
    return stores


def _write_structure(path: Path, structure: Structure) -> None:
    arrays: dict[str, Any] = dict(structure)
    with path.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())


def _read_data(data: Path, stores: list[dict[str, Any]], dimensions: int) -> Iterator[StoreContents]:
    start = 0
    with (data / _PASSAGES).open(encoding="ascii") as passages:
        for store in stores:
            count = store["passages"]
            shape = count, dimensions
            # mapped: of a large store, no copy beside the one in its index
            vectors = np.memmap(data / _VECTORS, "<f4", "r", 4 * dimensions * start, shape)
            start += count
            yield StoreContents(
                store["store_id"],
                count,
                (Passage(**json.loads(line)) for line in islice(passages, count)),
                _parts(vectors),
                _read_structure(data, store.get("structure")),
            )


def _parts(vectors: Vectors) -> Iterator[Vectors]:
    for start in range(0, len(vectors), _READ_AT_ONCE):
        yield vectors[start : start + _READ_AT_ONCE].astype(np.float32, copy=False)


def _read_structure(data: Path, name: str | None) -> Structure | None:
    if name is None:
        return None
    with np.load(data / name, allow_pickle=False) as arrays:
        return dict(arrays)


def _body_sha256(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
