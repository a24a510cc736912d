"""File operations of the tier, as an I/O thread runs them.

Each keeps what came of it for the scheduler's thread. ``run`` may raise; whoever calls it sets ``error``.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from mmap import mmap

from mygo.vllm_plugin.disk.files import ChunkFiles, ReadOutcome
from mygo.vllm_plugin.disk.format import KEY_BYTES, ChunkKey
from mygo.vllm_plugin.disk.health import ReadSpeed

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_SAMPLE_BYTES = 16 * 2**20
_SAMPLE_CHUNKS = 8


@dataclass(slots=True, eq=False)
class Read:
    """A chunk into host memory, verified."""

    key: ChunkKey
    row: memoryview
    submitted_s: float
    purged: bool = False
    """Set by the scheduler's thread: whatever was read must not be used."""
    outcome: ReadOutcome | None = None
    error: Exception | None = None

    def run(self, files: ChunkFiles, speed: ReadSpeed) -> None:
        speed.began()
        try:
            self.outcome = files.read(self.key, self.row)
        finally:
            speed.ended(files.file_bytes if self.outcome is ReadOutcome.INTACT else 0)


@dataclass(slots=True, eq=False)
class Write:
    """A chunk to disk, after the chunk whose place it takes is deleted."""

    key: ChunkKey
    row: memoryview
    victims: list[ChunkKey]
    tags: bytes = b""
    cancelled: bool = False
    """Set by the scheduler's thread when the chunk is purged: nothing may stay behind."""
    erased_before_end: bool = False
    """Set by the scheduler's thread: the purge has ended, and this may still take up space."""
    written: bool = False
    erased: list[ChunkKey] = field(default_factory=list)
    """The victims that are deleted."""
    lacking_bytes: int | None = None
    """The file system is full, or would be below the floor by so much."""
    error: Exception | None = None

    def run(self, files: ChunkFiles, min_free_bytes: int) -> None:
        try:
            for victim in self.victims:
                files.erase(victim)
                self.erased.append(victim)
            if self.cancelled:
                return
            lacking = min_free_bytes + files.file_bytes - files.free_bytes()
            if lacking > 0:
                self.lacking_bytes = lacking
                return
            files.write(self.key, self.row, self.tags)
            self.written = True
            if self.cancelled:
                files.erase(self.key)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            self.lacking_bytes = files.file_bytes


@dataclass(slots=True, eq=False)
class Erase:
    """Files of chunks that are purged or given up."""

    keys: list[ChunkKey]
    remaining: list[ChunkKey] = field(default_factory=list)
    """Those that could not be deleted."""
    error: Exception | None = None

    def run(self, files: ChunkFiles) -> None:
        for key in self.keys:
            try:
                files.erase(key)
            except OSError as error:
                self.remaining.append(key)
                self.error = error


@dataclass(slots=True, eq=False)
class ReadTags:
    """The headers of chunks."""

    keys: list[ChunkKey]
    tags: dict[ChunkKey, bytes] = field(default_factory=dict)
    unreadable: list[ChunkKey] = field(default_factory=list)
    error: Exception | None = None

    def run(self, files: ChunkFiles) -> None:
        for key in self.keys:
            try:
                tags = files.tags(key)
            except OSError:
                tags = None
            if tags is None:
                self.unreadable.append(key)
            else:
                self.tags[key] = tags


@dataclass(slots=True, eq=False)
class Stamp:
    """Record on disk that chunks are in use, though a faster tier serves them."""

    keys: list[ChunkKey]
    error: Exception | None = None

    def run(self, files: ChunkFiles) -> None:
        files.stamp(self.keys)


@dataclass(slots=True, eq=False)
class Scan:
    """Find what earlier processes left."""

    found: OrderedDict[ChunkKey, float] = field(default_factory=OrderedDict)
    """Chunk -> when it was used last, oldest first."""
    error: Exception | None = None

    def run(self, files: ChunkFiles, speed: ReadSpeed, read_threads: int) -> None:
        """Before the chunks are handed over ``speed`` sees some reads: nobody else uses the drive yet."""
        self.found = files.scan()
        # else the speed stays unknown until the first reads tell
        with contextlib.suppress(OSError):
            _measure(files, speed, self.found, read_threads)


def _measure(files: ChunkFiles, speed: ReadSpeed, found: OrderedDict[ChunkKey, float], threads: int) -> None:
    """Let ``speed`` see some reads: of the newest chunks, or of one that is made for it and deleted.

    Chunks that turn out to be damaged leave ``found``. Raises OSError.
    """
    count = min(_SAMPLE_CHUNKS, max(1, _SAMPLE_BYTES // files.file_bytes))
    sample = list(islice(reversed(found), count))
    if sample:
        for key, outcome in _read_all(files, speed, sample, threads):
            if outcome is not ReadOutcome.INTACT:
                del found[key]
        return
    made = ChunkKey(secrets.token_bytes(KEY_BYTES))
    try:
        with memoryview(mmap(-1, files.payload_bytes)) as row:
            row[:] = secrets.token_bytes(files.payload_bytes)  # zeros might be compressed
            files.write(made, row)
        _read_all(files, speed, [made] * count, threads)
    finally:
        files.erase(made)


def _read_all(
    files: ChunkFiles, speed: ReadSpeed, keys: list[ChunkKey], threads: int
) -> list[tuple[ChunkKey, ReadOutcome | None]]:
    def read(key: ChunkKey) -> tuple[ChunkKey, ReadOutcome | None]:
        with memoryview(mmap(-1, files.payload_bytes)) as row:
            task = Read(key, row, submitted_s=0.0)
            task.run(files, speed)
            return key, task.outcome

    with ThreadPoolExecutor(threads) as readers:
        return list(readers.map(read, keys))
