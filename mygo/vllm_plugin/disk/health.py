"""When to stop using a drive that fails, and how fast it reads."""

from __future__ import annotations

import threading
import time


class Breaker:
    """Pauses after a failure, twice as long after each further one in a row, and then gives up for good.

    Failures during a pause are those of operations that had begun before it; they do not count.
    """

    def __init__(self, first_pause_s: float = 1.0, failures_to_off: int = 7) -> None:
        self._first_pause_s = first_pause_s
        self._failures_to_off = failures_to_off
        self._failures = 0
        self._paused_until_s = 0.0

    @property
    def is_off(self) -> bool:
        return self._failures >= self._failures_to_off

    def allows(self, now_s: float) -> bool:
        return not self.is_off and now_s >= self._paused_until_s

    def failed(self, now_s: float) -> None:
        if self.allows(now_s):
            self._paused_until_s = now_s + self._first_pause_s * 2.0**self._failures
            self._failures += 1

    def succeeded(self) -> None:
        if not self.is_off:
            self._failures = 0

    def switch_off(self) -> None:
        self._failures = self._failures_to_off


class ReadSpeed:
    """Bandwidth over the times in which at least one read was under way, recent ones weighing more.

    Optionally slows reads down to a drive of ``s_per_byte``, which serves one after the other. Threads call
    ``began`` before and ``ended`` after a read; ``ended`` waits until the slower drive would be done.
    """

    _MEMORY = 0.8
    """Weight of what was known, when a sample is added."""
    _SAMPLE_S = 0.25
    """A longer busy time is cut into samples, so that the figure follows while reads never pause."""

    def __init__(self, s_per_byte: float = 0.0) -> None:
        self._s_per_byte = s_per_byte
        self._lock = threading.Lock()
        self._active = 0
        self._busy_since_s = 0.0
        self._busy_bytes = 0
        self._drive_free_s = 0.0
        self._bytes = 0.0
        self._seconds = 0.0
        self.total_s = 0.0
        """In which reads were under way."""

    @property
    def bytes_per_s(self) -> float | None:
        """Verification included. None until something was read."""
        with self._lock:
            return self._bytes / self._seconds if self._seconds else None

    def began(self) -> None:
        with self._lock:
            self._active += 1
            if self._active == 1:
                self._busy_since_s = time.monotonic()
                self._busy_bytes = 0

    def ended(self, read_bytes: int) -> None:
        """``read_bytes`` 0: the read failed and says nothing about the drive."""
        if self._s_per_byte and read_bytes:
            with self._lock:
                now_s = time.monotonic()
                self._drive_free_s = max(now_s, self._drive_free_s) + read_bytes * self._s_per_byte
                wait_s = self._drive_free_s - now_s
            time.sleep(wait_s)
        with self._lock:
            self._active -= 1
            self._busy_bytes += read_bytes
            now_s = time.monotonic()
            busy_s = now_s - self._busy_since_s
            if self._active and busy_s < self._SAMPLE_S:
                return
            self.total_s += busy_s
            if self._busy_bytes:
                self._bytes = self._MEMORY * self._bytes + self._busy_bytes
                self._seconds = self._MEMORY * self._seconds + busy_s
            self._busy_since_s, self._busy_bytes = now_s, 0
