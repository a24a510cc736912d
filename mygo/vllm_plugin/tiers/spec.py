"""Which parts vLLM's offloading is made of here: its managers, our policy, our copier, our disk tier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from vllm.config import ModelConfig
from vllm.v1.kv_offload.base import CanonicalKVCaches, OffloadingWorker
from vllm.v1.kv_offload.config import OffloadingConfig
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from mygo.errors import ConfigError
from mygo.vllm_plugin.settings import TierSettings
from mygo.vllm_plugin.tiers.copier import LayerCopier


class TierSpec(TieringOffloadingSpec):  # type: ignore[misc]
    """vLLM's tiering with a copier that runs on every platform."""

    def __init__(self, config: OffloadingConfig) -> None:
        super().__init__(config)
        if not self.num_chunks:
            raise ConfigError(
                f"host_bytes: {self.extra_config['cpu_bytes_to_use']} bytes hold no block of this model "
                f"({self.kv_bytes_per_chunk} bytes each): raise it, or set it to 0 for no host tier"
            )
        self._copier: LayerCopier | None = None

    @property
    def kv_bytes_per_token(self) -> float:
        """Of all layers and workers, padding included."""
        tokens: int = min(self.tokens_per_block)
        return float(self.kv_bytes_per_chunk / tokens)

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        if self._copier is None:
            region = SharedOffloadRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=0 if self.replicated_layout else self.config.parallel.rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            self._copier = LayerCopier(
                kv_caches,
                [group.layer_names for group in self.config.groups],
                region,
                load_s_per_byte=float(self.extra_config["load_s_per_byte"]),
            )
        return self._copier


def native_settings(settings: TierSettings, model: ModelConfig) -> dict[str, Any]:
    """vLLM's ``kv_connector_extra_config`` for the tiers that ours describe."""
    tiers: list[dict[str, Any]] = []
    if settings.disk_path is not None:
        tiers.append(
            {
                "type": "DiskTier",
                "module_path": "mygo.vllm_plugin.disk.tier",
                "root_dir": settings.disk_path,
                "max_bytes": settings.disk_bytes,
                # a prompt's KV comes all at once, and whatever finds no room in the queue is lost to the disk
                "max_queued_write_bytes": settings.host_bytes,
                "read_s_per_byte": settings.disk_read_s_per_byte,
                "enable_kv_events": True,
                "identity": _identity(model),
            }
        )
    return {
        "cpu_bytes_to_use": settings.host_bytes,
        "blocks_per_chunk": 1,
        "offload_prompt_only": True,
        "secondary_tiers": tiers,
        "load_s_per_byte": settings.host_load_s_per_byte,
    }


def _identity(model: ModelConfig) -> dict[str, str]:
    """What makes KV on disk comparable and vLLM does not tell its tiers."""
    identity = {"computation": model.compute_hash()}
    if not Path(model.model).is_dir():
        # a hub's name can be given other weights at any time; the snapshot in use is named by its commit
        config = try_to_load_from_cache(model.model, "config.json", revision=model.revision)
        if isinstance(config, str):
            identity["weights"] = Path(config).parent.name
    return identity
