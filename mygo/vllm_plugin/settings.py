"""How an engine is told to load the plugin, and what the plugin is told. Imports no vLLM."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mygo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """The ``kv_connector_extra_config`` of the connector."""

    mygo_socket: str | None = None
    """Unix socket on which a ReportReceiver listens. None: nothing is reported."""
    sibling_hold: bool = True
    """Hold a request while a running one computes blocks that both need."""

    @classmethod
    def parse(cls, extra: Mapping[str, Any]) -> PluginSettings:
        """Raises ConfigError for an unknown key or a value of the wrong type."""
        valid = [entry.name for entry in fields(cls)]
        for key in extra:
            if key not in valid:
                near = difflib.get_close_matches(key, valid, n=1)
                hint = f"did you mean {near[0]}?" if near else f"valid keys: {', '.join(valid)}"
                raise ConfigError(f"kv_connector_extra_config.{key}: unknown key, {hint}")
        settings = cls(**extra)
        if not (settings.mygo_socket is None or isinstance(settings.mygo_socket, str)):
            raise ConfigError(
                f"kv_connector_extra_config.mygo_socket: must be a path, not {settings.mygo_socket!r}"
            )
        if not isinstance(settings.sibling_hold, bool):
            raise ConfigError(
                "kv_connector_extra_config.sibling_hold: must be true or false, "
                f"not {settings.sibling_hold!r}"
            )
        return settings


def engine_arguments(socket_path: str | None = None, *, sibling_hold: bool = True) -> dict[str, Any]:
    """vLLM engine arguments that load the plugin; merge them into AsyncEngineArgs or engine_kwargs.

    ``socket_path`` is the path of a listening ReportReceiver, or None to report nothing. Block
    hashes are SHA-256 over CBOR: the same in every process, and not to be forged.
    """
    settings = PluginSettings(mygo_socket=socket_path, sibling_hold=sibling_hold)
    return {
        "enable_prefix_caching": True,
        "prefix_caching_hash_algo": "sha256_cbor",
        "kv_transfer_config": {
            "kv_connector": "MygoConnector",
            "kv_connector_module_path": "mygo.vllm_plugin.connector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": asdict(settings),
        },
        # The plugin reads the events inside the engine. vLLM's own publisher stays off: it would
        # broadcast token ids and salts to whoever connects.
        "kv_events_config": {"enable_kv_cache_events": True, "publisher": "null"},
    }
