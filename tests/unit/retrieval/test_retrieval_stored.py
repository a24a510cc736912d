from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.retrieval.stored import StoredVectors, scratch_folder


@given(st.lists(st.integers(1, 900), min_size=1, max_size=6), st.integers(0, 2**32))
def test_rows_are_found_as_they_were_appended(counts: list[int], seed: int) -> None:
    rng = random.Random(seed)
    stored = StoredVectors(3, None)
    rows = np.array(sorted(rng.sample(range(10**9), sum(counts))), np.int64)
    vectors = np.random.default_rng(0).standard_normal((len(rows), 3)).astype(np.float32)
    start = 0
    for count in counts:
        part = slice(start, start + count)
        stored.append(rows[part], vectors[part])
        start += count
    stored.append(rows[:0], vectors[:0])
    asked = np.array(rng.choices(range(len(rows)), k=50))
    assert np.array_equal(stored[rows[asked]], vectors[asked])


def test_append_refuses_rows_that_do_not_rise() -> None:
    stored = StoredVectors(2, None)
    stored.append(np.array([1, 5]), np.ones((2, 2), np.float32))
    with pytest.raises(AssertionError, match="not new"):
        stored.append(np.array([5]), np.ones((1, 2), np.float32))
    with pytest.raises(AssertionError, match="must rise"):
        stored.append(np.array([7, 6]), np.ones((2, 2), np.float32))


def test_stored_vectors_leave_no_file(tmp_path: Path) -> None:
    stored = StoredVectors(2, tmp_path)
    stored.append(np.arange(5000), np.ones((5000, 2), np.float32))
    assert list(tmp_path.iterdir()) == []
    assert stored[np.array([4999])].tolist() == [[1.0, 1.0]]


def test_scratch_folder_is_empty_whatever_a_killed_process_left(tmp_path: Path) -> None:
    left = tmp_path / "scratch" / "lists-x"
    left.mkdir(parents=True)
    (left / "lists").write_bytes(b"half of it")
    folder = scratch_folder(tmp_path / "scratch")
    assert list(folder.iterdir()) == []


def test_append_changes_nothing_when_the_drive_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = StoredVectors(2, None)
    stored.append(np.arange(1000), np.ones((1000, 2), np.float32))

    def full(*args: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "posix_fallocate", full)
        stored.append(np.arange(1000, 9000), np.zeros((8000, 2), np.float32))
    stored.append(np.arange(1000, 1010), np.full((10, 2), 2.0, np.float32))
    assert stored[np.array([999, 1009])].tolist() == [[1.0, 1.0], [2.0, 2.0]]


def test_room_for_vectors_is_taken_before_they_are_written() -> None:
    stored = StoredVectors(2, None)
    stored.append(np.arange(5000), np.ones((5000, 2), np.float32))
    status = os.fstat(stored._file.fileno())
    assert 512 * status.st_blocks >= status.st_size >= 5000 * 8
