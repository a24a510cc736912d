from __future__ import annotations

import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from mygo.serve import shared_memory as shared
from mygo.serve.shared_memory import unname

# an engine, and a worker below it that shares memory with nobody's help to remove it
WORKER = """
import os
from multiprocessing import resource_tracker, shared_memory
memory = shared_memory.SharedMemory(create=True, size=4096)
resource_tracker.unregister(memory._name, "shared_memory")
print(memory.name, flush=True)
input()
memory.buf[0] = 7
print(memory.buf[0], flush=True)
input()
os._exit(0)
"""
ENGINE = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_shared_memory_of_an_engine_loses_its_name_and_serves_on() -> None:
    engine = subprocess.Popen(
        [sys.executable, "-c", ENGINE, WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert engine.stdin is not None and engine.stdout is not None
    path = Path("/dev/shm", engine.stdout.readline().strip())
    others = shared_memory.SharedMemory(create=True, size=4096)
    try:
        assert path.exists()
        assert unname(engine.pid) == [path]
        assert not path.exists()
        assert Path("/dev/shm", others.name).exists()
        engine.stdin.write("\n")
        engine.stdin.flush()
        assert engine.stdout.readline() == "7\n"
        assert unname(engine.pid) == []
        engine.communicate("\n")
    finally:
        engine.kill()
        engine.wait()
        others.close()
        others.unlink()
        path.unlink(missing_ok=True)
    assert unname(engine.pid) == [], "a process that has ended"


def test_file_that_its_maker_has_removed_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, gone = tmp_path / "psm_there", tmp_path / "psm_gone"
    there.touch()
    monkeypatch.setattr(shared, "_mapped", lambda pid: {there, gone})
    assert unname(1) == [there]
    assert not there.exists()


def test_process_that_ends_while_it_is_looked_at_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def ending(*_: object) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(Path, "glob", ending)
    assert shared._family(7) == [7]
