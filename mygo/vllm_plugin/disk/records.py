"""What the store tells its owner."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from mygo.vllm_plugin.disk.format import ChunkKey


class Presence(Enum):
    """What is known of a chunk."""

    HERE = auto()
    ABSENT = auto()
    NOT_YET_KNOWN = auto()


@dataclass(slots=True)
class DiskStats:
    """Totals since the start."""

    read_chunks: int = 0
    read_bytes: int = 0
    written_chunks: int = 0
    written_bytes: int = 0
    evicted_chunks: int = 0
    purged_chunks: int = 0
    damaged_chunks: int = 0
    """Files that failed their verification, and were deleted."""
    missing_chunks: int = 0
    """Files that somebody else deleted."""
    dropped_writes: int = 0
    """Chunks that were not stored: the queue or the disk was full, the drive failed, or all was in use."""
    read_errors: int = 0
    write_errors: int = 0


@dataclass(frozen=True, slots=True)
class Transferred:
    """A read or write that was begun has ended. Only after ``ok`` may a read's buffer be used."""

    key: ChunkKey
    is_read: bool
    ok: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A chunk can be read from now on, or no longer."""

    key: ChunkKey
    came: bool
