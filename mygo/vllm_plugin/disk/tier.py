"""The SSD tier: a secondary tier of vLLM's native offloading that survives restarts.

Loaded by vLLM through ``secondary_tiers=[{"type": "DiskTier", "module_path": "mygo.vllm_plugin.disk.tier",
"root_dir": ..., "max_bytes": ...}]``, beside host memory's tier, whose rows it copies from and to. vLLM calls
it in the scheduler's thread; no call waits for the drive, and no failure of the drive reaches a request.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from mmap import PAGESIZE
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    OffloadingEvent,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
)
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

from mygo.errors import ConfigError
from mygo.vllm_plugin.disk import namespace
from mygo.vllm_plugin.disk.files import ChunkFiles
from mygo.vllm_plugin.disk.format import GROUP_BYTES, HEADER_BYTES, KEY_BYTES, MAX_TAGS, ChunkKey
from mygo.vllm_plugin.disk.health import ReadSpeed
from mygo.vllm_plugin.disk.records import Presence
from mygo.vllm_plugin.disk.store import DiskStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadDeadline:
    """Given by ``req_context.set_state``: the request's reads go before those with a later deadline."""

    deadline_s: float
    """On any one clock. Reads of requests without a deadline go last, in the order of submission."""


@dataclass(slots=True)
class _Job:
    """A transfer that vLLM waits for."""

    job_id: int
    started_s: float
    pending: int = 0
    chunks: int = 0
    done: list[OffloadKey] = field(default_factory=list)


