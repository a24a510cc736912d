"""vLLM's own offloading in the emulated engine, to compare with: its policies of host memory, everything
that a slower tier has is loaded, and always before the request runs."""

from __future__ import annotations

import math
from typing import Any

from vllm.v1.kv_offload.base import OffloadKey
from vllm.v1.kv_offload.config import OffloadingConfig
from vllm.v1.kv_offload.cpu.policies.base import CachePolicy

from mygo.emulation.connector import EmulatedConnector, EmulatedSpec
from mygo.vllm_plugin.disk.catalog import LruOrder
from mygo.vllm_plugin.tiers.scheduler import TierScheduler


class _VllmPolicy:
    """What ours is asked besides what vLLM asks."""

    def __init__(self, policy: CachePolicy) -> None:
        self._policy = policy

    def holds(self, key: OffloadKey) -> bool:
        return self._policy.get(key) is not None

    def settle(self) -> None:
        """There is no tree that would have to know."""


class NativeScheduler(TierScheduler):
    """Ours with everything switched off, and with vLLM's replacement: what is left is vLLM's."""

    def __init__(self, spec: EmulatedSpec, *parts: Any) -> None:
        policy = spec.get_manager().primary_tier._policy
        super().__init__(spec, *parts, gate=False, layerwise=False, prefetch=False)
        self.manager.primary_tier._policy = policy
        # which ours does without: vLLM's policies learn from it what a request has used
        del self.manager.primary_tier._record_request_cache_access
        self._host: Any = _VllmPolicy(policy)
        self._demotion = None
        for disk in spec.disks:
            disk.attach(LruOrder())


class NativeConnector(EmulatedConnector):
    """``TierSettings.policy`` is ``lru`` or ``arc``, as vLLM has them; its other switches mean nothing here.

    vLLM's file system tier deletes nothing. It gets a bound here, for equal bytes, and the replacement that
    is usual for files: least recently used. Its queue of writes has no bound.
    """

    def _make_spec(self, config: OffloadingConfig) -> EmulatedSpec:
        tiers = self._settings.tiers
        return EmulatedSpec(
            config,
            settings=tiers,
            clock=self.clock,
            eviction_policy=tiers.policy,
            queued_write_bytes=math.inf,
        )

    def _make_scheduler(self, *parts: Any, **switches: Any) -> TierScheduler:
        return NativeScheduler(*parts)
