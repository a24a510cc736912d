"""Bounded memory for earlier responses, which clients refer back to by id."""

from __future__ import annotations

from collections import OrderedDict

from mygo.types import TenantId


class ResponseMemory:
    """Least recently used first out, at most ``max_bytes`` of values; each tenant knows its own ids only."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._values: OrderedDict[tuple[TenantId, str], bytes] = OrderedDict()

    def remember(self, tenant: TenantId, response_id: str, value: bytes) -> None:
        self.forget(tenant, response_id)
        if len(value) > self._max_bytes:
            return
        self._values[tenant, response_id] = value
        self._held_bytes += len(value)
        while self._held_bytes > self._max_bytes:
            _, evicted = self._values.popitem(last=False)
            self._held_bytes -= len(evicted)

    def recall(self, tenant: TenantId, response_id: str) -> bytes | None:
        value = self._values.get((tenant, response_id))
        if value is not None:
            self._values.move_to_end((tenant, response_id))
        return value

    def forget(self, tenant: TenantId, response_id: str) -> bool:
        """True if there was something to forget."""
        value = self._values.pop((tenant, response_id), None)
        if value is None:
            return False
        self._held_bytes -= len(value)
        return True
