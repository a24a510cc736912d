"""Vectors as they were given, in a memory-mapped file: for what an index keeps only in coarse form."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from mygo.retrieval.index import Rows, Vectors

_FIRST_CAPACITY = 1024
_GROWTH = 1.25
"""Room on the drive is taken in advance, so not by doubling."""


def scratch_folder(path: Path) -> Path:
    """Make the folder, empty: whatever a process that was killed left there is gone. No other may use it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


class StoredVectors:
    """Rows are appended in rising order and found by bisection, so that they need 8 bytes of memory each.

    The file has no name: the system takes it back when the process ends, however that ends. What is
    removed stays in the file until the index is built anew.
    """

    def __init__(self, dimensions: int, folder: Path | None) -> None:
        """``folder``: on a drive with room for all vectors; None for the system's temporary folder."""
        self._dimensions = dimensions
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  open as long as the index lives
        self._rows = np.empty(_FIRST_CAPACITY, np.int64)
        self._count = 0
        self._vectors = self._mapped(_FIRST_CAPACITY)

    def append(self, rows: Rows, vectors: Vectors) -> None:
        """``rows`` rise, and are greater than those before.

        Raises OSError, with nothing changed, if the drive has no room.
        """
        if not len(rows):
            return
        assert np.all(np.diff(rows) > 0), f"rows must rise: {rows}"
        assert not self._count or rows[0] > self._rows[self._count - 1], f"row {rows[0]} is not new"
        end = self._count + len(rows)
        if end > len(self._rows):
            capacity = max(end, int(_GROWTH * len(self._rows)))
            self._vectors = self._mapped(capacity)
            self._rows = np.resize(self._rows, capacity)
        self._vectors[self._count : end] = vectors
        self._rows[self._count : end] = rows
        self._count = end

    def __getitem__(self, rows: Rows) -> Vectors:
        """[n, dimensions]; every row must have been appended."""
        places = np.searchsorted(self._rows[: self._count], rows)
        taken: Vectors = self._vectors[places]
        return taken

    def _mapped(self, capacity: int) -> Vectors:
        row_bytes = 4 * self._dimensions
        # else a full drive would end the process (SIGBUS) at the first write to a page that has no room
        os.posix_fallocate(self._file.fileno(), 0, capacity * row_bytes)
        mapped = mmap.mmap(self._file.fileno(), capacity * row_bytes)
        mapped.madvise(mmap.MADV_RANDOM)  # re-ranking reads rows from all over the file
        return np.frombuffer(mapped, np.float32).reshape(capacity, self._dimensions)
