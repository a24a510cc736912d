"""What ``mygo check`` says of the machine."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mygo.cli import checks
from mygo.errors import ConfigError


def test_full_disk_is_told_from_a_wrong_folder_and_nothing_is_left_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cluster\.data_dir: .*; set it to another folder"):
        checks._disk("data_dir", tmp_path / "file" / "data")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*; free some space, or"):
        checks._disk("data_dir", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
