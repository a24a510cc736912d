"""Brings what waiting requests need from disk to host memory while they wait (PCR, arXiv 2603.23049).

vLLM looks for a request's KV only when its turn comes; behind a full batch the drive would idle until
then. Here those who are expected to be admitted first begin their reads at once, in that order, if it harms
nobody (Cao et al., SIGMETRICS 1995): never by pushing out what waiting requests have in host memory, and
never more than is worth loading. At its turn, vLLM looks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from vllm.v1.kv_offload.base import LookupResult, OffloadingManager, OffloadKey, ReqContext

from mygo.vllm_plugin.disk.tier import ReadDeadline

# What is read further ahead of its use is more likely to be pushed out again before.
WINDOW_REQUESTS = 8


class Prefetch:
    """Asks the manager for blocks on disk, which is how vLLM starts reading them."""

    def __init__(
        self,
        manager: OffloadingManager,
        waiting: Callable[[], Iterator[str]],
        wanted: Callable[[str], tuple[ReqContext, list[OffloadKey]] | None],
        free_blocks: Callable[[], int],
        wait_s: Callable[[str], float],
        clock: Callable[[], float],
    ) -> None:
        """``waiting``: ids in the order in which they are expected to be admitted. ``wanted``: a request's
        blocks that are worth reading from disk, in prompt order. ``free_blocks``: host blocks that nobody
        would miss. ``wait_s``: predicted seconds that a request takes of the engine."""
        self._manager = manager
        self._waiting = waiting
        self._wanted = wanted
        self._free_blocks = free_blocks
        self._wait_s = wait_s
        self._clock = clock
        self._asked: set[str] = set()
        self._started: dict[str, int] = {}
        """Blocks whose reading was started here, by the request that they are for."""

    def step(self) -> None:
        """Start reads for requests that came near enough to their turn."""
        window = list(islice(self._waiting(), WINDOW_REQUESTS))
        if not window and not self._asked:
            return
        fresh = [request_id for request_id in window if request_id not in self._asked]
        self._asked &= set(window)
        if not fresh:
            return
        admitted_s = self._clock()
        for request_id in window:
            if request_id in fresh and not self._start(request_id, admitted_s):
                return
            admitted_s += self._wait_s(request_id)

    def ended(self, request_id: str) -> int:
        """The request was admitted, or is over: how many blocks were read ahead for it."""
        return self._started.pop(request_id, 0)

    def _start(self, request_id: str, admitted_s: float) -> bool:
        """False if there is no room for it, and so for nobody behind it."""
        found = self._wanted(request_id)
        if found is None:
            self._asked.add(request_id)
            return True
        context, keys = found
        if len(keys) > self._free_blocks():
            return False
        context.set_state(ReadDeadline(admitted_s))
        for key in keys:
            if self._manager.lookup(key, context) is LookupResult.MISS:
                break
            self._started[request_id] = self._started.get(request_id, 0) + 1
        self._asked.add(request_id)
        return True
