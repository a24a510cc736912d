"""Chunks on disk: decides in the caller's thread, lets I/O threads act, learns of it in ``poll``.

No method touches a file or waits for one, except ``drain`` and ``close``. A lost, damaged or unreadable
chunk is a miss. A drive that fails is left alone for a while, twice as long each time, and then for good.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from mygo.vllm_plugin.disk.catalog import Catalog, EvictionOrder
from mygo.vllm_plugin.disk.files import STAMP_INTERVAL_S, ChunkFiles, ReadOutcome
from mygo.vllm_plugin.disk.format import ChunkKey
from mygo.vllm_plugin.disk.health import Breaker, ReadSpeed
from mygo.vllm_plugin.disk.lineage import Lineage
from mygo.vllm_plugin.disk.pool import IoPool, Lane
from mygo.vllm_plugin.disk.records import Change, DiskStats, Presence, Transferred
from mygo.vllm_plugin.disk.tasks import Erase, Read, ReadTags, Scan, Stamp, Write

logger = logging.getLogger(__name__)

SCAN_PATIENCE_S = 1.0
"""Chunks are NOT_YET_KNOWN for so long after the start; then, until the scan ends, they are absent."""
STALLED_S = 10.0
"""While a read has not come back for so long, nobody else is sent to wait behind it."""
FULL_PAUSE_S = 10.0
"""After the file system was full, growth is tried again so much later. Also deletions that failed."""
FLUSH_S = 5.0
"""At the end, queued writes get so long to reach the disk, and running operations as long again to return."""


class DiskStore:
    """At most ``max_chunks`` files of ``files``, in-flight writes included. Used by one thread."""

    def __init__(
        self,
        files: ChunkFiles,
        max_chunks: int,
        speed: ReadSpeed,
        *,
        min_free_bytes: int,
        read_threads: int,
        write_threads: int,
        max_queued_write_bytes: int,
        records_changes: bool = False,
    ) -> None:
        """``records_changes``: somebody calls ``take_changes``, so keep them until then."""
        self.stats = DiskStats()
        self.speed = speed
        self._files = files
        self._max_chunks = max_chunks
        self._min_free_bytes = min_free_bytes
        self._max_queued_write_bytes = max_queued_write_bytes
        self._catalog = Catalog(max_chunks)
        self._pool = IoPool(read_threads, write_threads, name="kv-disk")
        self._lineage = Lineage()
        self._may_read, self._may_write = Breaker(), Breaker()
        self._told_off = False
        self._reads: dict[ChunkKey, Read] = {}
        self._writes: dict[ChunkKey, Write] = {}
        self._unerased: list[ChunkKey] = []
        self._retry_erase_s = 0.0
        self._erased_early: list[Erase] = []
        self._grow_again_s = 0.0
        self._outcomes: deque[Read | Write | Erase | ReadTags | Stamp | Scan] = deque()
        self._records_changes = records_changes
        self._changes: list[Change] = []
        self._patient_until_s = time.monotonic() + SCAN_PATIENCE_S
        self._scanning = True
        scan = Scan()
        look = partial(scan.run, files, speed, read_threads)
        threading.Thread(target=self._carry_out, args=(scan, look), name="kv-disk-start", daemon=True).start()

    def __repr__(self) -> str:
        state = "off" if self.is_off else "scanning" if self._scanning else "on"
        return f"DiskStore({state}, {self._catalog!r}, {len(self._reads)} reads, {len(self._writes)} writes)"

    @property
    def is_off(self) -> bool:
        """The drive failed too often: nothing more is stored, or nothing more read."""
        return self._may_read.is_off or self._may_write.is_off

    @property
    def is_purging(self) -> bool:
        """What must go of what was found is not known yet: ``poll`` until it is."""
        return self._lineage.is_purging and not self.is_off

    @property
    def held_bytes(self) -> int:
        """Of all files, those included that are being written or deleted."""
        return len(self._catalog) * self._files.file_bytes

    @property
    def queued_read_bytes(self) -> int:
        """Of reads that are waiting or under way."""
        return len(self._reads) * self._files.file_bytes

    @property
    def queued_write_bytes(self) -> int:
        """Of writes that are waiting or under way."""
        return len(self._writes) * self._files.file_bytes

    def attach(self, order: EvictionOrder) -> None:
        """Let ``order`` choose who leaves, instead of least recent use. Before the first read or write."""
        self._catalog.attach(order)

    def holds(self, key: ChunkKey) -> bool:
        """Whether it is stored, be the drive in order or not, and need not be purged."""
        return key in self._catalog and not self._may_be_doomed(key)

    def find(self, key: ChunkKey) -> Presence:
        """Whether it can be read now."""
        now_s = time.monotonic()
        if self._scanning and now_s < self._patient_until_s:
            return Presence.NOT_YET_KNOWN
        if not self.holds(key) or not self._may_read.allows(now_s) or self._is_stalled(now_s):
            return Presence.ABSENT
        return Presence.HERE

    def is_stuck(self, key: ChunkKey) -> bool:
        """It is being read, and may be for ever: nobody is to wait for it."""
        return key in self._reads and self._is_stalled(time.monotonic())

    def touch(self, keys: Iterable[ChunkKey]) -> None:
        """Chunks were used, whether from here or from a faster tier; others do not matter."""
        now_s = time.time()
        stale = [key for key in keys if self._catalog.touch(key, now_s, STAMP_INTERVAL_S)]
        if stale:
            stamp = Stamp(stale)
            self._submit(Lane.WRITE, stamp, partial(stamp.run, self._files))

    def read(self, key: ChunkKey, into: memoryview, deadline_s: float = math.inf) -> bool:
        """Begin to fill ``into``; earliest deadline first. False: not here, or being read already."""
        if self._may_read.is_off or key in self._reads or self._may_be_doomed(key):
            return False
        if not self._catalog.begin_read(key):
            return False
        task = self._reads[key] = Read(key, into, time.monotonic())
        self._submit(Lane.READ, task, partial(task.run, self._files, self.speed), deadline_s)
        return True

    def write(self, key: ChunkKey, payload: memoryview, tags: bytes = b"") -> bool:
        """Begin to store a chunk that is not here; ``tags`` of the passages in whose sight it was computed
        are for a later ``purge_tagged``. False: it is dropped, see ``DiskStats.dropped_writes``."""
        victims = self._admit(key)
        if victims is None:
            self.stats.dropped_writes += 1
            return False
        self.stats.evicted_chunks += len(victims)
        self._tell(victims, came=False)
        task = self._writes[key] = Write(key, payload, victims, tags)
        self._submit(Lane.WRITE, task, partial(task.run, self._files, self._min_free_bytes))
        return True

    def purge(self, keys: Iterable[ChunkKey]) -> None:
        """Delete chunks now, known or not. A read of one that is under way will not be ``ok``."""
        doomed = list(keys)
        for key in doomed:
            if key in self._catalog:
                self._tell([key], came=False)
            self._catalog.purge(key)
            if key in self._reads:
                self._reads[key].purged = True
            if key in self._writes:
                self._writes[key].cancelled = True
        self.stats.purged_chunks += len(doomed)
        self._erase(doomed, Lane.PURGE)

    def purge_tagged(self, tags: Iterable[bytes]) -> None:
        """Delete what earlier processes left of passages with these tags. From now on none of it is read.
        Chunks that were used since the start are the caller's to ``purge`` by their keys."""
        self._lineage.purge(tags)
        self._purge_found()

    def _may_be_doomed(self, key: ChunkKey) -> bool:
        return self._lineage.is_purging and self._catalog.is_idle(key)

    def _purge_found(self) -> None:
        lineage = self._lineage
        if self._scanning or lineage.reading or not lineage.is_purging:
            return
        found = self._catalog.idle()
        if unknown := lineage.unknown(found):
            lineage.reading = True
            task = ReadTags(unknown)
            self._submit(Lane.PURGE, task, partial(task.run, self._files))
        else:
            self.purge(lineage.take_doomed(found))

    def poll(self) -> list[Transferred]:
        """Transfers that ended since the last call."""
        now_s = time.monotonic()
        ended: list[Transferred] = []
        while self._outcomes:
            match self._outcomes.popleft():
                case Read() as task:
                    ended.append(Transferred(task.key, True, self._end_read(task, now_s)))
                case Write() as task:
                    ended.append(Transferred(task.key, False, self._end_write(task, now_s)))
                case Erase() as task:
                    self._end_erase(task, now_s)
                case Scan() as task:
                    self._end_scan(task)
                # a stamp that failed: at worst a chunk looks older than it is
                case ReadTags() as task:
                    self._lineage.reading = False
                    self._lineage.learn(task.tags)
                    self.purge(task.unreadable)
                    self._purge_found()
        if self._unerased and now_s >= self._retry_erase_s:
            keys, self._unerased = self._unerased, []
            self._erase(keys, Lane.WRITE)
        return ended

    def take_changes(self) -> list[Change]:
        """Chunks that came and went since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    def drain(self) -> None:
        """Block until every transfer that was begun is in the next ``poll``."""
        self._pool.wait_idle()

    def close(self) -> bool:
        """Flush what is queued and end the threads. False if one still hangs in its operation."""
        return self._pool.close(FLUSH_S)

    # -- what I/O threads run

    def _submit(
        self,
        lane: Lane,
        task: Read | Write | Erase | ReadTags | Stamp,
        run: Callable[[], None],
        deadline_s: float = math.inf,
    ) -> None:
        self._pool.submit(lane, partial(self._carry_out, task, run), deadline_s)

    def _carry_out(
        self, task: Read | Write | Erase | ReadTags | Stamp | Scan, run: Callable[[], None]
    ) -> None:
        try:
            run()
        except Exception as error:  # whatever it is, requests wait for the outcome
            task.error = error
        self._outcomes.append(task)

    def _erase(self, keys: list[ChunkKey], lane: Lane) -> None:
        if keys:
            task = Erase(keys)
            self._submit(lane, task, partial(task.run, self._files))

    # -- deciding

    def _admit(self, key: ChunkKey) -> list[ChunkKey] | None:
        now_s = time.monotonic()
        if self._scanning or key in self._writes or not self._may_write.allows(now_s):
            return None
        if self.queued_write_bytes + self._files.file_bytes > self._max_queued_write_bytes:
            return None
        if now_s >= self._grow_again_s:
            self._catalog.limit_chunks = self._max_chunks
        return self._catalog.begin_write(key)

    def _is_stalled(self, now_s: float) -> bool:
        oldest = next(iter(self._reads.values()), None)
        return oldest is not None and now_s - oldest.submitted_s > STALLED_S

    def _tell(self, keys: Iterable[ChunkKey], *, came: bool) -> None:
        if self._records_changes:
            self._changes += [Change(key, came) for key in keys]

    # -- learning

    def _end_read(self, task: Read, now_s: float) -> bool:
        del self._reads[task.key]
        if task.error is not None:
            self.stats.read_errors += 1
            self._failed(self._may_read, "reading", task.error, now_s)
        elif task.outcome is ReadOutcome.DAMAGED:
            self.stats.damaged_chunks += 1
        elif task.outcome is ReadOutcome.MISSING:
            self.stats.missing_chunks += 1
        else:
            self._may_read.succeeded()
        if task.purged:
            return False
        intact = task.outcome is ReadOutcome.INTACT
        if intact:
            self.stats.read_chunks += 1
            self.stats.read_bytes += self._files.file_bytes
        else:
            self._tell([task.key], came=False)
        if task.error is None:
            self._catalog.end_read(task.key, lost=not intact)
        else:
            # its file is still there, and counts until it is deleted
            self._catalog.purge(task.key)
            self._erase([task.key], Lane.WRITE)
        return intact

    def _end_write(self, task: Write, now_s: float) -> bool:
        del self._writes[task.key]
        for victim in task.victims:
            if victim in task.erased:
                self._catalog.replaced(victim)
            elif self._catalog.restore(victim):
                self.stats.evicted_chunks -= 1
                self._tell([victim], came=True)
        if task.cancelled:
            if task.error is not None:
                # it may have been written, and not been deleted
                self._erase([task.key], Lane.PURGE)
            elif task.erased_before_end:
                self._catalog.erased(task.key)
            return False
        if task.written:
            self._may_write.succeeded()
            self._catalog.end_write(task.key, time.time())
            self._tell([task.key], came=True)
            self.stats.written_chunks += 1
            self.stats.written_bytes += self._files.file_bytes
            return True
        self._catalog.abandon_write(task.key)
        self.stats.dropped_writes += 1
        if task.lacking_bytes is not None:
            self._is_full(task.lacking_bytes, now_s)
        elif task.error is not None:
            self.stats.write_errors += 1
            self._failed(self._may_write, "writing", task.error, now_s)
        return False

    def _is_full(self, lacking_bytes: int, now_s: float) -> None:
        """Give up as much as is lacking, and do not grow for a while: only replace."""
        catalog = self._catalog
        if now_s >= self._grow_again_s:
            self._grow_again_s = now_s + FULL_PAUSE_S
            victims = catalog.shrink(-(-lacking_bytes // self._files.file_bytes))
            self.stats.evicted_chunks += len(victims)
            self._tell(victims, came=False)
            self._erase(victims, Lane.WRITE)
            catalog.limit_chunks = len(catalog) - len(victims)
        else:
            # this write was admitted before the limit fell
            catalog.limit_chunks = min(catalog.limit_chunks, len(catalog))

    def _end_erase(self, task: Erase, now_s: float) -> None:
        if self._scanning:
            # the scan may have seen the files before they were deleted
            self._erased_early.append(task)
            return
        for key in task.keys:
            if key in task.remaining:
                continue
            if (write := self._writes.get(key)) is not None:
                write.erased_before_end = True
            else:
                self._catalog.erased(key)
        if task.remaining:
            self._unerased += task.remaining
            self._retry_erase_s = now_s + FULL_PAUSE_S

    def _end_scan(self, task: Scan) -> None:
        self._scanning = False
        if task.error is not None:
            self._may_read.switch_off()
            self._may_write.switch_off()
            self._tell_off("looking for earlier chunks in", task.error)
            return
        for erase in self._erased_early:
            for key in erase.keys:
                task.found.pop(key, None)
            self._end_erase(erase, time.monotonic())
        self._erased_early.clear()
        self._erase(self._catalog.adopt(task.found), Lane.WRITE)
        logger.info("KV on disk: %r after the scan of %s", self, self._files.folder)
        self._purge_found()

    def _failed(self, breaker: Breaker, doing: str, error: Exception, now_s: float) -> None:
        breaker.failed(now_s)
        if breaker.is_off:
            self._tell_off(doing, error)

    def _tell_off(self, doing: str, error: Exception) -> None:
        if not self._told_off:
            self._told_off = True
            logger.warning(
                "KV on disk is off until restart: %s %s failed again and again, at last with %r",
                doing,
                self._files.folder,
                error,
            )
