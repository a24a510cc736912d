"""How an engine is told to load the plugin, and what the plugin is told. Imports no vLLM."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from mygo.blend.selection import Method
from mygo.blend.variants import BirthKind
from mygo.errors import ConfigError
from mygo.tree.admission import DEFAULT_ORDER, ORDERS
from mygo.tree.policies import DEFAULT_POLICY

_WHERE = "kv_connector_extra_config"
CHUNK_WORKER = "mygo.vllm_plugin.chunks.worker.ChunkWorker"
"""The ``worker_cls`` that chunk reuse needs."""
SCHEDULER = "mygo.vllm_plugin.admission.ordered_scheduler"
"""The ``scheduler_cls`` of the order of admission, and of chunk reuse where steps are scheduled ahead."""


@dataclass(frozen=True, slots=True)
class TierSettings:
    """Where KV may lie besides the device, and who decides what stays where."""

    host_bytes: int = 0
    """Host memory for KV, of all workers of an engine together; 0: no tier but the device."""
    disk_path: str | None = None
    """Folder of the disk tier; None for none. It needs a host tier, which all its data passes through."""
    disk_bytes: int = 0
    policy: str = DEFAULT_POLICY
    """Replacement policy of host and disk, by its name in ``mygo.tree.policies``."""
    device_policy: str = "vllm"
    """Replacement policy of the device; ``vllm``: its own, least recently used."""
    lookahead_share: float = 0.2
    """Part of each tier that waiting requests may protect from eviction; 0: none."""
    prefetch: bool = True
    """Bring what waiting requests need from disk to host memory before their turn."""
    load_gate: bool = True
    """Compute what is computed sooner than loaded."""
    layerwise: bool = True
    """Let host copies run beside the computation where that is sooner."""
    admission: str = DEFAULT_ORDER
    """Which waiting request is admitted next, by its name in ``mygo.tree.admission``."""
    admission_window: int = 32
    """How often a waiting request may be overtaken; 0: first come, first served."""
    protect_short: bool = True
    """Where the engine's ``long_prefill_token_threshold`` bounds a long prompt's part of a step: make that
    still less while a prompt that takes a fraction of its time waits beside it."""
    host_load_s_per_byte: float = 0.0
    """Slow the host's link down to this; for measurements."""
    disk_read_s_per_byte: float = 0.0
    """Slow the disk's reads down to this; for measurements."""

    @classmethod
    def parse(cls, raw: object, where: str) -> TierSettings:
        """Raises ConfigError for an unknown key, a value of the wrong type, or tiers that cannot be."""
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{where}: must be a mapping, not {raw!r}")
        _check_keys(cls, raw, where)
        settings = cls(**raw)
        for entry in fields(cls):
            _check_value(getattr(settings, entry.name), entry.default, f"{where}.{entry.name}")
        _check_choice(settings.admission, tuple(ORDERS), f"{where}.admission")
        if settings.disk_path is not None and not settings.host_bytes:
            raise ConfigError(
                f"{where}.disk_path: what lies on disk passes through host memory: set host_bytes, too"
            )
        if settings.disk_path is not None and not settings.disk_bytes:
            raise ConfigError(f"{where}.disk_bytes: say how much {settings.disk_path} may hold, in bytes")
        if not 0 <= settings.lookahead_share <= 1:
            raise ConfigError(
                f"{where}.lookahead_share: must be between 0 and 1, not {settings.lookahead_share}"
            )
        return settings


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    """Reuse of documents' KV behind other text than it was computed behind: an approximation, which a request
    must ask for."""

    host_bytes: int = 0
    """Host memory for chunks, of all workers of an engine together; 0: none are kept, and requests that ask
    for them are served exactly."""
    repair_share: float = 0.15
    """Part of a document's tokens that is computed anew where it shares no context with its birth."""
    floor_tokens: int = 16
    """At least so many of a reused document's first tokens are computed anew."""
    method: str = Method.FIRST_TOKENS.value
    """Which tokens are computed anew, by its name in ``mygo.blend.selection``."""
    births: str = BirthKind.CONTEXTUAL.value
    """``contextual``: keep what prompts compute behind other documents. ``filler``: only what is computed
    behind neutral documents, by requests that are sent for that purpose."""
    fillers: str = ""
    """Names the neutral documents (their version) behind which documents are to be computed while the engine
    is idle: answers tell which, and who has the engine sends the requests. Empty: none are."""
    max_variants: int = 3
    """Copies of one document, each from another context."""
    load_gate: bool = True
    """Compute what is predicted to take longer to load."""
    layerwise: bool = True
    """Put a layer's part of what is loaded in its place when the layer needs it, not all of it beforehand."""
    guard: bool = True
    """Blend only what comparisons have shown to keep ``kl_bound``. It takes a worker process to compare: an
    engine without ``mygo_socket`` has no guard, and blends whatever asks for it."""
    kl_bound: float = 0.12
    """Nats: largest mean KL of the first token's distribution, exact against blended."""
    guard_state_path: str | None = None
    """Folder in which the guard's evidence outlives the engine, one engine's own; None: it does not."""
    disk_path: str | None = None
    """Folder in which chunks are kept, too; None for none."""
    disk_bytes: int = 0

    @classmethod
    def parse(cls, raw: object, where: str) -> ChunkSettings:
        """Raises ConfigError for an unknown key, or a value that cannot be."""
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{where}: must be a mapping, not {raw!r}")
        _check_keys(cls, raw, where)
        settings = cls(**raw)
        for entry in fields(cls):
            _check_value(getattr(settings, entry.name), entry.default, f"{where}.{entry.name}")
        if settings.disk_path is not None and not (settings.host_bytes and settings.disk_bytes):
            raise ConfigError(
                f"{where}.disk_path: chunks on disk pass through host memory: set host_bytes, and disk_bytes "
                f"for what {settings.disk_path} may hold"
            )
        if settings.repair_share > 1:
            raise ConfigError(f"{where}.repair_share: must be between 0 and 1, not {settings.repair_share}")
        _check_choice(settings.method, tuple(Method), f"{where}.method")
        _check_choice(settings.births, [BirthKind.CONTEXTUAL, BirthKind.FILLER], f"{where}.births")
        return settings


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """The ``kv_connector_extra_config`` of the connector."""

    mygo_socket: str | None = None
    """Unix socket on which a ReportReceiver listens. None: nothing is reported."""
    sibling_hold: bool = True
    """Hold a request while a running one computes blocks that both need."""
    tiers: TierSettings = field(default_factory=TierSettings)
    chunks: ChunkSettings = field(default_factory=ChunkSettings)

    @classmethod
    def parse(cls, extra: Mapping[str, Any]) -> PluginSettings:
        """Raises ConfigError for an unknown key or a value of the wrong type."""
        _check_keys(cls, extra, _WHERE)
        settings = cls(
            **{key: value for key, value in extra.items() if key not in ("tiers", "chunks")},
            tiers=TierSettings.parse(extra.get("tiers") or {}, f"{_WHERE}.tiers"),
            chunks=ChunkSettings.parse(extra.get("chunks") or {}, f"{_WHERE}.chunks"),
        )
        _check_value(settings.mygo_socket, None, f"{_WHERE}.mygo_socket")
        _check_value(settings.sibling_hold, True, f"{_WHERE}.sibling_hold")
        if settings.mygo_socket is None:
            # nobody would compare: a guard would answer exactly for ever
            return replace(settings, chunks=replace(settings.chunks, guard=False))
        return settings


