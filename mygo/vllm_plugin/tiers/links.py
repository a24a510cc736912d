"""How fast KV moves between tiers, as measured, and what is on its way."""

from __future__ import annotations

from mygo.tree.loading import Link
from mygo.types import Tier
from mygo.vllm_plugin.disk.tier import DiskTier

# Until something was measured: a PCIe 4 link and a common NVMe drive.
GUESSED_HOST_BYTES_PER_S = 20e9
GUESSED_DISK_BYTES_PER_S = 2e9

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


class Links:
    """From each slower tier to the next faster one."""

    def __init__(self, disk: DiskTier | None) -> None:
        self.host = Speed(GUESSED_HOST_BYTES_PER_S)
        self._disk = disk

    def bytes_per_s(self, tier: Tier) -> float:
        """0: there is no such tier."""
        if tier is Tier.HOST:
            return self.host.bytes_per_s
        store = self._disk.store if self._disk is not None else None
        return store.speed.bytes_per_s or GUESSED_DISK_BYTES_PER_S if store is not None else 0.0

    def now(self, host_bytes: int) -> dict[Tier, Link]:
        """With what is on its way; ``host_bytes`` of it from host memory."""
        links = {Tier.HOST: Link(self.bytes_per_s(Tier.HOST), host_bytes)}
        store = self._disk.store if self._disk is not None else None
        if store is not None:
            links[Tier.DISK] = Link(self.bytes_per_s(Tier.DISK), store.queued_read_bytes)
        return links
