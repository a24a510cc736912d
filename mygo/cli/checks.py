"""What ``mygo check`` looks at, and ``mygo up`` before it starts anything."""

from __future__ import annotations

import errno
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib import metadata
from pathlib import Path

from mygo import models
from mygo.cli import state
from mygo.config import Config
from mygo.errors import ConfigError, MygoError

_MIN_FREE_BYTES = 500 * 2**20
_SHARED_MEMORY = Path("/dev/shm")
# Memory in use (proportional set size in /proc/PID/smaps_rollup, so that shared pages count once) by
# configs/laptop.yaml's parts, after 30 files and six prompts of 5,000 tokens; x86-64, vLLM 0.32, Ray 2.60.
_WORKER_BYTES = 2_000 * 2**20
"""Of one CPU worker beyond weights and KV: replica 0.7, engine 0.6, its compute process 0.7 GiB."""
_INGRESS_BYTES = 500 * 2**20
_SHARD_BYTES = 150 * 2**20
"""Beyond its vectors."""
_REST_BYTES = 2_400 * 2**20
"""Server process 0.5, embedder 0.6, librarian and parser 0.2, directory 0.1, Ray and Serve 0.9 GiB."""


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    level: Level
    detail: str
    """What was found; for a warning or a failure also what to do."""

    def __str__(self) -> str:
        """One line. Failures are errors, which name what they are about."""
        named = self.detail.startswith(f"{self.check}: ")
        return self.detail if named else f"{self.check}: {self.detail}"


def run(config: Config, *, running: bool = False, progress: bool = False) -> Iterator[Finding]:
    """Look at everything a start needs, yielding findings as they come.

    Finding the models may convert or download them: ``progress`` shows that. ``running`` says that this
    very cluster already runs, so its port is expected to be taken.
    """
    yield _guard("versions", _versions)
    yield _guard("port", lambda: _port(config, running))
    for key, path in (("data_dir", config.cluster.data_dir), ("cache_dir", config.cluster.cache_dir)):
        yield _guard(f"cluster.{key}", partial(_disk, f"cluster.{key}", path))
    if config.cache.disk_path is not None:
        yield _guard("cache.disk_path", lambda: _kv_disk(config, running))
    if config.cache.host_bytes and config.workers.device != "emulated" and not running:
        yield _guard("cache.host_bytes", lambda: _shared_memory(config))
    if config.workers.device == "cuda" or config.retrieval.index == "gpu":
        yield _guard("gpus", lambda: _gpus(config))
    sources = {"model": config.model.source, "embedder": config.embedder.source}
    weights_bytes = 0
    for section, source in sources.items():
        found: list[Path] = []
        yield _guard(
            f"{section}.source",
            partial(_model, section, source, config, found, progress),
        )
        weights_bytes += sum(_weights_bytes(path) for path in found if section == "model")
    if config.workers.device == "cpu" and weights_bytes and not running:
        yield _guard("memory", lambda: _memory(config, weights_bytes))


def _guard(check: str, look: Callable[[], Finding | str]) -> Finding:
    try:
        found = look()
    except MygoError as error:
        return Finding(check, Level.FAILED, str(error))
    return found if isinstance(found, Finding) else Finding(check, Level.OK, found)


def _versions() -> str:
    installed = {}
    for package in ("ray", "torch"):
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise ConfigError(f"{package} is not installed; run `make install`") from None
    from mygo.serve import ray_versions
    from mygo.vllm_plugin import versions as vllm_versions

    ray_versions.check()
    vllm_versions.check()
    return ", ".join(f"{package} {version}" for package, version in installed.items())


def _port(config: Config, running: bool) -> str:
    host, port = config.http.host, config.http.port
    if running:
        return f"{port}, in use by this cluster"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            for other in state.living():
                if other.url.endswith(f":{port}"):
                    raise ConfigError(
                        f"http.port: the cluster {other.name} of this machine has port {port}; stop it "
                        f"(`mygo down --cluster {other.name}`) or set http.port to another port"
                    ) from error
            raise ConfigError(
                f"http.port: {host}:{port} cannot be bound ({os.strerror(error.errno or 0)}); stop what "
                f"listens there (`ss -ltnp 'sport = :{port}'` names it) or set http.port to another port"
            ) from error
    return f"{host}:{port} is free"


def _disk(key: str, path: Path) -> Finding | str:
    """``key`` is the setting that names the folder."""
    probe = path / f".writable-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"x" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        advice = "free some space, or set it" if error.errno == errno.ENOSPC else "set it"
        raise ConfigError(
            f"{key}: {path} cannot be written ({error.strerror}); {advice} to another folder"
        ) from error
    free_bytes = shutil.disk_usage(path).free
    detail = f"{path}, {free_bytes / 2**30:.1f} GiB free"
    if free_bytes < _MIN_FREE_BYTES:
        return Finding(key, Level.WARNING, f"{detail}: free some space before it runs out")
    return detail


