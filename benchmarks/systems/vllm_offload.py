"""vLLM with prefix caching and its native offloading: a host tier by LRU or ARC, and a file system tier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.systems.system import Settings
from benchmarks.systems.vllm_server import VllmSystem, connector

OURS = "on a CPU the copies are made by this benchmark's own worker, because vLLM's refuses the platform"


def arguments(policy: str, *, disk: bool, folder: Path, settings: Settings) -> list[str]:
    throttle = settings.throttle
    per_token = settings.kv_bytes_per_token
    extra: dict[str, Any] = {
        "spec_name": "CpuPlatformTieringSpec",
        "spec_module_path": "benchmarks.systems.cpu_offload",
        "cpu_bytes_to_use": settings.host_kv_bytes,
        "eviction_policy": policy,
    }
    if throttle is not None:
        extra["load_s_per_byte"] = throttle.host_s_per_token / per_token
    if disk:
        tier: dict[str, Any] = {"type": "fs", "root_dir": str(folder / "kv")}
        if throttle is not None:
            tier |= {
                "type": "ThrottledFileSystemTier",
                "module_path": "benchmarks.systems.cpu_offload",
                "load_s_per_byte": throttle.disk_s_per_token / per_token,
            }
        extra["secondary_tiers"] = [tier]
    return ["--enable-prefix-caching", *connector("OffloadingConnector", extra)]


ROWS = (
    VllmSystem(
        name="vllm-offload-lru",
        summary=f"vLLM, prefix caching and a host tier with LRU; {OURS}",
        arguments=lambda folder, settings: arguments("lru", disk=False, folder=folder, settings=settings),
        host_tier=True,
    ),
    VllmSystem(
        name="vllm-offload-arc",
        summary=f"vLLM, prefix caching and a host tier with ARC; {OURS}",
        arguments=lambda folder, settings: arguments("arc", disk=False, folder=folder, settings=settings),
        host_tier=True,
    ),
    VllmSystem(
        name="vllm-offload-fs",
        summary=f"vLLM, prefix caching, a host tier with LRU and an unbounded file system tier; {OURS}",
        arguments=lambda folder, settings: arguments("lru", disk=True, folder=folder, settings=settings),
        host_tier=True,
    ),
    VllmSystem(
        name="vllm-offload-arc-fs",
        summary=f"vLLM, prefix caching, a host tier with ARC and an unbounded file system tier; {OURS}",
        arguments=lambda folder, settings: arguments("arc", disk=True, folder=folder, settings=settings),
        host_tier=True,
    ),
)
