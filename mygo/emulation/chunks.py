"""The workers' half of chunk reuse in an emulated engine: nothing is kept, and moves take virtual seconds."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from vllm.config import VllmConfig

from mygo.blend.variants import Variant, VariantKey
from mygo.emulation.profile import EngineProfile
from mygo.vllm_plugin.chunks.disk import ChunkHome, ChunkReport
from mygo.vllm_plugin.chunks.step import ChunkStep
from mygo.vllm_plugin.settings import ChunkSettings


class VirtualHome(ChunkHome):
    """A folder that is not there, and so has nothing to be found at start."""

    def files(self, rank: int) -> Any:
        return self

    def variants(self) -> list[Variant]:
        return []


def claim(settings: ChunkSettings, config: VllmConfig) -> tuple[ChunkHome | None, None]:
    """As ``vllm_plugin.chunks.disk.claim``, without a path."""
    return (VirtualHome(Path(), b"") if settings.disk_bytes else None), None


class VirtualChunks:
    """The drive does one thing after the other, as ``ChunkDisk`` does."""

    def __init__(self, profile: EngineProfile) -> None:
        """Of ``profile`` only the sizes and the speeds of the links matter."""
        self._profile = profile
        self._tokens: dict[VariantKey, int] = {}
        """Of what is on disk."""
        self._reads: deque[tuple[float, VariantKey]] = deque()
        """By when they end."""
        self._drive_free_s = 0.0
        self._report = ChunkReport()

    @property
    def next_end_s(self) -> float | None:
        """When the next read ends; None while there is none."""
        return self._reads[0][0] if self._reads else None

    def begin(self, step: ChunkStep, now_s: float) -> float:
        """What a step moves. Returns the seconds that its loads take; tell ``held_up`` what they cost."""
        for key in step.reads:
            ends_s = self._drive(self._tokens[key], now_s)
            self._reads.append((ends_s, key))
        for variant in step.writes:
            self._tokens[variant.key] = variant.tokens
            self._drive(variant.tokens, now_s)
        loads = [load for loads in step.loads.values() for load in loads]
        tokens = sum(load.end_tokens - load.start_tokens for load in loads)
        self._report.loaded_bytes += tokens * self._profile.kv_bytes_per_token
        return tokens * self._profile.host_load_s_per_token

    def held_up(self, seconds: float) -> None:
        """The step's computation ended so much later for its loads."""
        self._report.load_s += seconds

    def report(self, now_s: float) -> ChunkReport:
        """What has happened since the last call."""
        while self._reads and self._reads[0][0] <= now_s:
            _, key = self._reads.popleft()
            self._report.read[key] += 1
            self._report.read_bytes += self._tokens[key] * self._profile.kv_bytes_per_token
            self._report.read_s += self._tokens[key] * self._profile.disk_load_s_per_token
        report, self._report = self._report, ChunkReport()
        return report

    def _drive(self, tokens: int, now_s: float) -> float:
        took_s = tokens * self._profile.disk_load_s_per_token
        self._drive_free_s = max(self._drive_free_s, now_s) + took_s
        return self._drive_free_s
