"""What ``mygo check`` says of the machine."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from mygo.cli import checks
from mygo.config import parse
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


@pytest.mark.parametrize(
    ("more", "gib"), [({}, 0), ({"http": {"ingress_replicas": 3}}, 1), ({"retrieval": {"shards": 9}}, 1)]
)
def test_memory_check_counts_every_part(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], gib: int
) -> None:
    config = parse({"workers": {"replicas": 2}, "model": {"kv_cache_bytes": 2**30}} | more)
    # two workers with 1 GiB of weights and of KV each need about 11 GiB
    available_bytes = int((11.5 + gib) * 2**30)
    monkeypatch.setattr(
        checks, "_meminfo", lambda name: available_bytes + (2**30 if name == "MemTotal" else 0)
    )
    assert isinstance(checks._memory(config, 2**30), str)
    available_bytes -= 2**30
    found = checks._memory(config, 2**30)
    assert isinstance(found, checks.Finding) and found.level is checks.Level.WARNING
    assert "lower workers.replicas or model.kv_cache_bytes" in found.detail
    available_bytes -= 2**30
    with pytest.raises(ConfigError, match="needed by 2 workers"):
        checks._memory(config, 2**30)
