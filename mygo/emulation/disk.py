"""The disk tier without a disk: it keeps the names of chunks, and reads and writes take virtual seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

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

from mygo.emulation.drive import Drive
from mygo.vllm_plugin.disk.catalog import Catalog, EvictionOrder
from mygo.vllm_plugin.disk.records import Presence
from mygo.vllm_plugin.disk.tier import ReadDeadline
from mygo.vllm_plugin.tiers.links import Speed


@dataclass(slots=True)
class _Job:
    job_id: int
    chunks: int
    done: list[OffloadKey] = field(default_factory=list)
    """Nothing to do for these."""
    moving: list[OffloadKey] = field(default_factory=list)


class EmulatedDisk(SecondaryTierManager):  # type: ignore[misc]
    """Decides as ``mygo.vllm_plugin.disk.tier.DiskTier`` does, by the same catalog; nothing ever fails."""

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        *,
        max_chunks: int,
        chunk_bytes: int,
        s_per_byte: float,
        clock: Callable[[], float],
        max_queued_write_bytes: float,
    ) -> None:
        """``max_queued_write_bytes``: chunks beyond this are not written; ``inf`` for no such bound."""
        super().__init__(offloading_spec, primary_kv_view, "disk")
        self.locality = Locality.LOCAL
        self.speed = Speed(1 / s_per_byte if s_per_byte else math.inf)
        self._chunk_bytes = chunk_bytes
        self._clock = clock
        self._max_queued_write_bytes = max_queued_write_bytes
        self._catalog = Catalog(max_chunks)
        self._drive = Drive(chunk_bytes * s_per_byte)
        self._reads: dict[int, _Job] = {}
        self._writes: dict[int, _Job] = {}
        self._finished: list[_Job] = []
        self._events: list[OffloadingEvent] = []

    def __repr__(self) -> str:
        return f"EmulatedDisk({self._catalog!r}, {len(self._reads)} reads, {len(self._writes)} writes)"

    # -- what the plugin asks of DiskTier and its store

    @property
    def store(self) -> EmulatedDisk:
        """Itself: here, tier and store are one."""
        return self

    def attach(self, order: EvictionOrder) -> None:
        self._catalog.attach(order)

    def holds(self, key: OffloadKey) -> bool:
        return key in self._catalog

    def find(self, key: OffloadKey) -> Presence:
        return Presence.HERE if self.holds(key) else Presence.ABSENT

    def is_stuck(self, key: OffloadKey) -> bool:
        """Never: this drive always answers."""
        return False

    @property
    def queued_read_bytes(self) -> int:
        return self._chunk_bytes * sum(len(job.moving) for job in self._reads.values())

    # -- what the emulated engine asks

    @property
    def next_end_s(self) -> float | None:
        """When a read or write ends; None while nothing is under way."""
        return self._drive.next_end_s()

    # -- vLLM's contract: SecondaryTierManager

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        return RequestOffloadingContext()

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        if key not in self._catalog:
            return LookupResult.MISS
        self._touch(key)
        return LookupResult.HIT

    def touch(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        for key in keys:
            self._touch(key)

    def submit_load(self, job_metadata: TransferJob) -> None:
        self._poll()
        job = _Job(job_metadata.job_id, len(job_metadata.keys))
        job.moving = [key for key in job_metadata.keys if self._catalog.begin_read(key)]
        if not job.moving:
            self._finished.append(job)
            return
        self._reads[job.job_id] = job
        deadline = job_metadata.req_context.get_state(ReadDeadline)
        deadline_s = deadline.deadline_s if deadline else math.inf
        self._drive.read(job.job_id, len(job.moving), self._clock(), deadline_s)

    def submit_store(self, job_metadata: TransferJob) -> None:
        self._poll()
        job = _Job(job_metadata.job_id, len(job_metadata.keys))
        queued_bytes = self._chunk_bytes * sum(len(each.moving) for each in self._writes.values())
        gone: list[OffloadKey] = []
        for key in _in_prompt_order(job_metadata):
            if key in self._catalog:
                job.done.append(key)
            elif queued_bytes + self._chunk_bytes <= self._max_queued_write_bytes:
                victims = self._catalog.begin_write(key)
                if victims is None:
                    continue
                for victim in victims:
                    self._catalog.replaced(victim)
                gone += victims
                job.moving.append(key)
                queued_bytes += self._chunk_bytes
        self._tell(gone, removed=True)
        if not job.moving:
            self._finished.append(job)
            return
        self._writes[job.job_id] = job
        self._drive.write(job.job_id, len(job.moving), self._clock())

    def get_finished_jobs(self) -> Iterable[JobResult]:
        self._poll()
        finished, self._finished = self._finished, []
        return [JobResult(job.job_id, len(job.done) == job.chunks, tuple(job.done)) for job in finished]

    def take_events(self) -> Iterable[OffloadingEvent]:
        events, self._events = self._events, []
        return events

    def drain_jobs(self) -> None:
        """As if the time had passed."""
        while self._reads or self._writes:
            end_s = self._drive.next_end_s()
            assert end_s is not None
            self._advance(end_s)

    # -- parts

    def _poll(self) -> None:
        self._advance(self._clock())

    def _advance(self, now_s: float) -> None:
        for job_id in self._drive.advance(now_s):
            assert isinstance(job_id, int)
            job = self._reads.pop(job_id, None)
            if job is not None:
                for key in job.moving:
                    self._catalog.end_read(key, lost=False)
            else:
                job = self._writes.pop(job_id)
                for key in job.moving:
                    self._catalog.end_write(key, now_s)
                self._tell(job.moving, removed=False)
            job.done += job.moving
            self._finished.append(job)

    def _touch(self, key: OffloadKey) -> None:
        self._catalog.touch(key, 0.0, math.inf)

    def _tell(self, keys: list[OffloadKey], *, removed: bool) -> None:
        if keys:
            self._events.append(OffloadingEvent(list(keys), self.medium, removed, self.locality))


def _in_prompt_order(job: TransferJob) -> list[OffloadKey]:
    """vLLM hands over a set, whose order would differ from process to process."""
    position = job.req_context.get_offload_key_position
    return sorted(job.keys, key=lambda key: position(key) or 0)
