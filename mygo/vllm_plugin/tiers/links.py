"""How fast KV moves between tiers, as measured, and what is on its way."""

from __future__ import annotations

# Share of what was known that remains when as many bytes again have moved.
_MEMORY = 0.8


class Speed:
    """Bytes per second over past transfers, recent ones weighing more. ``guess`` until the first."""

    def __init__(self, guess_bytes_per_s: float) -> None:
        self._guess = guess_bytes_per_s
        self._bytes = 0.0
        self._seconds = 0.0
        self.total_bytes = 0
        self.total_s = 0.0

    @property
    def bytes_per_s(self) -> float:
        return self._bytes / self._seconds if self._seconds else self._guess

    def observe(self, moved_bytes: int, seconds: float) -> None:
        """Transfers that took ``seconds`` moved ``moved_bytes``."""
        if moved_bytes > 0 and seconds > 0:
            self.total_bytes += moved_bytes
            self.total_s += seconds
            self._bytes = _MEMORY * self._bytes + moved_bytes
            self._seconds = _MEMORY * self._seconds + seconds
