"""The store against a naive model: random writes, reads, purges, damage and restarts on real files."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from disk_chunks import FILE_BYTES, chunk_files, key, open_store, path_of, payload, read, settle, write
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

NUMBERS = st.integers(0, 9)
MAX_CHUNKS = 4


class DiskStoreMachine(RuleBasedStateMachine):
    """The model: numbers of readable chunks, least recently used first, and what was done to their files."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kv-disk-"))
        self.store = open_store(chunk_files(self.folder), MAX_CHUNKS)
        self.here: list[int] = []
        self.written: list[int] = []
        self.spoilt: set[int] = set()
        self.clock_s = time.time()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    @rule(number=NUMBERS)
    def write(self, number: int) -> None:
        stored = write(self.store, number)
        assert stored == (number not in self.here)
        if stored:
            if len(self.here) == MAX_CHUNKS:
                self.forget(self.here[0])
            self.here.append(number)
            self.written.append(number)
            # the file system's clock is too coarse to tell two writes apart
            self.clock_s += 0.01
            os.utime(path_of(self.folder, number), (self.clock_s, self.clock_s))

    @rule(number=NUMBERS)
    def read(self, number: int) -> None:
        found = read(self.store, number)
        if number in self.here and number not in self.spoilt:
            assert found == payload(number)
            self.use(number)
        else:
            assert found is None
            self.forget(number)

    @rule(numbers=st.lists(NUMBERS, max_size=3))
    def touch(self, numbers: list[int]) -> None:
        self.store.touch([key(number) for number in numbers])
        for number in numbers:
            if number in self.here:
                self.use(number)

    @rule(numbers=st.lists(NUMBERS, max_size=3))
    def purge(self, numbers: list[int]) -> None:
        self.store.purge([key(number) for number in numbers])
        for number in numbers:
            self.forget(number)
        settle(self.store)
        assert not any(path_of(self.folder, number).exists() for number in numbers)

    @rule(number=NUMBERS, how=st.sampled_from(["delete", "flip", "cut"]), at=st.integers(0, FILE_BYTES - 1))
    def spoil(self, number: int, how: str, at: int) -> None:
        path = path_of(self.folder, number)
        if number in self.spoilt or not path.exists():
            return
        status = path.stat()
        content = bytearray(path.read_bytes())
        if how == "delete":
            path.unlink()
        elif how == "flip":
            content[at] ^= 1
            path.write_bytes(content)
        else:
            path.write_bytes(content[:at])
        if path.exists():
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.spoilt.add(number)

    @rule()
    def restart(self) -> None:
        assert self.store.close()
        self.store = open_store(chunk_files(self.folder), MAX_CHUNKS)
        # uses of the last ten minutes were not recorded, so what counts is when it was written; all of these
        # few chunks are among those that are read to measure the drive
        for number in sorted(self.spoilt):
            self.forget(number)
        self.here.sort(key=self.written.index)

    @invariant()
    def store_holds_what_the_model_holds(self) -> None:
        if not hasattr(self, "store"):
            return
        settle(self.store)
        assert {number for number in range(10) if self.store.holds(key(number))} == set(self.here)
        assert self.store.held_bytes == len(self.here) * FILE_BYTES
        assert len(list(self.folder.rglob("*.kv"))) <= MAX_CHUNKS
        assert not list(self.folder.rglob("*.part"))

    def use(self, number: int) -> None:
        self.here.remove(number)
        self.here.append(number)

    def forget(self, number: int) -> None:
        if number in self.here:
            self.here.remove(number)
            self.written.remove(number)
        self.spoilt.discard(number)


TestDiskStoreMachine = DiskStoreMachine.TestCase
TestDiskStoreMachine.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
