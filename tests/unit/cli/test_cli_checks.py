"""What ``mygo check`` says of the machine."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mygo.cli import checks
from mygo.cli.client import Client
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
        checks._disk("cluster.data_dir", tmp_path / "file" / "data")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*; free some space, or"):
        checks._disk("cluster.data_dir", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("more", "gib"),
    [
        ({}, 0),
        ({"http": {"ingress_replicas": 3}}, 1),
        ({"retrieval": {"shards": 9}}, 1),
        ({"cache": {"host_bytes": 2**29}}, 1),
    ],
)
def test_memory_check_counts_every_part(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], gib: int
) -> None:
    config = parse(
        {"workers": {"replicas": 2}, "model": {"kv_cache_bytes": 2**30}, "cache": {"host_bytes": 0}} | more
    )
    # two workers with 1 GiB of weights and of KV each need about 11 GiB
    available_bytes = int((11.5 + gib) * 2**30)
    monkeypatch.setattr(
        checks, "_meminfo", lambda name: available_bytes + (2**30 if name == "MemTotal" else 0)
    )
    assert isinstance(checks._memory(config, 2**30), str)
    available_bytes -= 2**30
    found = checks._memory(config, 2**30)
    assert isinstance(found, checks.Finding) and found.level is checks.Level.WARNING
    assert "lower workers.replicas, model.kv_cache_bytes or cache.host_bytes" in found.detail
    available_bytes -= 2**30
    with pytest.raises(ConfigError, match="needed by 2 workers"):
        checks._memory(config, 2**30)


def _with_room(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=free_bytes))


def test_host_tier_is_refused_when_shared_memory_cannot_hold_that_of_all_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = parse({"workers": {"replicas": 3}, "cache": {"host_bytes": 2**30}})
    _with_room(monkeypatch, 3 * 2**30)
    assert "3.0 GiB of /dev/shm needed by 3 workers" in checks._shared_memory(config)
    _with_room(monkeypatch, 3 * 2**30 - 1)
    with pytest.raises(ConfigError, match=r"cache\.host_bytes: .*--shm-size"):
        checks._shared_memory(config)
    blending = parse({"workers": {"replicas": 3}, "reuse": {"mode": "blend", "chunk_share": 0.5}})
    assert "1.5 GiB" in checks._shared_memory(blending), "documents' own KV lies elsewhere"
    elsewhere = parse({"workers": {"replicas": 3}, "cluster": {"ray_address": "auto"}})
    assert "1 workers" in checks._shared_memory(elsewhere), "the others may be on other machines"


def test_disk_tier_that_could_fill_the_drive_is_warned_of_and_a_folder_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse({"workers": {"replicas": 2}, "cache": {"disk_path": str(tmp_path), "disk_bytes": 2**30}})
    _with_room(monkeypatch, 2 * 2**30)
    assert isinstance(checks._kv_disk(config, running=False), str)
    _with_room(monkeypatch, 2 * 2**30 - 1)
    found = checks._kv_disk(config, running=False)
    assert isinstance(found, checks.Finding) and found.level is checks.Level.WARNING
    assert "may fill 2.0 GiB" in found.detail
    assert isinstance(checks._kv_disk(config, running=True), str), "its own files are what fills it"
    (tmp_path / "file").touch()
    wrong = parse({"cache": {"disk_path": str(tmp_path / "file")}})
    with pytest.raises(ConfigError, match=r"cache\.disk_path: .* cannot be written"):
        checks._kv_disk(wrong, running=False)


def test_port_names_the_cluster_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = parse({"http": {"port": port}})
        monkeypatch.setattr(checks.state, "living", list)
        with pytest.raises(ConfigError, match=r"cannot be bound \(Address already in use\)"):
            checks._port(config, running=False)
        other = SimpleNamespace(name="demo", url=f"http://127.0.0.1:{port}")
        monkeypatch.setattr(checks.state, "living", lambda: [other])
        with pytest.raises(ConfigError, match=r"the cluster demo .*`mygo down --cluster demo`"):
            checks._port(config, running=False)


def test_address_without_a_scheme_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(ConfigError, match=r"--url: '127.0.0.1:8000' must begin with http://"):
        Client("127.0.0.1:8000")


@pytest.mark.parametrize(
    ("device", "index", "shards", "needed"),
    [
        ("cuda", "ivf", 3, "2 GPUs are needed"),
        ("cpu", "gpu", 3, "1 GPUs are needed"),
        ("cuda", "gpu", 3, "3 GPUs are needed"),
        ("cpu", "gpu", 7, "3 GPUs are needed"),  # three shards of 0.3 share one
    ],
)
def test_gpus_of_workers_and_of_shards_are_counted(
    device: str, index: str, shards: int, needed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = parse(
        {
            "workers": {"device": device, "replicas": 2},
            "retrieval": {"index": index, "shards": shards, "shard_gpus": 0.3},
        }
    )
    with pytest.raises(ConfigError, match=needed):
        checks._gpus(config)
