"""The calibration of an emulated engine: what a model on a device takes, in seconds, with its source.

A profile is a JSON file: see ``EngineProfile`` for the fields, ``profiles/*.json`` for examples,
``roofline`` for how those were derived and ``calibration`` for how one is measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from mygo.errors import ConfigError
from mygo.tree import profile as grids
from mygo.types import ProfileGrid


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """What an engine step costs besides the prompt tokens in it: the sum of these three."""

    step_s: float
    """What a step costs whatever it holds: one pass over the weights, scheduling, launch."""
    sequence_s: float
    """Per sequence that decodes in the step."""
    context_token_s: float
    """Per token of KV that the decoding sequences read."""


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """Everything that an emulated engine needs to know of a model on a device."""

    name: str
    model: str
    device: str
    source: str
    """Where the numbers come from."""
    prefill: ProfileGrid
    """T(cached, new) in seconds, for one prompt alone in the engine."""
    decode: DecodeCost
    kv_bytes_per_token: int
    host_load_s_per_token: float
    """To copy one token's KV from host memory to the device."""
    disk_load_s_per_token: float
    """To read one token's KV from the disk tier into host memory."""
    layers: int = 1
    """Of the model. A load beside the computation hides all of them but the first."""
    derivation: Mapping[str, Any] = field(default_factory=dict)
    """The inputs from which the numbers were computed or measured."""

    def slowed(self, scale: float) -> EngineProfile:
        """The same device with every duration multiplied by ``scale``."""
        grid = self.prefill
        rows = tuple(tuple(seconds * scale for seconds in row) for row in grid.seconds)
        decode = self.decode
        return replace(
            self,
            prefill=replace(grid, seconds=rows),
            decode=DecodeCost(
                decode.step_s * scale, decode.sequence_s * scale, decode.context_token_s * scale
            ),
            host_load_s_per_token=self.host_load_s_per_token * scale,
            disk_load_s_per_token=self.disk_load_s_per_token * scale,
        )

    def device_tokens(self, kv_cache_bytes: int) -> int:
        """Tokens that fit into ``kv_cache_bytes`` of device memory."""
        return kv_cache_bytes // self.kv_bytes_per_token


def shipped() -> list[str]:
    """Names of the profiles that come with MyGO."""
    folder = resources.files("mygo.emulation") / "profiles"
    return sorted(
        entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")
    )


def load(name_or_path: str) -> EngineProfile:
    """A shipped profile by name, or one from a JSON file.

    Raises ConfigError that names the file and what is wrong with it, or the names that exist.
    """
    if "/" not in name_or_path and not name_or_path.endswith(".json"):
        if name_or_path not in shipped():
            raise ConfigError(
                f"engine profile {name_or_path!r} does not exist: use {', '.join(shipped())}, "
                "or the path of a JSON file"
            )
        text = (resources.files("mygo.emulation") / "profiles" / f"{name_or_path}.json").read_text("utf-8")
    else:
        try:
            text = Path(name_or_path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"engine profile {name_or_path}: cannot be read ({error})") from error
    try:
        return from_dict(json.loads(text))
    except ValueError as error:
        raise ConfigError(f"engine profile {name_or_path}: {error}") from error


def store(path: Path, profile: EngineProfile) -> None:
    """Write a profile as the JSON that ``load`` reads. Raises OSError."""
    path.write_text(json.dumps(to_dict(profile), indent=2) + "\n", encoding="utf-8")


def to_dict(profile: EngineProfile) -> dict[str, Any]:
    """The profile as plain dicts, lists and numbers, for JSON."""
    data = {entry.name: getattr(profile, entry.name) for entry in fields(EngineProfile)}
    decode = {entry.name: getattr(profile.decode, entry.name) for entry in fields(DecodeCost)}
    return {
        **data,
        "prefill": grids.to_dict(profile.prefill),
        "decode": decode,
        "derivation": dict(profile.derivation),
    }


def from_dict(data: Any) -> EngineProfile:
    """The checked inverse of ``to_dict``. Raises ValueError that names the key that is wrong."""
    if not isinstance(data, dict):
        raise ValueError(f"must hold an object, not a {type(data).__name__}")
    known = {entry.name for entry in fields(EngineProfile)}
    if unknown := sorted(data.keys() - known):
        raise ValueError(f"unknown key {unknown[0]!r}; valid keys: {', '.join(sorted(known))}")
    if missing := sorted(known - {"derivation", "layers"} - data.keys()):
        raise ValueError(f"lacks {missing[0]!r}")
    decode = data["decode"]
    if not isinstance(decode, dict) or decode.keys() != {entry.name for entry in fields(DecodeCost)}:
        raise ValueError("decode must hold step_s, sequence_s and context_token_s")
    if not isinstance(data["prefill"], dict):
        raise ValueError("prefill must hold cached_tokens, new_tokens and seconds")
    profile = EngineProfile(
        **{
            **data,
            "prefill": grids.from_dict(data["prefill"]),
            "decode": DecodeCost(**{name: _seconds(f"decode.{name}", decode[name]) for name in decode}),
            "host_load_s_per_token": _seconds("host_load_s_per_token", data["host_load_s_per_token"]),
            "disk_load_s_per_token": _seconds("disk_load_s_per_token", data["disk_load_s_per_token"]),
        }
    )
    if profile.decode.step_s == 0:
        raise ValueError("decode.step_s must be positive: an engine step takes time")
    for name in ("kv_bytes_per_token", "layers"):
        count = getattr(profile, name)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} must be a positive integer, not {count!r}")
    return profile


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be seconds, 0 or more, not {value!r}")
    return float(value)
