"""The worker class that vLLM loads beside the connector: it gives the connector its model runner.

``worker_cls="mygo.vllm_plugin.chunks.worker.ChunkWorker"``; ``settings.engine_arguments`` sets it.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer import get_kv_transfer_group
from vllm.platforms import current_platform
from vllm.v1.kv_cache_interface import KVCacheConfig

from mygo.vllm_plugin.connector import MygoConnector

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


class ChunkWorker(PlatformWorker):  # type: ignore[misc]
    """The platform's own worker, otherwise unchanged."""

    def initialize_from_config(self, kv_cache_config: KVCacheConfig) -> None:
        super().initialize_from_config(kv_cache_config)
        connector: Any = get_kv_transfer_group()
        beside = getattr(connector, "_connectors", [connector])  # those of a MultiConnector
        for each in beside:
            if isinstance(each, MygoConnector):
                each.attach_runner(self.model_runner)
