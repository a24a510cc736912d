"""Host memory and disk need not hold the same: what host memory is about to give up goes back to disk.

All that is stored goes to disk at once, so host memory and disk would hold most of what host memory holds
twice. A full disk therefore gives up its copies of what host memory has held for a while (``tree.exits.
Mirrors``). Such a node must be written again before it leaves host memory, as an operating system writes
dirty pages back before it needs their memory. What host memory has held for long is the most valuable, and
leaves last, so this is rare. Before the engine ends, what only host memory holds goes back as far as time
allows; after a crash a full disk lacks it.
"""

from __future__ import annotations

import time
from itertools import islice

from vllm.v1.kv_offload.base import ReqContext
from vllm.v1.kv_offload.tiering.manager import TieringOffloadingManager

from mygo.vllm_plugin.disk.tier import DiskTier
from mygo.vllm_plugin.tiers.host_policy import TreeCachePolicy

# Looked ahead in the order of eviction: enough that a drive writes it before it is evicted, and a small part
# of host memory, which is held up while it is written.
AHEAD_BLOCKS = 1024
AHEAD_SHARE = 1 / 8

# vLLM and Ray Serve kill an engine that takes longer than five seconds to end.
FLUSH_S = 3.0
FLUSH_POLL_S = 0.005


class Demotion:
    """Writes what host memory evicts next and the disk lacks. If the drive falls behind, it is lost."""

    def __init__(
        self, manager: TieringOffloadingManager, host: TreeCachePolicy, disk: DiskTier, host_blocks: int
    ) -> None:
        self._manager = manager
        self._host = host
        self._disk = disk
        self._ahead_blocks = min(AHEAD_BLOCKS, int(AHEAD_SHARE * host_blocks))
        self._looked_at = 0
        """Blocks evicted when last looked."""

    def step(self) -> None:
        """Look again if half of what was looked at has left."""
        store = self._disk.store
        if store is None or self._host.evicted_blocks - self._looked_at < max(1, self._ahead_blocks // 2):
            return
        self._looked_at = self._host.evicted_blocks
        keys = [key for key in self._host.leaving(self._ahead_blocks) if not store.holds(key)]
        if keys:
            self._disk.submit_store(self._manager.create_store_job(keys, ReqContext("demotion")))

    def flush(self, within_s: float = FLUSH_S) -> None:
        """Host memory is about to be lost: write what it holds and the disk lacks, the most valuable first.
        Blocks until that is done, or for ``within_s``."""
        store = self._disk.store
        if store is None:
            return
        until_s = time.monotonic() + within_s
        if not self._wait(until_s):
            return
        keys = iter([key for key in self._host.idle() if not store.holds(key)])
        while batch := list(islice(keys, max(1, self._ahead_blocks))):
            self._disk.submit_store(self._manager.create_store_job(batch, ReqContext("flush")))
            if not self._wait(until_s):
                return

    def _wait(self, until_s: float) -> bool:
        """Whether all queued writes ended in time."""
        store = self._disk.store
        assert store is not None
        while store.queued_write_bytes:
            if time.monotonic() >= until_s:
                return False
            time.sleep(FLUSH_POLL_S)
            self._disk.get_finished_jobs()
        return True
