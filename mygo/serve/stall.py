"""Tells when an engine that has requests does nothing any more: hung, not dead."""

from __future__ import annotations


class StallWatch:
    """Looks at an engine at regular intervals; any sign of work counts as progress.

    Time is counted in looks, not read from a clock: while the machine or the process that looks is held
    up, nothing can be seen, and that is no fault of the engine.
    """

    def __init__(self, limit_s: float, interval_s: float) -> None:
        self._limit_s = limit_s
        self._interval_s = interval_s
        self._signs = 0
        self._silent_looks = 0

    def stalled(self, requests: int, signs: int) -> bool:
        """Look once: True if there have been requests for ``limit_s`` without a sign.

        ``requests`` wait for the engine now; ``signs`` counts the signs of work so far, of whatever kind.
        """
        if requests == 0 or signs != self._signs:
            self._signs = signs
            self._silent_looks = 0
        else:
            self._silent_looks += 1
        return self._silent_looks * self._interval_s >= self._limit_s