class DiskTier(SecondaryTierManager):  # type: ignore[misc]
    """KV chunks in files: one per row of host memory, which holds all ranks' parts of a chunk."""

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        root_dir: str,
        max_bytes: int,
        identity: Mapping[str, str] | None = None,
        min_free_bytes: int = 2**30,
        n_read_threads: int = 4,
        n_write_threads: int = 2,
        max_queued_write_bytes: int = 2**28,
        read_s_per_byte: float = 0.0,
        enable_kv_events: bool = False,
        backpressure_detector: Any = None,
    ) -> None:
        """A root_dir that cannot be used switches the tier off with a warning; it raises nothing.

        Args:
            offloading_spec: vLLM's, of the engine.
            primary_kv_view: host memory's rows, [chunks, bytes per chunk].
            tier_type: the name under which vLLM knows this tier.
            root_dir: folder for KV of any model; it is user data, readable by the owner only.
            max_bytes: bound on the files of this engine, headers included. Engines that share root_dir have
                one each.
            identity: what makes KV comparable and vLLM does not tell its tiers, above all "weights" (a
                revision or digest). Without it the weights' files are identified by size and time.
            min_free_bytes: what the file system must have left; the tier gives up chunks for it.
            n_read_threads: reads under way at once.
            n_write_threads: writes under way at once. They begin only when no read waits.
            max_queued_write_bytes: further writes are dropped. Queued chunks cannot leave host memory, so it
                is also never more than half of that.
            read_s_per_byte: slows reads down to a drive of this speed, for benchmarks.
            enable_kv_events: report chunks that come and go through vLLM's KV events.
            backpressure_detector: vLLM's, if one is configured.

        Raises:
            ConfigError: a value that cannot work; the message names it.
        """
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        chunk_bytes = self._block_size_bytes
        file_bytes = HEADER_BYTES + chunk_bytes
        for name, value, least in (
            ("max_bytes", max_bytes, file_bytes),
            ("min_free_bytes", min_free_bytes, 0),
            ("n_read_threads", n_read_threads, 1),
            ("n_write_threads", n_write_threads, 1),
            ("max_queued_write_bytes", max_queued_write_bytes, 0),
            ("read_s_per_byte", read_s_per_byte, 0.0),
        ):
            if value < least:
                raise ConfigError(f"secondary_tiers: {name}: must be at least {least}, not {value}")
        self.locality = Locality.LOCAL
        has_events = enable_kv_events and offloading_spec.kv_events_config.enable_kv_cache_events
        self._rows = primary_kv_view.cast("B")
        self._read_jobs: dict[ChunkKey, _Job] = {}
        self._write_jobs: dict[ChunkKey, _Job] = {}
        self._finished: list[_Job] = []
        self.tags_of: Callable[[bytes], Collection[str]] = lambda block: ()
        """Tags (hex) of the passages in whose sight a block was computed; given by the plugin."""
        facts = namespace.facts(offloading_spec.config, chunk_bytes, identity or {})
        self._slot: namespace.Slot | None = None
        self._store: DiskStore | None = None
        try:
            self._slot = namespace.Slot(Path(root_dir), facts)
        except OSError as error:
            logger.warning("KV on disk is off until restart: root_dir %s: %s", root_dir, error)
            return
        aligned = np.frombuffer(self._rows, np.uint8).ctypes.data % PAGESIZE == 0
        files = ChunkFiles(self._slot.folder, namespace.digest(facts), chunk_bytes, direct=aligned)
        self._store = DiskStore(
            files,
            max_bytes // file_bytes,
            ReadSpeed(read_s_per_byte),
            min_free_bytes=min_free_bytes,
            read_threads=n_read_threads,
            write_threads=n_write_threads,
            max_queued_write_bytes=min(max_queued_write_bytes, primary_kv_view.nbytes // 2),
            records_changes=has_events,
        )
        logger.info(
            "KV on disk: %s, at most %d files of %d bytes, %s I/O%s",
            files.folder,
            max_bytes // file_bytes,
            file_bytes,
            "direct" if files.direct else "buffered",
            f", reads slowed down to {1e-6 / read_s_per_byte:.0f} MB/s" if read_s_per_byte else "",
        )

    def __repr__(self) -> str:
        return f"DiskTier({self._store!r})"

    @property
    def store(self) -> DiskStore | None:
        """What the plugin asks for: ``attach``, ``purge``, ``stats``, ``speed``, bytes queued and held.

        None if root_dir could not be used.
        """
        return self._store

    # -- vLLM's contract: SecondaryTierManager

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        return RequestOffloadingContext()

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        if self._store is None or len(key) != KEY_BYTES:
            return LookupResult.MISS
        match self._store.find(key):
            case Presence.HERE:
                self._store.touch((key,))
                return LookupResult.HIT
            case Presence.NOT_YET_KNOWN:
                return LookupResult.RETRY
            case Presence.ABSENT:
                return LookupResult.MISS

    def touch(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        if self._store is not None:
            self._store.touch(keys)

    def submit_load(self, job_metadata: TransferJob) -> None:
        deadline = job_metadata.req_context.get_state(ReadDeadline)
        deadline_s = deadline.deadline_s if deadline else math.inf
        job = _Job(job_metadata.job_id, time.monotonic(), chunks=len(job_metadata.keys))
        for key, row in self._rows_of(job_metadata):
            if self._store is not None and self._store.read(key, row, deadline_s):
                self._read_jobs[key] = job
                job.pending += 1
        self._finish(job)

    def submit_store(self, job_metadata: TransferJob) -> None:
        job = _Job(job_metadata.job_id, time.monotonic(), chunks=len(job_metadata.keys))
        for key, row in self._rows_of(job_metadata):
            if self._store is None or len(key) != KEY_BYTES:
                continue
            if self._store.holds(key):
                job.done.append(key)
            elif (tags := self._tags(key)) is not None and self._store.write(key, row, tags):
                self._write_jobs[key] = job
                job.pending += 1
        self._finish(job)

    def get_finished_jobs(self) -> Iterable[JobResult]:
        if self._store is not None:
            for ended in self._store.poll():
                job = (self._read_jobs if ended.is_read else self._write_jobs).pop(ended.key)
                job.pending -= 1
                if ended.ok:
                    job.done.append(ended.key)
                self._finish(job)
        finished, self._finished = self._finished, []
        return [self._result(job) for job in finished]

    def take_events(self) -> Iterable[OffloadingEvent]:
        changes = self._store.take_changes() if self._store is not None else []
        for came, run in groupby(changes, attrgetter("came")):
            keys = [change.key for change in run]
            yield OffloadingEvent(keys, self.medium, removed=not came, locality=self.locality)

    def drain_jobs(self) -> None:
        if self._store is not None:
            self._store.drain()

    def shutdown(self) -> None:
        """Let queued writes reach the disk, within seconds, and give the folder back. Safe to call again."""
        store, self._store = self._store, None
        if store is not None and not store.close():
            logger.warning("%r: an operation of the drive hangs and is abandoned", store)
        else:
            self._rows.release()
        if self._slot is not None:
            self._slot.release()

    # -- jobs

    def _rows_of(self, job: TransferJob) -> Iterable[tuple[ChunkKey, memoryview]]:
        chunk_bytes = self._block_size_bytes
        for key, chunk in zip(job.keys, job.chunk_ids, strict=True):
            yield key, self._rows[int(chunk) * chunk_bytes : (int(chunk) + 1) * chunk_bytes]

    def _tags(self, key: ChunkKey) -> bytes | None:
        """As the file's header takes them; None for more than it holds: such a chunk is not stored."""
        tags = [bytes.fromhex(tag) for tag in self.tags_of(key[:-GROUP_BYTES])]
        return b"".join(sorted(tags)) if len(tags) <= MAX_TAGS else None

    def _finish(self, job: _Job) -> None:
        if not job.pending:
            self._finished.append(job)

    def _result(self, job: _Job) -> JobResult:
        return JobResult(
            job_id=job.job_id,
            success=len(job.done) == job.chunks,
            successful_keys=tuple(job.done),
            transfer_time=time.monotonic() - job.started_s,
            transfer_bytes=len(job.done) * self._block_size_bytes,
        )
