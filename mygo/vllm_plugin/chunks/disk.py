"""Chunks on disk: the worker's I/O thread, and the folder that the scheduler claims for it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm import __version__ as vllm_version
from vllm.config import VllmConfig

from mygo.blend.variants import Ranking, Variant, VariantKey
from mygo.errors import ConfigError
from mygo.vllm_plugin.chunks.deviations import Deviations
from mygo.vllm_plugin.chunks.files import ChunkFiles
from mygo.vllm_plugin.disk import namespace
from mygo.vllm_plugin.settings import ChunkSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChunkHome:
    """Where an engine's chunks lie; the scheduler claims it, workers are told."""

    folder: Path
    namespace: bytes

    def files(self, rank: int) -> ChunkFiles:
        return ChunkFiles(self.folder, self.namespace, rank)


def claim(
    settings: ChunkSettings, config: VllmConfig
) -> tuple[ChunkHome, namespace.Slot] | tuple[None, None]:
    """A folder below ``disk_path`` that no other engine uses while the slot is held; None without such a
    path. Raises ConfigError."""
    root = settings.disk_path
    if root is None:
        return None, None
    facts = {
        "chunks": 2,
        "vllm": vllm_version,
        "model": config.model_config.model,
        "kv_dtype": str(config.model_config.dtype),
        "ranks": config.parallel_config.tensor_parallel_size,
        "identity": {"weights": namespace.weights(config.model_config.model, {})},
    }
    try:
        slot = namespace.Slot(Path(root), facts)
    except OSError as error:
        raise ConfigError(
            f"chunks.disk_path: {root} cannot be used ({error}): give another folder"
        ) from error
    return ChunkHome(slot.folder, namespace.digest(facts)), slot


@dataclass(slots=True)
class ChunkReport:
    """What workers found since the last one, of one rank or of several together."""

    read: Counter[VariantKey] = field(default_factory=Counter)
    """By how many ranks."""
    lost: set[VariantKey] = field(default_factory=set)
    """What some rank could not write, or not read back intact."""
    missing: set[VariantKey] = field(default_factory=set)
    """What some rank was to load, and had not in memory."""
    deviations: Deviations = field(default_factory=Deviations)
    rankings: dict[VariantKey, Ranking] = field(default_factory=dict)
    """Of chunks that were compared with another; the first rank's, for all must recompute the same tokens."""
    loaded_bytes: int = 0
    """Of chunks, brought to the device."""
    load_s: float = 0.0
    """In which they were: of the slowest rank."""
    read_bytes: int = 0
    """From disk."""
    read_s: float = 0.0
    """In which they were: of the slowest rank."""

    def __bool__(self) -> bool:
        found = self.read or self.lost or self.missing or self.deviations or self.rankings
        return bool(found or self.loaded_bytes)

    def __add__(self, other: ChunkReport) -> ChunkReport:
        return ChunkReport(
            self.read + other.read,
            self.lost | other.lost,
            self.missing | other.missing,
            self.deviations + other.deviations,
            self.rankings | other.rankings,
            self.loaded_bytes + other.loaded_bytes,
            max(self.load_s, other.load_s),
            self.read_bytes + other.read_bytes,
            max(self.read_s, other.read_s),
        )


class ChunkDisk:
    """One I/O thread, which does one thing after the other in the order in which they are asked for.

    ``own`` gives what was read the memory that it is kept in.
    """

    def __init__(self, files: ChunkFiles, own: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._files = files
        self._own = own
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mygo-chunks")
        self._reads: dict[VariantKey, Future[tuple[torch.Tensor | None, float]]] = {}
        self._writes: dict[VariantKey, Future[None]] = {}

    def write(self, variant: Variant, kv: torch.Tensor, wait: Callable[[], None]) -> None:
        """``wait``, called in the I/O thread, returns when ``kv`` is there: a step does not wait for it."""
        self._writes[variant.key] = self._thread.submit(self._write, variant, kv, wait)

    def _write(self, variant: Variant, kv: torch.Tensor, wait: Callable[[], None]) -> None:
        wait()
        self._files.write(variant, kv)

    def read(self, keys: Iterable[VariantKey]) -> None:
        for key in keys:
            self._reads[key] = self._thread.submit(self._read, key)

    def _read(self, key: VariantKey) -> tuple[torch.Tensor | None, float]:
        """And how many seconds it took."""
        began_s = time.perf_counter()
        kv = self._files.read(key)
        return kv if kv is None else self._own(kv), time.perf_counter() - began_s

    def erase(self, keys: Iterable[VariantKey]) -> None:
        for key in keys:
            self._thread.submit(self._files.erase, key)

    def take(self) -> tuple[dict[VariantKey, torch.Tensor], ChunkReport]:
        """What was read since the last call, and what to tell of it."""
        found: dict[VariantKey, torch.Tensor] = {}
        report = ChunkReport()
        for key, read in _done(self._reads):
            kv, read_s = (None, 0.0) if _failed(read, "read", key) else read.result()
            if kv is None:
                report.lost.add(key)
            else:
                found[key] = kv
                report.read_bytes += kv.nbytes
                report.read_s += read_s
        report.read.update(found.keys())
        for key, write in _done(self._writes):
            if _failed(write, "written", key):
                report.lost.add(key)
        return found, report

    def close(self) -> None:
        """Ends what was begun."""
        self._thread.shutdown()


def _done(jobs: dict[VariantKey, Future[Any]]) -> list[tuple[VariantKey, Future[Any]]]:
    done = [(key, job) for key, job in jobs.items() if job.done()]
    for key, _ in done:
        del jobs[key]
    return done


def _failed(job: Future[Any], what: str, key: VariantKey) -> bool:
    error = job.exception()
    if error is not None:
        logger.warning("chunk %s could not be %s (%s): it is computed anew", key, what, error)
    return error is not None
