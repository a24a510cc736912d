"""What lies on disk: a file is the whole chunk that was asked for, or a miss."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disk_chunks import FILE_BYTES, NAMESPACE, PAYLOAD_BYTES, chunk_files, key, path_of, payload

from mygo.vllm_plugin.disk.files import STAMP_INTERVAL_S, ChunkFiles, ReadOutcome
from mygo.vllm_plugin.disk.format import HEADER_BYTES, ChunkKey, is_intact, seal


def fetch(files: ChunkFiles, number: int) -> tuple[ReadOutcome, bytes]:
    buffer = bytearray(PAYLOAD_BYTES)
    outcome = files.read(key(number), memoryview(buffer))
    return outcome, bytes(buffer)


def test_chunk_comes_back_as_written(tmp_path: Path) -> None:
    files = chunk_files(tmp_path)
    files.write(key(1), payload(1))
    assert fetch(files, 1) == (ReadOutcome.INTACT, payload(1))
    assert path_of(tmp_path, 1).stat().st_size == files.file_bytes == FILE_BYTES


def test_chunk_comes_back_through_direct_io_when_the_file_system_has_it(tmp_path: Path) -> None:
    from mmap import mmap

    files = ChunkFiles(tmp_path, NAMESPACE, 8192, direct=True)
    if not files.direct:
        pytest.skip("no direct I/O here")
    rows = memoryview(mmap(-1, 2 * 8192))
    rows[:8192] = os.urandom(8192)
    files.write(key(1), rows[:8192])
    assert files.read(key(1), rows[8192:]) is ReadOutcome.INTACT
    assert rows[:8192] == rows[8192:]


def test_files_and_folders_are_their_owners_only(tmp_path: Path) -> None:
    files = chunk_files(tmp_path)
    files.write(key(1), payload(1))
    path = path_of(tmp_path, 1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "length", [0, 1, 100, HEADER_BYTES, HEADER_BYTES + 1, FILE_BYTES - 1, FILE_BYTES + 1]
)
def test_file_of_another_length_is_a_miss_and_is_deleted(tmp_path: Path, length: int) -> None:
    files = chunk_files(tmp_path)
    files.write(key(1), payload(1))
    os.truncate(path_of(tmp_path, 1), length)
    assert fetch(files, 1)[0] is ReadOutcome.DAMAGED
    assert not path_of(tmp_path, 1).exists()
    assert fetch(files, 1)[0] is ReadOutcome.MISSING


# every field's first byte, the padding, the checksum, the payload's ends and middle
@pytest.mark.parametrize("offset", [0, 8, 12, 20, 52, 87, 88, 2000, 4064, 4095, 4096, 4500, FILE_BYTES - 1])
def test_flipped_byte_is_a_miss_and_the_file_is_deleted(tmp_path: Path, offset: int) -> None:
    files = chunk_files(tmp_path)
    files.write(key(1), payload(1))
    path = path_of(tmp_path, 1)
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x40
    path.write_bytes(content)
    assert fetch(files, 1)[0] is ReadOutcome.DAMAGED
    assert not path.exists()


def test_renamed_file_is_a_miss(tmp_path: Path) -> None:
    files = chunk_files(tmp_path)
    files.write(key(1), payload(1))
    path_of(tmp_path, 2).parent.mkdir(exist_ok=True)
    path_of(tmp_path, 1).rename(path_of(tmp_path, 2))
    assert fetch(files, 2)[0] is ReadOutcome.DAMAGED


def test_file_of_another_namespace_is_a_miss(tmp_path: Path) -> None:
    chunk_files(tmp_path).write(key(1), payload(1))
    other = ChunkFiles(tmp_path, b"o" * 32, PAYLOAD_BYTES, direct=False)
    assert fetch(other, 1)[0] is ReadOutcome.DAMAGED


def test_header_is_not_intact_for_any_other_chunk() -> None:
    header = seal(NAMESPACE, key(1), payload(1))
    assert len(header) == HEADER_BYTES
    assert is_intact(header, NAMESPACE, key(1), payload(1))
    assert not is_intact(header, NAMESPACE, key(2), payload(1))
    assert not is_intact(header, NAMESPACE, key(1), payload(2))
    assert not is_intact(header, b"o" * 32, key(1), payload(1))


def test_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    files = chunk_files(tmp_path / "ours")
    files.write(key(1), payload(1))
    elsewhere = tmp_path / "elsewhere"
    path_of(tmp_path / "ours", 1).rename(elsewhere)
    path_of(tmp_path / "ours", 1).symlink_to(elsewhere)
    with pytest.raises(OSError):
        fetch(files, 1)
    assert elsewhere.exists()


def test_scan_finds_whole_files_oldest_first_and_removes_leftovers(tmp_path: Path) -> None:
    files = chunk_files(tmp_path)
    for number, used_s in ((1, 3000), (2, 1000), (3, 2000), (4, 4000)):
        files.write(key(number), payload(number))
        os.utime(path_of(tmp_path, number), (used_s, used_s))
    os.truncate(path_of(tmp_path, 4), 100)
    folder = path_of(tmp_path, 1).parent
    for leftover in ("zz.kv", f"{'ab' * 36}.0123abcd.part", f"{'AB' * 36}.kv"):
        (folder / leftover).write_bytes(bytes(FILE_BYTES))
    (folder / "notes.txt").write_text("not ours")
    found = chunk_files(tmp_path).scan()
    assert list(found.items()) == [(key(2), 1000.0), (key(3), 2000.0), (key(1), 3000.0)]
    assert sorted(path.name for path in folder.iterdir()) == [path_of(tmp_path, 1).name, "notes.txt"]


def test_scan_leaves_a_file_alone_that_this_process_is_writing(tmp_path: Path) -> None:
    files = chunk_files(tmp_path)
    files.write(key(1), payload(1))
    ours = path_of(tmp_path, 1).with_name(f"{path_of(tmp_path, 1).name}.{files._token}.part")
    ours.write_bytes(b"half")
    files.scan()
    assert ours.exists()


def test_read_records_the_use_unless_one_was_recorded_lately(tmp_path: Path) -> None:
    files = chunk_files(tmp_path)
    files.write(key(1), payload(1))
    path = path_of(tmp_path, 1)
    now_s = time.time()
    for age_s, recorded in ((STAMP_INTERVAL_S / 2, False), (STAMP_INTERVAL_S * 2, True)):
        os.utime(path, (now_s - age_s, now_s - age_s))
        fetch(files, 1)
        assert (path.stat().st_mtime >= now_s - 1) == recorded


def test_folder_is_made_anew_when_somebody_deletes_it(tmp_path: Path) -> None:
    import shutil

    files = chunk_files(tmp_path / "store")
    files.write(key(1), payload(1))
    shutil.rmtree(tmp_path / "store")
    assert fetch(files, 1)[0] is ReadOutcome.MISSING
    files.write(key(1), payload(1))
    assert fetch(files, 1)[0] is ReadOutcome.INTACT


_WRITER = """
import sys
from pathlib import Path
from disk_chunks import chunk_files, key, payload
files = chunk_files(Path(sys.argv[1]))
number = 0
while True:
    files.write(key(number % 50), payload(number % 50))
    number += 1
    if number == 50:
        print("going", flush=True)
"""


def test_killed_writer_leaves_whole_chunks_only(tmp_path: Path) -> None:
    """Scenario: a process is killed with -9 while it writes, several times; its successor scans and reads."""
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        files = chunk_files(tmp_path / "store")
        assert set(files.scan()) == {key(number) for number in range(50)}
        assert not list((tmp_path / "store").rglob("*.part"))
        for number in range(50):
            assert fetch(files, number) == (ReadOutcome.INTACT, payload(number))


_LIMITED = """
import resource, sys
from pathlib import Path
from disk_chunks import chunk_files, key, payload
files = chunk_files(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (4500, 4500))
try:
    files.write(key(1), payload(1))
except OSError as error:
    print(error.errno)
"""


def test_write_that_the_system_cuts_short_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert done.stdout.strip()
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_keys_of_another_length_name_no_file(tmp_path: Path) -> None:
    files = chunk_files(tmp_path)
    files.write(ChunkKey(b"short"), payload(1))
    assert not files.scan()