def _check_keys(cls: type, given: Mapping[str, Any], where: str) -> None:
    valid = [entry.name for entry in fields(cls)]
    for key in given:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=1)
            hint = f"did you mean {near[0]}?" if near else f"valid keys: {', '.join(valid)}"
            raise ConfigError(f"{where}.{key}: unknown key, {hint}")


def _check_value(value: object, default: object, name: str) -> None:
    """A key's type is that of its default; one whose default is None names a file, or is null."""
    match default:
        case None:
            good, expected = value is None or isinstance(value, str), "a path, or null"
        case bool():
            good, expected = isinstance(value, bool), "true or false"
        case int():
            good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            expected = "a whole number, 0 or more"
        case float():
            good = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            expected = "a number, 0 or more"
        case _:
            good, expected = isinstance(value, str), "text"
    if not good:
        raise ConfigError(f"{name}: must be {expected}, not {value!r}")


def _check_choice(value: str, choices: Sequence[str], name: str) -> None:
    if value not in choices:
        raise ConfigError(f"{name}: must be one of {', '.join(choices)}, not {value!r}")


def engine_arguments(
    socket_path: str | None = None,
    *,
    sibling_hold: bool = True,
    tiers: TierSettings | None = None,
    chunks: ChunkSettings | None = None,
) -> dict[str, Any]:
    """vLLM engine arguments that load the plugin; merge them into AsyncEngineArgs or engine_kwargs.

    ``socket_path`` is the path of a listening ReportReceiver, or None to report nothing. Block
    hashes are SHA-256 over CBOR: the same in every process, and not to be forged.
    """
    settings = PluginSettings(
        mygo_socket=socket_path,
        sibling_hold=sibling_hold,
        tiers=tiers or TierSettings(),
        chunks=chunks or ChunkSettings(),
    )
    arguments: dict[str, Any] = {
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
    if settings.tiers.admission_window or settings.tiers.protect_short or settings.chunks.host_bytes:
        arguments["scheduler_cls"] = SCHEDULER
    if settings.chunks.host_bytes:
        arguments["worker_cls"] = CHUNK_WORKER
        arguments["kv_transfer_config"]["kv_load_failure_policy"] = "recompute"
    return arguments
