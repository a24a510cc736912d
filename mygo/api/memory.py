"""Bounded memory for what clients refer back to: earlier responses and file batches."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from mygo.types import TenantId


class Memory(Protocol):
    """Remembers values by (tenant, key), for a while. Losing one is allowed at any time.

    Keys begin with their kind (``response:``, ``batch:``): ids come from clients.
    """

    async def remember(self, tenant: TenantId, key: str, value: bytes) -> None: ...

    async def recall(self, tenant: TenantId, key: str) -> bytes | None: ...

    async def forget(self, tenant: TenantId, key: str) -> bool:
        """True if there was something to forget."""
        ...


class LocalMemory:
    """In this process, least recently used first out, at most ``max_bytes`` of values.

    Ingress replicas do not share it: with ``http.ingress_replicas`` above 1, an id is known only to the
    replica that made it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._values: OrderedDict[tuple[TenantId, str], bytes] = OrderedDict()

    async def remember(self, tenant: TenantId, key: str, value: bytes) -> None:
        await self.forget(tenant, key)
        if len(value) > self._max_bytes:
            return
        self._values[tenant, key] = value
        self._held_bytes += len(value)
        while self._held_bytes > self._max_bytes:
            _, evicted = self._values.popitem(last=False)
            self._held_bytes -= len(evicted)

    async def recall(self, tenant: TenantId, key: str) -> bytes | None:
        value = self._values.get((tenant, key))
        if value is not None:
            self._values.move_to_end((tenant, key))
        return value

    async def forget(self, tenant: TenantId, key: str) -> bool:
        value = self._values.pop((tenant, key), None)
        if value is None:
            return False
        self._held_bytes -= len(value)
        return True
