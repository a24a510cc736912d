"""Socket folders outlive their process by one start at most."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mygo.serve.socket_folder import socket_folder

HOLDER = """
import time
from mygo.serve.socket_folder import socket_folder
print(socket_folder(), flush=True)
time.sleep(600)
"""


@contextmanager
def holder(parent: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, env={"TMPDIR": str(parent)}
    )
    try:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def test_folder_is_private_and_lives_as_long_as_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "mygo-else").mkdir()
    with holder(tmp_path) as (process, theirs):
        assert theirs.stat().st_mode & 0o777 == 0o700
        (theirs / "engine.sock").touch()
        ours = socket_folder()
        assert theirs.exists() and ours != theirs
        process.kill()
        process.wait()
        another = socket_folder()
    assert set(tmp_path.iterdir()) == {ours, another, tmp_path / "mygo-else"}
