"""Threads that carry out the tier's file operations, urgent ones first."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable
from enum import IntEnum


class Lane(IntEnum):
    """What goes first when a thread is free."""

    PURGE = 0
    READ = 1
    WRITE = 2


class IoPool:
    """``read_threads + write_threads`` threads; at most ``write_threads`` of them write at once.

    So a read never waits for a free thread because of writes, and a write begins only when no read waits.
    Writes can starve while reads keep all threads busy: whoever submits them bounds their queue.
    Tasks must not raise.
    """

    def __init__(self, read_threads: int, write_threads: int, name: str) -> None:
        self._write_threads = write_threads
        self._queue: list[tuple[int, float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        lock = threading.Lock()
        self._due = threading.Condition(lock)
        self._idle = threading.Condition(lock)
        self._running = 0
        self._writing = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{index}", daemon=True)
            for index in range(read_threads + write_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, lane: Lane, task: Callable[[], None], deadline_s: float = math.inf) -> None:
        """Within a lane the earliest deadline goes first, then whatever was submitted first."""
        with self._due:
            heapq.heappush(self._queue, (lane, deadline_s, next(self._order), task))
            self._due.notify()

    def wait_idle(self, timeout_s: float | None = None) -> bool:
        """Block until nothing is queued or running; False if that took too long."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._queue and not self._running, timeout_s)

    def close(self, flush_s: float) -> bool:
        """Work for up to ``flush_s`` more, forget what is still queued then, and end the threads.

        False if a thread still hangs in its operation.
        """
        self.wait_idle(flush_s)
        with self._due:
            self._closed = True
            self._queue.clear()
            self._due.notify_all()
        until_s = time.monotonic() + flush_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _next_is_due(self) -> bool:
        if self._closed:
            return True
        return bool(self._queue) and (self._queue[0][0] < Lane.WRITE or self._writing < self._write_threads)

    def _work(self) -> None:
        while True:
            with self._due:
                self._due.wait_for(self._next_is_due)
                if self._closed:
                    return
                lane, _, _, task = heapq.heappop(self._queue)
                self._running += 1
                self._writing += lane == Lane.WRITE
                if self._next_is_due():
                    # a wake-up may have met a thread while the next task was not due yet
                    self._due.notify()
            try:
                task()
            finally:
                with self._idle:
                    self._running -= 1
                    self._writing -= lane == Lane.WRITE
                    if not self._queue and not self._running:
                        self._idle.notify_all()
