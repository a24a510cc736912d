"""MyGO's plugin as an emulated engine loads it: the same decisions, on virtual time and without memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.kv_offload.base import CanonicalKVCaches
from vllm.v1.kv_offload.config import OffloadingConfig
from vllm.v1.kv_offload.tiering.manager import (
    CPUPrimaryTierOffloadingManager,
    TieringOffloadingManager,
)
from vllm.v1.metrics.cache_hit_source import CacheHitSource
from vllm.v1.request import Request

from mygo.emulation.chunks import claim
from mygo.emulation.copier import VirtualCopier
from mygo.emulation.disk import EmulatedDisk
from mygo.types import Tier
from mygo.vllm_plugin.chunks.chunks import Chunks
from mygo.vllm_plugin.connector import MygoConnector
from mygo.vllm_plugin.settings import TierSettings
from mygo.vllm_plugin.tiers.scheduler import TierScheduler
from mygo.vllm_plugin.tiers.spec import TierSpec
from mygo.vllm_plugin.tiers.tiers import Tiers, offloading_config
from mygo.vllm_plugin.tiers.worker import TierWorker

_TIERS = {CacheHitSource.HOST: Tier.HOST, CacheHitSource.DISK: Tier.DISK}


class VirtualClock:
    """Reads what was last set."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class HostMemory:
    """Stands for vLLM's shared region: a byte per chunk, which nobody reads."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks

    def create_kv_memoryview(self) -> memoryview:
        return memoryview(bytearray(self._chunks)).cast("B", shape=[self._chunks, 1])

    def cleanup(self) -> None:
        """Nothing is mapped."""


class EmulatedSpec(TierSpec):
    """The parts of vLLM's offloading, of which only those that decide are real."""

    BLOCK_SIZE_ALIGNMENT = 1
    """Nothing is mapped, so chunks need no padding."""

    def __init__(
        self,
        config: OffloadingConfig,
        *,
        settings: TierSettings,
        clock: Callable[[], float],
        eviction_policy: str = "lru",
        queued_write_bytes: float | None = None,
    ) -> None:
        """``eviction_policy``: vLLM's, of host memory, for whoever does not bring another.
        ``queued_write_bytes``: chunks beyond this are not written to disk; None: half of
        host memory, as with the real tier."""
        super().__init__(config)
        self.eviction_policy = eviction_policy
        self._settings = settings
        self._clock = clock
        if queued_write_bytes is None:
            queued_write_bytes = settings.host_bytes / 2
        self._queued_write_bytes = queued_write_bytes
        self._manager: TieringOffloadingManager | None = None
        self.disks: list[EmulatedDisk] = []
        """One, or none."""

    def get_manager(self) -> TieringOffloadingManager:
        if self._manager is None:
            host = CPUPrimaryTierOffloadingManager(
                self.num_chunks, HostMemory(self.num_chunks), self.eviction_policy, enable_events=True
            )
            if self._settings.disk_bytes:
                disk = EmulatedDisk(
                    self,
                    host.get_kv_memoryview(),
                    max_chunks=self._settings.disk_bytes // self.kv_bytes_per_chunk,
                    chunk_bytes=self.kv_bytes_per_chunk,
                    s_per_byte=self._settings.disk_read_s_per_byte,
                    clock=self._clock,
                    max_queued_write_bytes=self._queued_write_bytes,
                )
                self.disks.append(disk)
            self._manager = TieringOffloadingManager(host, self.disks)
        return self._manager

    def get_worker(self, kv_caches: CanonicalKVCaches) -> VirtualCopier:
        return VirtualCopier(self.kv_bytes_per_chunk, self._settings.host_load_s_per_byte, self._clock)


class EmulatedWorker(TierWorker):
    """The worker's half of the tiers."""

    def __init__(self, spec: EmulatedSpec, vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(spec, vllm_config, kv_cache_config)
        self._init_worker(None)

    @property
    def copier(self) -> VirtualCopier:
        copier = self._copier
        assert isinstance(copier, VirtualCopier)
        return copier

    @property
    def has_deferred(self) -> bool:
        """Stores wait for the next step."""
        return bool(self._unsubmitted_store_jobs)


class EmulatedConnector(MygoConnector):
    """Both halves of the plugin in one process. ``clock`` is set by whoever drives the engine."""

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.clock = VirtualClock()
        self.report_every_s = 0.0  # of real seconds, which do not pass here
        self.worker: EmulatedWorker | None = None
        """None without a host tier."""
        self.loaded: dict[str, dict[Tier, int]] = {}
        """Of requests that loaded: tokens by the tier that they came from."""

    @property
    def next_end_s(self) -> float | None:
        """When something ends that is under way between tiers; None while nothing is."""
        if self.worker is None:
            return None
        ends_s = [self.worker.copier.next_end_s, *(disk.next_end_s for disk in self.worker.spec.disks)]
        return min((end_s for end_s in ends_s if end_s is not None), default=None)

    def _make_tiers(self, kv_cache_manager: KVCacheManager) -> Tiers:
        settings = self._settings.tiers
        specs: list[EmulatedSpec] = []

        def make_spec(config: OffloadingConfig) -> EmulatedSpec:
            specs.append(self._make_spec(config))
            return specs[0]

        tiers = Tiers(
            settings,
            self._vllm_config,
            self._kv_cache_config,
            kv_cache_manager,
            self._cache,
            self.clock,
            make_spec=make_spec,
            make_scheduler=self._make_scheduler,
        )
        for spec in specs:
            native = offloading_config(self._vllm_config, settings)
            self.worker = EmulatedWorker(spec, native, self._kv_cache_config)
        return tiers

    def _make_chunks(self, kv_cache_manager: KVCacheManager) -> Chunks:
        parts = self._vllm_config, self._kv_cache_config, kv_cache_manager, self._cache, self._tiers
        return Chunks(self._settings.chunks, *parts, claim=claim)

    def _make_spec(self, config: OffloadingConfig) -> EmulatedSpec:
        return EmulatedSpec(config, settings=self._settings.tiers, clock=self.clock)

    def _make_scheduler(self, *parts: Any, **switches: Any) -> TierScheduler:
        return TierScheduler(*parts, **switches)

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        if num_external_tokens and not request.num_preemptions:
            sources = self.get_external_cache_hit_sources(request, num_external_tokens)
            self.loaded[request.request_id] = {_TIERS[source]: tokens for source, tokens in sources.items()}