def _kv_disk(config: Config, running: bool) -> Finding | str:
    """Workers that are elsewhere have other disks: only what this machine would hold is looked at."""
    path, workers = config.cache.disk_path, config.workers.replicas
    assert path is not None
    found = _disk("cache.disk_path", path)
    most_bytes = workers * config.cache.disk_bytes
    free_bytes = shutil.disk_usage(path).free
    if config.cluster.ray_address is not None or running or free_bytes >= most_bytes:
        return found
    return Finding(
        "cache.disk_path",
        Level.WARNING,
        f"{path}: {workers} workers may fill {most_bytes / 2**30:.1f} GiB and {free_bytes / 2**30:.1f} are "
        "free (KV of earlier runs counts twice here): lower cache.disk_bytes, or the disk tier stays smaller",
    )


def _shared_memory(config: Config) -> str:
    """vLLM keeps prompts' host KV in files of /dev/shm, so that an engine's processes share it; documents'
    own lies in the memory of the processes that compute."""
    workers = 1 if config.cluster.ray_address is not None else config.workers.replicas
    need_bytes = workers * (config.cache.host_bytes - config.chunk_host_bytes)
    free_bytes = shutil.disk_usage(_SHARED_MEMORY).free
    detail = (
        f"{need_bytes / 2**30:.1f} GiB of {_SHARED_MEMORY} needed by {workers} workers, "
        f"{free_bytes / 2**30:.1f} GiB free"
    )
    if need_bytes > free_bytes:
        raise ConfigError(
            f"cache.host_bytes: {detail}; lower it (0: no host tier), or give {_SHARED_MEMORY} more room "
            "(`mount -o remount,size=SIZE /dev/shm`; in a container `--shm-size`)"
        )
    return detail


def _gpus(config: Config) -> str:
    import torch

    of_workers = config.workers.replicas * config.model.tensor_parallel
    workers = of_workers if config.workers.device == "cuda" else 0
    retrieval = config.retrieval
    parts = retrieval.shards * retrieval.shard_replicas
    # a shard cannot have its part of a GPU from two
    shards = math.ceil(parts / int(1 / retrieval.shard_gpus)) if retrieval.index == "gpu" else 0
    wanted = workers + shards
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.cluster.ray_address is None and present < wanted:
        raise ConfigError(
            f"{wanted} GPUs are needed, and this machine shows {present}: {workers} by workers.device "
            f"{config.workers.device} (workers.replicas {config.workers.replicas} x model.tensor_parallel "
            f"{config.model.tensor_parallel}), {shards} by retrieval.index {retrieval.index} "
            f"({parts} shards x retrieval.shard_gpus {retrieval.shard_gpus:g}); lower one of them, set "
            "workers.device to cpu, take another index, or join a cluster with cluster.ray_address"
        )
    return f"{present} on this machine, {wanted} needed"


def _model(section: str, source: str, config: Config, found: list[Path], progress: bool) -> str:
    try:
        path = models.resolve(source, config.cluster.cache_dir, progress=progress)
        if section == "model":
            models.tokenizer_path(path)
    except MygoError as error:
        raise ConfigError(f"{section}.source: {error}") from error
    found.append(path)
    return f"{source} -> {path}"


def _weights_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def _memory(config: Config, weights_bytes: int) -> Finding | str:
    worker_bytes = weights_bytes + config.model.kv_cache_bytes + config.cache.host_bytes + _WORKER_BYTES
    need_bytes = (
        config.workers.replicas * worker_bytes
        + config.http.ingress_replicas * _INGRESS_BYTES
        + config.retrieval.shards * _SHARD_BYTES
        + _REST_BYTES
    )
    total_bytes, available_bytes = _meminfo("MemTotal"), _meminfo("MemAvailable")
    detail = (
        f"about {need_bytes / 2**30:.1f} GiB needed by {config.workers.replicas} workers, "
        f"{available_bytes / 2**30:.1f} of {total_bytes / 2**30:.1f} GiB available"
    )
    advice = "lower workers.replicas, model.kv_cache_bytes or cache.host_bytes"
    if need_bytes > total_bytes:
        raise ConfigError(f"{detail}; {advice}")
    if need_bytes > available_bytes:
        return Finding("memory", Level.WARNING, f"{detail}; close other programs or {advice}")
    return detail


def _meminfo(field: str) -> int:
    """Bytes of one line of /proc/meminfo."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/meminfo has no {field}")
