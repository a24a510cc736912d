"""The checkpoint store: whole or absent, between processes and after damage."""

import multiprocessing
import time
from pathlib import Path

import pytest

from mygo.errors import ConfigError
from mygo.models.store import MANIFEST, obtain, verify


def write_two_files(directory: Path) -> None:
    (directory / "config.json").write_text("{}")
    (directory / "nested").mkdir()
    (directory / "nested" / "weights.bin").write_bytes(b"\x01" * 1000)


def test_obtain_writes_once_when_called_again(tmp_path: Path) -> None:
    calls = []

    def write(directory: Path) -> None:
        calls.append(directory)
        write_two_files(directory)

    target = tmp_path / "models" / "m"
    assert obtain(target, write) == target
    assert obtain(target, write) == target
    assert len(calls) == 1
    assert (target / "nested" / "weights.bin").stat().st_size == 1000
    verify(target)


def test_obtain_leaves_nothing_when_write_fails(tmp_path: Path) -> None:
    def write(directory: Path) -> None:
        write_two_files(directory)
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        obtain(tmp_path / "m", write)
    assert [path.name for path in tmp_path.iterdir()] == [".m.lock"]


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_obtain_writes_again_when_damaged(tmp_path: Path, damage: str) -> None:
    target = obtain(tmp_path / "m", write_two_files)
    match damage:
        case "truncate":
            (target / "nested" / "weights.bin").write_bytes(b"\x01")
        case "remove":
            (target / "config.json").unlink()
        case "manifest":
            (target / MANIFEST).write_text('{"files": ')
    obtain(target, write_two_files)
    verify(target)
    assert (target / "nested" / "weights.bin").stat().st_size == 1000


def test_obtain_removes_leftovers_when_a_writer_was_killed(tmp_path: Path) -> None:
    leftover = tmp_path / ".m.partial-dead"
    leftover.mkdir()
    (leftover / "weights.bin").write_bytes(b"\x01")
    obtain(tmp_path / "m", write_two_files)
    assert not leftover.exists()


def test_verify_names_the_file_when_a_byte_changed(tmp_path: Path) -> None:
    target = obtain(tmp_path / "m", write_two_files)
    (target / "nested" / "weights.bin").write_bytes(b"\x01" * 999 + b"\x02")
    with pytest.raises(ConfigError, match=r"weights\.bin: differs"):
        verify(target)


def test_verify_refuses_when_there_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to compare"):
        verify(tmp_path)


def test_obtain_says_what_to_do_when_the_disk_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"cluster\.cache_dir"):
        obtain(tmp_path / "file" / "m", write_two_files)


def _obtain_slowly(target: Path, log: Path) -> None:
    def write(directory: Path) -> None:
        with log.open("a") as file:
            file.write("written\n")
        time.sleep(0.2)
        write_two_files(directory)

    obtain(target, write)
    verify(target)


def test_obtain_writes_once_when_processes_race(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    processes = [
        context.Process(target=_obtain_slowly, args=(tmp_path / "models" / "m", log)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.read_text() == "written\n"
