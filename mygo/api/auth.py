"""API keys -> tenants."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from mygo.errors import Unauthorized
from mygo.types import DEFAULT_TENANT, TenantId


class Keyring:
    """Knows the digests of the keys; without keys everybody is the default tenant."""

    def __init__(self, api_keys: Mapping[str, str]) -> None:
        self._tenants = [(_digest(key), TenantId(tenant)) for key, tenant in api_keys.items()]

    def tenant(self, authorization: str | None) -> TenantId:
        """The tenant of an ``Authorization`` header; raises Unauthorized.

        Digests are compared, all of them and in constant time: neither a key's length nor its
        beginning can be learned from how long a refusal takes.
        """
        if not self._tenants:
            return DEFAULT_TENANT
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized("no API key: send the header 'Authorization: Bearer KEY'")
        presented = _digest(key.strip())
        found: TenantId | None = None
        for digest, tenant in self._tenants:
            if hmac.compare_digest(digest, presented):
                found = tenant
        if found is None:
            raise Unauthorized(
                "unknown API key: ask the operator for one (http.api_keys in the configuration)"
            )
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
