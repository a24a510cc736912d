"""MyGO as one worker, and as two with each router."""

from __future__ import annotations

from benchmarks.systems.mygo_cluster import MygoSystem

MYGO = MygoSystem(
    name="mygo",
    summary="MyGO, one worker: exact prefixes, documents in ranked order",
)
MYGO_ORDER_CACHE = MygoSystem(
    name="mygo-order-cache",
    summary="MyGO, one worker, document_order cache: down the cached tree first, so other prompts",
    document_order="cache",
)
MYGO_HOST = MygoSystem("mygo-host", "MyGO, one worker with a host tier", host_tier=True)
MYGO_TIERS = MygoSystem(
    "mygo-tiers", "MyGO, one worker with host and disk tiers", host_tier=True, disk_tier=True
)
MYGO_TIERS_LRU = MygoSystem(
    "mygo-tiers-lru",
    "MyGO, one worker with host and disk tiers that evict by LRU",
    host_tier=True,
    disk_tier=True,
    overrides={"cache": {"policy": "lru"}},
)
_TWO = "MyGO, two workers of one core each"
_ROUTERS = (
    ("mygo-2-workers", "predicted_seconds", "its own router, predicted seconds"),
    ("mygo-2-round-robin", "round_robin", "round robin"),
    ("mygo-2-power-of-two", "power_of_two", "power of two choices"),
    ("mygo-2-prefix-affinity", "prefix_affinity", "Ray Serve LLM's prefix affinity rule"),
    ("mygo-2-consistent-hash", "consistent_hash", "consistent hashing of the first document"),
)
ROWS = (
    MYGO,
    MYGO_ORDER_CACHE,
    MYGO_HOST,
    MYGO_TIERS,
    MYGO_TIERS_LRU,
    *(
        MygoSystem(name, f"{_TWO}: {meaning}", workers=2, overrides={"routing": {"policy": policy}})
        for name, policy, meaning in _ROUTERS
    ),
)
