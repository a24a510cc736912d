"""The files of one folder: one per chunk, named by its key. Blocking calls, for I/O threads only.

A file appears whole or not at all: it is written under a temporary name beside its place and renamed. There
is no fsync: a file that a power cut tears fails its checksum and is a miss, and a cache is not worth
waiting for the drive. Direct I/O is used where the file system and the memory's alignment allow it, since
buffered reads and writes would fill the page cache with a second copy of what host memory already caches.

How recently a chunk was used is its file's modification time: it needs no journal that could itself be torn,
it survives a crash, and one system call per file and STAMP_INTERVAL_S keeps it current.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from pathlib import Path
from threading import local

from mygo.vllm_plugin.disk.format import HEADER_BYTES, KEY_BYTES, ChunkKey, is_intact, seal, tags_in

STAMP_INTERVAL_S = 600.0
"""A use is not recorded if one was in the last so many seconds."""

_SUFFIX = ".kv"
_TEMPORARY = ".part"


class ReadOutcome(Enum):
    """What a read found; only after INTACT may the buffer be used."""

    INTACT = auto()
    MISSING = auto()
    DAMAGED = auto()


class ChunkFiles:
    """Chunks of ``payload_bytes`` each in ``folder``, which must exist (and is made anew if it disappears).

    ``namespace`` (NAMESPACE_BYTES) says what the chunks are comparable with. ``direct`` asks for direct I/O:
    every buffer is then page-aligned and ``payload_bytes`` whole pages. Methods raise OSError as the system
    gives it and may be called from many threads, though not for the same key at once.
    """

    def __init__(self, folder: Path, namespace: bytes, payload_bytes: int, *, direct: bool) -> None:
        self.folder = folder
        self.payload_bytes = payload_bytes
        self.file_bytes = HEADER_BYTES + payload_bytes
        self._namespace = namespace
        # names this process's temporary files, so that a scan removes those of dead ones only
        self._token = secrets.token_hex(4)
        self._headers = local()
        self.direct = direct and payload_bytes % mmap.PAGESIZE == 0 and self._direct_works()

    def read(self, key: ChunkKey, into: memoryview) -> ReadOutcome:
        """Fill ``into`` (``payload_bytes``) and verify it. A file that fails is deleted."""
        path = self._path(key)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | self._direct_flag)
        except FileNotFoundError:
            return ReadOutcome.MISSING
        try:
            status = os.fstat(fd)
            header = self._header_page()
            whole = (
                status.st_size == self.file_bytes
                and os.preadv(fd, [header, into], 0) == self.file_bytes
                and is_intact(bytes(header), self._namespace, key, into)
            )
            if whole:
                if time.time() - status.st_mtime > STAMP_INTERVAL_S:
                    # a file system may have become read-only: the chunk only looks older than it is
                    with contextlib.suppress(OSError):
                        os.utime(fd)
                return ReadOutcome.INTACT
        finally:
            os.close(fd)
        self.erase(key)
        return ReadOutcome.DAMAGED

    def tags(self, key: ChunkKey) -> bytes | None:
        """The tags in the chunk's header, unverified; None if there is no such file, or no whole header."""
        try:
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | self._direct_flag)
        except FileNotFoundError:
            return None
        try:
            header = self._header_page()
            return tags_in(bytes(header)) if os.preadv(fd, [header], 0) == HEADER_BYTES else None
        finally:
            os.close(fd)

    def write(self, key: ChunkKey, payload: memoryview, tags: bytes = b"") -> None:
        """Write the chunk's file, replacing one of that name; on an error nothing is left behind.

        ``tags``: of the passages in whose sight it was computed, see ``format.seal``.
        """
        path = self._path(key)
        temporary = path.with_name(f"{path.name}.{self._token}{_TEMPORARY}")
        header = self._header_page()
        header[:] = seal(self._namespace, key, payload, tags)
        fd = self._create(temporary)
        try:
            try:
                if os.pwritev(fd, [header, payload], 0) != self.file_bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))
            finally:
                os.close(fd)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def erase(self, key: ChunkKey) -> None:
        self._path(key).unlink(missing_ok=True)

    def stamp(self, keys: Iterable[ChunkKey]) -> None:
        """Record that chunks are in use now."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._path(key))

    def free_bytes(self) -> int:
        """What the file system has left for us."""
        try:
            status = os.statvfs(self.folder)
        except FileNotFoundError:
            # somebody deleted it
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def scan(self) -> OrderedDict[ChunkKey, float]:
        """Every chunk that is there -> when it was used last (seconds since 1970), oldest first.

        Deletes what no chunk can be: files of another size, and temporary files of dead processes. Contents
        are verified when they are read.
        """
        found: list[tuple[float, ChunkKey]] = []
        for entry in self._entries():
            stem, dot, suffix = entry.name.rpartition(".")
            try:
                if dot + suffix == _TEMPORARY and not stem.endswith(self._token):
                    Path(entry.path).unlink()
                elif dot + suffix == _SUFFIX:
                    status = entry.stat(follow_symlinks=False)
                    key = _key(stem)
                    if key is None or status.st_size != self.file_bytes:
                        Path(entry.path).unlink()
                    else:
                        found.append((status.st_mtime, key))
            except FileNotFoundError:
                continue
        found.sort()
        return OrderedDict((key, used_s) for used_s, key in found)

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        gone = contextlib.suppress(FileNotFoundError)  # somebody may be deleting them
        with gone, os.scandir(self.folder) as folders:
            for each in folders:
                if each.is_dir(follow_symlinks=False):
                    with gone, os.scandir(each.path) as entries:
                        yield from entries

    def _path(self, key: ChunkKey) -> Path:
        name = key.hex()
        return self.folder / name[:2] / (name + _SUFFIX)

    def _create(self, path: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | self._direct_flag
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            for folder in (self.folder, path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(path, flags, 0o600)

    @property
    def _direct_flag(self) -> int:
        return os.O_DIRECT if self.direct else 0

    def _header_page(self) -> mmap.mmap:
        """This thread's page-aligned buffer of HEADER_BYTES."""
        page: mmap.mmap | None = getattr(self._headers, "page", None)
        if page is None:
            page = self._headers.page = mmap.mmap(-1, HEADER_BYTES)
        return page

    def _direct_works(self) -> bool:
        # overlayfs, some network file systems and older tmpfs refuse
        path = self.folder / f"probe.{self._token}{_TEMPORARY}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_DIRECT, 0o600)
        except OSError:
            return False
        try:
            return os.write(fd, self._header_page()) == HEADER_BYTES
        except OSError:
            return False
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):
                path.unlink()


def _key(name: str) -> ChunkKey | None:
    try:
        key = bytes.fromhex(name)
    except ValueError:
        return None
    return ChunkKey(key) if len(key) == KEY_BYTES and key.hex() == name else None
