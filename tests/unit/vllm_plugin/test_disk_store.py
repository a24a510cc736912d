"""The store: bounded, and every failure is a miss."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from disk_chunks import FILE_BYTES, chunk_files, key, open_store, path_of, payload, read, settle, write

from mygo.vllm_plugin.disk import store as store_module
from mygo.vllm_plugin.disk.catalog import LruOrder
from mygo.vllm_plugin.disk.files import ChunkFiles, ReadOutcome
from mygo.vllm_plugin.disk.format import ChunkKey
from mygo.vllm_plugin.disk.records import Change, Presence, Transferred
from mygo.vllm_plugin.disk.store import DiskStore


class FaultyFiles(ChunkFiles):
    """Files whose operations can be made to fail or wait."""

    read_fault: Callable[[], None] = staticmethod(lambda: None)
    write_fault: Callable[[], None] = staticmethod(lambda: None)
    erase_fault: Callable[[], None] = staticmethod(lambda: None)

    def read(self, key: ChunkKey, into: memoryview) -> ReadOutcome:
        self.read_fault()
        return super().read(key, into)

    def write(self, key: ChunkKey, payload: memoryview, tags: bytes = b"") -> None:
        self.write_fault()
        super().write(key, payload, tags)

    def erase(self, key: ChunkKey) -> None:
        self.erase_fault()
        super().erase(key)


def faulty_files(folder: Path) -> FaultyFiles:
    files = FaultyFiles(folder, b"n" * 32, len(payload(0)), direct=False)
    folder.mkdir(exist_ok=True)
    return files


def failing(code: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(code, os.strerror(code))

    return fail


def expire_pauses(store: DiskStore) -> None:
    """As if the pauses after failures were over."""
    store._may_read._paused_until_s = store._may_write._paused_until_s = 0.0
    store._grow_again_s = store._retry_erase_s = 0.0


# -- keeping


def test_chunk_survives_a_restart(tmp_path: Path) -> None:
    first = open_store(chunk_files(tmp_path))
    assert all(write(first, number) for number in range(10))
    assert first.close()
    second = open_store(chunk_files(tmp_path))
    assert [read(second, number) for number in range(10)] == [bytes(payload(number)) for number in range(10)]
    assert second.held_bytes == 10 * FILE_BYTES


def test_close_flushes_what_is_queued(tmp_path: Path) -> None:
    store = open_store(chunk_files(tmp_path))
    for number in range(50):
        assert store.write(key(number), payload(number))
    store.close()
    assert len(chunk_files(tmp_path).scan()) == 50


def test_presence_is_not_yet_known_while_the_scan_runs_and_absent_when_it_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(open_store(chunk_files(tmp_path)), 1)
    slow, gate = chunk_files(tmp_path), threading.Event()
    scan = slow.scan
    monkeypatch.setattr(slow, "scan", lambda: gate.wait(10) and scan())
    monkeypatch.setattr(store_module, "SCAN_PATIENCE_S", 0.2)
    options = {"min_free_bytes": 0, "read_threads": 1, "write_threads": 1, "max_queued_write_bytes": 2**20}
    store = DiskStore(slow, 10, store_module.ReadSpeed(), **options)
    assert store.find(key(1)) is Presence.NOT_YET_KNOWN
    assert not store.write(key(2), payload(2))  # how full the folder is is not known either
    time.sleep(0.25)
    assert store.find(key(1)) is Presence.ABSENT
    gate.set()
    while "scanning" in repr(store):
        store.poll()
    assert store.find(key(1)) is Presence.HERE


def test_purge_during_the_scan_is_not_undone_by_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(open_store(chunk_files(tmp_path)), 1)
    slow, gate = chunk_files(tmp_path), threading.Event()
    found = slow.scan()
    monkeypatch.setattr(slow, "scan", lambda: gate.wait(10) and found)
    options = {"min_free_bytes": 0, "read_threads": 1, "write_threads": 1, "max_queued_write_bytes": 2**20}
    store = DiskStore(slow, 10, store_module.ReadSpeed(), **options)
    store.purge([key(1)])
    store.drain()
    gate.set()
    while "scanning" in repr(store):
        store.poll()
    assert store.find(key(1)) is Presence.ABSENT
    assert not path_of(tmp_path, 1).exists()


def test_start_measures_the_read_speed_and_leaves_no_file(tmp_path: Path) -> None:
    store = open_store(chunk_files(tmp_path))
    assert store.speed.bytes_per_s is not None
    assert not chunk_files(tmp_path).scan()


# -- bounds


def test_least_recently_used_leaves_when_full(tmp_path: Path) -> None:
    store = open_store(chunk_files(tmp_path), max_chunks=3, records_changes=True)
    for number in (1, 2, 3):
        write(store, number)
    read(store, 1)
    store.touch([key(2)])
    store.take_changes()
    write(store, 4)
    assert [number for number in (1, 2, 3, 4) if store.holds(key(number))] == [1, 2, 4]
    assert store.take_changes() == [Change(key(3), came=False), Change(key(4), came=True)]
    assert set(chunk_files(tmp_path).scan()) == {key(1), key(2), key(4)}
    assert store.stats.evicted_chunks == 1


def test_what_was_found_leaves_before_what_was_used_since(tmp_path: Path) -> None:
    first = open_store(chunk_files(tmp_path))
    for number in (1, 2, 3):
        write(first, number)
        os.utime(path_of(tmp_path, number), (time.time() + number, time.time() + number))
    second = open_store(chunk_files(tmp_path), max_chunks=3)
    read(second, 1)
    write(second, 4)
    write(second, 5)
    assert [number for number in range(1, 6) if second.holds(key(number))] == [1, 4, 5]


def test_attached_order_chooses_who_leaves(tmp_path: Path) -> None:
    class NewestFirst(LruOrder):
        def evict(self, count: int) -> list[ChunkKey] | None:
            return [self._free.popitem()[0] for _ in range(count)] if count <= len(self._free) else None

    store = open_store(chunk_files(tmp_path), max_chunks=3)
    store.attach(NewestFirst())
    for number in range(5):
        write(store, number)
    assert [number for number in range(5) if store.holds(key(number))] == [0, 1, 4]


def test_folder_is_trimmed_when_the_bound_was_lowered(tmp_path: Path) -> None:
    first = open_store(chunk_files(tmp_path))
    for number in range(10):
        write(first, number)
    second = open_store(chunk_files(tmp_path), max_chunks=4)
    settle(second)
    assert second.held_bytes == 4 * FILE_BYTES
    assert len(chunk_files(tmp_path).scan()) == 4


def test_bound_holds_at_every_moment_under_concurrent_writes_and_reads(tmp_path: Path) -> None:
    class CountingFiles(ChunkFiles):
        lock, there, most = threading.Lock(), set[ChunkKey](), 0

        def write(self, key: ChunkKey, payload: memoryview, tags: bytes = b"") -> None:
            with self.lock:
                self.there.add(key)
                self.most = max(self.most, len(self.there))
            super().write(key, payload, tags)

        def erase(self, key: ChunkKey) -> None:
            super().erase(key)
            with self.lock:
                self.there.discard(key)

    tmp_path.joinpath("s").mkdir()
    files = CountingFiles(tmp_path / "s", b"n" * 32, len(payload(0)), direct=False)
    store = open_store(files, max_chunks=8, read_threads=4, write_threads=4)
    buffers = [bytearray(len(payload(0))) for _ in range(600)]
    for number in range(600):
        store.write(key(number), payload(number))
        store.read(key(number // 2), memoryview(buffers[number // 2]))
        if number % 37 == 0:
            store.purge([key(number)])
        time.sleep(0.0005)
        for ended in store.poll():
            original = next(each for each in range(600) if key(each) == ended.key)
            assert not (ended.ok and ended.is_read) or buffers[original] == payload(original)
    settle(store)
    assert 6 <= files.most <= 8
    assert files.there == set(chunk_files(tmp_path / "s").scan())
    assert store.stats.written_chunks > 100
    assert not any(path.suffix == ".part" for path in (tmp_path / "s").rglob("*"))


def test_writes_are_dropped_when_too_many_are_queued(tmp_path: Path) -> None:
    files, gate = faulty_files(tmp_path), threading.Event()
    store = open_store(files, max_queued_write_bytes=4 * FILE_BYTES)
    files.write_fault = lambda: gate.wait(10) and None
    begun = [store.write(key(number), payload(number)) for number in range(10)]
    assert begun == [True] * 4 + [False] * 6
    assert store.queued_write_bytes == 4 * FILE_BYTES
    gate.set()
    assert len(settle(store)) == 4
    assert store.stats.dropped_writes == 6


def test_nothing_that_is_read_or_written_leaves(tmp_path: Path) -> None:
    files, gate = faulty_files(tmp_path), threading.Event()
    store = open_store(files, max_chunks=2, read_threads=1)
    write(store, 1)
    files.read_fault = files.write_fault = lambda: gate.wait(10) and None
    buffer = bytearray(len(payload(1)))
    assert store.read(key(1), memoryview(buffer))
    assert store.write(key(2), payload(2))
    assert not store.write(key(3), payload(3))
    gate.set()
    assert all(ended.ok for ended in settle(store))
    assert buffer == payload(1)


# -- order of work


def test_reads_go_before_queued_writes_and_by_deadline(tmp_path: Path) -> None:
    files = faulty_files(tmp_path)
    store = open_store(files, read_threads=1, write_threads=1)
    for number in range(4):
        write(store, number)
    ended: list[ChunkKey] = []
    read_gate, write_gate = threading.Event(), threading.Event()
    files.read_fault = lambda: read_gate.wait(10) and None
    files.write_fault = lambda: write_gate.wait(10) and None
    buffers = [bytearray(len(payload(0))) for _ in range(4)]
    store.write(key(10), payload(10))  # one thread waits in it,
    store.read(key(1), memoryview(buffers[0]))  # the other in this
    time.sleep(0.05)
    store.write(key(11), payload(11))
    store.read(key(0), memoryview(buffers[3]))
    store.read(key(2), memoryview(buffers[1]), deadline_s=20.0)
    store.read(key(3), memoryview(buffers[2]), deadline_s=10.0)
    read_gate.set()
    while store.queued_read_bytes:
        time.sleep(0.001)
        ended += [each.key for each in store.poll()]
    write_gate.set()
    store.drain()
    ended += [each.key for each in store.poll()]
    assert ended[:4] == [key(1), key(3), key(2), key(0)]
    assert sorted(ended[4:]) == sorted([key(10), key(11)])


def test_reads_take_the_time_of_the_slower_drive(tmp_path: Path) -> None:
    store = open_store(chunk_files(tmp_path), read_threads=4)
    store.speed = store_module.ReadSpeed(s_per_byte=0.01 / FILE_BYTES)
    for number in range(8):
        write(store, number)
    started_s = time.monotonic()
    buffers = [bytearray(len(payload(0))) for _ in range(8)]
    for number in range(8):
        store.read(key(number), memoryview(buffers[number]))
    settle(store)
    assert time.monotonic() - started_s >= 0.08
    assert store.speed.bytes_per_s is not None and store.speed.bytes_per_s < 1.3 * FILE_BYTES / 0.01


def test_old_chunk_is_read_when_the_file_system_has_become_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(chunk_files(tmp_path))
    assert write(store, 1)
    os.utime(path_of(tmp_path, 1), (1, 1))

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refuse)
    assert read(store, 1) == payload(1)
    assert store.stats.read_errors == 0


def test_read_that_does_not_come_back_is_stuck_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, gate = faulty_files(tmp_path), threading.Event()
    store = open_store(files)
    assert write(store, 1) and write(store, 2)
    files.read_fault = lambda: gate.wait(10) and None
    assert store.read(key(1), memoryview(bytearray(len(payload(1)))))
    assert not store.is_stuck(key(1))
    monkeypatch.setattr(store_module, "STALLED_S", 0.0)
    assert store.is_stuck(key(1)) and not store.is_stuck(key(2))
    gate.set()
    settle(store)
    assert not store.is_stuck(key(1))


# -- purge


def test_purged_chunk_is_deleted_and_can_be_stored_anew(tmp_path: Path) -> None:
    store = open_store(chunk_files(tmp_path))
    write(store, 1)
    store.purge([key(1), key(2)])
    assert store.find(key(1)) is Presence.ABSENT
    settle(store)
    assert not path_of(tmp_path, 1).exists()
    assert write(store, 1)
    assert read(store, 1) == payload(1)


def test_read_under_way_is_not_ok_when_its_chunk_is_purged(tmp_path: Path) -> None:
    files, gate = faulty_files(tmp_path), threading.Event()
    store = open_store(files)
    write(store, 1)
    files.read_fault = lambda: gate.wait(10) and None
    assert store.read(key(1), memoryview(bytearray(len(payload(1)))))
    store.purge([key(1)])
    gate.set()
    assert settle(store) == [Transferred(key(1), is_read=True, ok=False)]


def test_write_under_way_leaves_nothing_when_its_chunk_is_purged(tmp_path: Path) -> None:
    files, gate = faulty_files(tmp_path), threading.Event()
    store = open_store(files)
    files.write_fault = lambda: gate.wait(10) and None
    store.write(key(1), payload(1))
    time.sleep(0.02)
    store.purge([key(1)])
    assert not store.write(key(1), payload(1))
    gate.set()
    assert settle(store) == [Transferred(key(1), is_read=False, ok=False)]
    assert not path_of(tmp_path, 1).exists()
    assert write(store, 1)


def _purged_while_written(store: DiskStore, files: FaultyFiles, then: Callable[[], None]) -> threading.Event:
    """Chunk 1 is being written, and its purge has ended. Once the event is set, ``then`` comes, and the write
    goes on."""
    gate, waits = threading.Event(), threading.Event()

    def stand_still() -> None:
        waits.set()
        gate.wait(10)
        then()

    files.write_fault = stand_still
    store.write(key(1), payload(1))
    assert waits.wait(10)
    store.purge([key(1)])
    while not store._writes[key(1)].erased_before_end:
        time.sleep(0.001)
        store.poll()
    return gate


def test_purged_chunk_keeps_its_place_until_its_write_has_ended(tmp_path: Path) -> None:
    files = faulty_files(tmp_path)
    store = open_store(files, max_chunks=1)
    gate = _purged_while_written(store, files, lambda: None)
    assert store.held_bytes == FILE_BYTES
    assert not store.write(key(2), payload(2))
    gate.set()
    settle(store)
    assert store.held_bytes == 0
    assert write(store, 2)


def test_purged_chunk_is_deleted_again_when_its_write_could_not_do_it(tmp_path: Path) -> None:
    files = faulty_files(tmp_path)
    store = open_store(files)

    def fail_next() -> None:
        files.erase_fault = fail_once

    def fail_once() -> None:
        files.erase_fault = lambda: None
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    gate = _purged_while_written(store, files, fail_next)
    gate.set()
    settle(store)
    settle(store)
    assert not path_of(tmp_path, 1).exists()
    assert store.held_bytes == 0


def test_purged_chunk_stays_unreadable_while_its_file_cannot_be_deleted(tmp_path: Path) -> None:
    files = faulty_files(tmp_path)
    store = open_store(files)
    write(store, 1)
    files.erase_fault = failing(errno.EACCES)
    store.purge([key(1)])
    settle(store)
    assert store.find(key(1)) is Presence.ABSENT
    assert not store.write(key(1), payload(1))
    assert store.held_bytes == FILE_BYTES
    files.erase_fault = lambda: None
    expire_pauses(store)
    store.poll()
    settle(store)
    assert store.held_bytes == 0
    assert not path_of(tmp_path, 1).exists()


# -- faults


def test_damaged_and_deleted_files_are_misses_once(tmp_path: Path) -> None:
    store = open_store(chunk_files(tmp_path), records_changes=True)
    for number in (1, 2, 3):
        write(store, number)
    store.take_changes()
    path_of(tmp_path, 1).write_bytes(bytes(FILE_BYTES))
    path_of(tmp_path, 2).unlink()
    assert [read(store, number) for number in (1, 2, 3)] == [None, None, payload(3)]
    assert (store.stats.damaged_chunks, store.stats.missing_chunks, store.stats.read_chunks) == (1, 1, 1)
    assert store.take_changes() == [Change(key(1), came=False), Change(key(2), came=False)]
    assert store.find(key(1)) is store.find(key(2)) is Presence.ABSENT
    assert store.held_bytes == FILE_BYTES
    assert write(store, 1)


def test_deleted_folder_is_a_miss_and_is_filled_again(tmp_path: Path) -> None:
    store = open_store(chunk_files(tmp_path / "store"))
    write(store, 1)
    shutil.rmtree(tmp_path / "store")
    assert read(store, 1) is None
    assert write(store, 1)
    assert read(store, 1) == payload(1)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EROFS, errno.EMFILE])
def test_drive_is_off_after_failing_again_and_again_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    files = faulty_files(tmp_path)
    store = open_store(files)
    write(store, 0)
    files.write_fault = failing(code)
    for number in range(1, 20):
        write(store, number)
        assert store.is_off == (number >= 7)
        expire_pauses(store)
    assert store.stats.write_errors == 7
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert read(store, 0) == payload(0)  # what is there can still be read


def test_one_failure_pauses_writes_and_success_forgives_it(tmp_path: Path) -> None:
    files = faulty_files(tmp_path)
    store = open_store(files)
    for _ in range(3):
        for _ in range(6):
            files.write_fault = failing(errno.EIO)
            assert not write(store, 1)
            files.write_fault = lambda: None
            assert not write(store, 1)  # paused
            expire_pauses(store)
        assert write(store, 1)
        assert not store.is_off
        store.purge([key(1)])
        settle(store)


def test_read_error_is_a_miss_and_reads_pause(tmp_path: Path) -> None:
    files = faulty_files(tmp_path)
    store = open_store(files)
    write(store, 1)
    write(store, 2)
    files.read_fault = failing(errno.EIO)
    assert read(store, 1) is None
    assert store.find(key(2)) is Presence.ABSENT
    expire_pauses(store)
    assert store.find(key(2)) is Presence.HERE
    settle(store)
    assert not path_of(tmp_path, 1).exists()
    files.read_fault = lambda: None
    assert read(store, 2) == payload(2)


def test_stalled_read_sends_nobody_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "STALLED_S", 0.05)
    files, gate = faulty_files(tmp_path), threading.Event()
    store = open_store(files)
    write(store, 1)
    write(store, 2)
    files.read_fault = lambda: gate.wait(10) and None
    store.read(key(1), memoryview(bytearray(len(payload(1)))))
    assert store.find(key(2)) is Presence.HERE
    time.sleep(0.06)
    assert store.find(key(2)) is Presence.ABSENT
    gate.set()
    settle(store)
    assert store.find(key(2)) is Presence.HERE


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_gives_up_a_chunk_and_then_replaces_one_by_one(tmp_path: Path, code: int) -> None:
    """Scenario: the file system takes five files of ours and no more."""
    files = faulty_files(tmp_path)
    store = open_store(files)

    def full() -> None:
        if sum(1 for _ in tmp_path.rglob("*.kv")) >= 5:
            raise OSError(code, os.strerror(code))

    files.write_fault = full
    outcomes = [write(store, number) for number in range(12)]
    assert outcomes == [True] * 5 + [False] + [True] * 6
    assert len(files.scan()) == 4
    assert store.stats.dropped_writes == 1
    assert not store.is_off
    files.write_fault = lambda: None
    expire_pauses(store)
    assert all(write(store, number) for number in range(12, 20))
    assert len(files.scan()) == 12


def test_full_file_system_keeps_serving_what_fits(tmp_path: Path) -> None:
    """A real one of 64 KiB, where the system is what refuses."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount a file system")
    try:
        store = open_store(chunk_files(tmp_path / "store"))
        for number in range(30):
            write(store, number)
        assert not store.is_off
        assert store.stats.dropped_writes > 0
        held = [number for number in range(30) if store.holds(key(number))]
        assert held[-1] == 29
        assert [read(store, number) for number in held] == [payload(number) for number in held]
        assert not list(tmp_path.rglob("*.part"))
        store.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_free_space_floor_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = chunk_files(tmp_path)
    total_bytes = 10 * FILE_BYTES
    others_bytes = 0
    monkeypatch.setattr(
        files,
        "free_bytes",
        lambda: total_bytes - others_bytes - FILE_BYTES * len(list(tmp_path.rglob("*.kv"))),
    )
    store = open_store(files, min_free_bytes=4 * FILE_BYTES)
    for number in range(20):
        write(store, number)
    assert files.free_bytes() >= 4 * FILE_BYTES
    others_bytes = 3 * FILE_BYTES  # somebody else needs room
    expire_pauses(store)
    for number in range(20, 30):
        write(store, number)
    assert files.free_bytes() >= 4 * FILE_BYTES
    assert files.scan()


def test_victim_that_cannot_be_deleted_stays_and_nothing_is_written(tmp_path: Path) -> None:
    files = faulty_files(tmp_path)
    store = open_store(files, max_chunks=2, records_changes=True)
    write(store, 1)
    write(store, 2)
    files.erase_fault = failing(errno.EACCES)
    store.take_changes()
    assert not write(store, 3)
    assert store.take_changes() == [Change(key(1), came=False), Change(key(1), came=True)]
    assert set(files.scan()) == {key(1), key(2)}
    assert read(store, 1) == payload(1)


def test_bug_in_a_task_is_an_outcome_too(tmp_path: Path) -> None:
    files = faulty_files(tmp_path)
    store = open_store(files)
    write(store, 1)

    def bug() -> None:
        raise RuntimeError("bug")

    files.read_fault = bug
    assert read(store, 1) is None


def test_unreadable_folder_switches_off_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    store = open_store(ChunkFiles(tmp_path / "file", b"n" * 32, 1000, direct=False))
    assert store.is_off
    assert not store.write(key(1), payload(1))
    assert store.find(key(1)) is Presence.ABSENT
    assert "off until restart" in caplog.text
