"""Engine profiles of devices that are not at hand, from a model's shape and a device's data sheet.

    python -m mygo.emulation.roofline FILE     # writes the numbers of a profile anew from its derivation

A step takes the longer of computing its tokens and reading the weights (the roofline of Williams et al.,
CACM 52(4), 2009), with the shares of the data sheet's peaks that serving engines reach. Operations per
token are those of Kaplan et al. (arXiv 2001.08361): 2 per parameter, and 4 x layers x width per token of
context. It is an estimate: a profile that was measured is better.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mygo.emulation import profile as profiles
from mygo.emulation.profile import DecodeCost, EngineProfile
from mygo.errors import ConfigError, MygoError
from mygo.types import ProfileGrid

CACHED_TOKENS = (0, 2048, 8192, 32768)
NEW_TOKENS = (1, 128, 512, 2048, 8192, 32768)
_SIGNIFICANT = 4


@dataclass(frozen=True, slots=True)
class Derivation:
    """What a profile is computed from."""

    parameters: float
    """All of them: they are read in each step."""
    computed_parameters: float
    """Those that every prompt token passes through: no embedding, and no output layer, which a prompt
    needs for its last token only."""
    layers: int
    width: int
    """Query heads times head size."""
    kv_heads: int
    head_size: int
    bytes_per_value: int
    """Of weights and of KV."""
    peak_flops: float
    """Dense operations per second at that precision."""
    peak_memory_bytes_per_s: float
    prefill_utilization: float
    """Share of ``peak_flops`` that a long prefill reaches."""
    memory_utilization: float
    """Share of ``peak_memory_bytes_per_s`` that decoding reaches."""
    step_overhead_s: float
    """Scheduling, launch and sampling per step."""
    sequence_overhead_s: float
    """The engine's own work per decoding sequence and step."""
    host_bytes_per_s: float
    """From host memory to the device, as reached in practice."""
    disk_bytes_per_s: float
    """From the disk tier into host memory, as reached in practice."""


def derive(name: str, model: str, device: str, source: str, inputs: Derivation) -> EngineProfile:
    """The profile that follows from ``inputs``. Numbers are rounded to 4 significant digits."""
    kv_bytes_per_token = 2 * inputs.layers * inputs.kv_heads * inputs.head_size * inputs.bytes_per_value
    memory_bytes_per_s = inputs.peak_memory_bytes_per_s * inputs.memory_utilization
    weights_s = inputs.parameters * inputs.bytes_per_value / memory_bytes_per_s
    flops_per_s = inputs.peak_flops * inputs.prefill_utilization

    def prefill_s(cached_tokens: int, new_tokens: int) -> float:
        context = cached_tokens + (new_tokens + 1) / 2  # mean over the new tokens, causal
        flops = new_tokens * (2 * inputs.computed_parameters + 4 * inputs.layers * inputs.width * context)
        read_s = weights_s + cached_tokens * kv_bytes_per_token / memory_bytes_per_s
        return inputs.step_overhead_s + max(flops / flops_per_s, read_s)

    return EngineProfile(
        name=name,
        model=model,
        device=device,
        source=source,
        prefill=ProfileGrid(
            CACHED_TOKENS,
            NEW_TOKENS,
            tuple(tuple(_rounded(prefill_s(cached, new)) for new in NEW_TOKENS) for cached in CACHED_TOKENS),
        ),
        decode=DecodeCost(
            step_s=_rounded(inputs.step_overhead_s + weights_s),
            sequence_s=_rounded(inputs.sequence_overhead_s),
            context_token_s=_rounded(kv_bytes_per_token / memory_bytes_per_s),
        ),
        kv_bytes_per_token=kv_bytes_per_token,
        host_load_s_per_token=_rounded(kv_bytes_per_token / inputs.host_bytes_per_s),
        disk_load_s_per_token=_rounded(kv_bytes_per_token / inputs.disk_bytes_per_s),
        layers=inputs.layers,
        derivation=asdict(inputs),
    )


def derived_again(profile: EngineProfile) -> EngineProfile:
    """The same profile, computed anew. Raises ConfigError if its derivation is not one of this kind."""
    return derive(
        profile.name, profile.model, profile.device, profile.source, _derivation(profile.derivation)
    )


def _derivation(data: Mapping[str, Any]) -> Derivation:
    wanted = {entry.name for entry in fields(Derivation)}
    if wrong := sorted(wanted ^ data.keys()):
        raise ConfigError(
            f"derivation: {wrong[0]!r} is missing or unknown; it needs {', '.join(sorted(wanted))}"
        )
    return Derivation(**data)


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.{_SIGNIFICANT}g}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="write a profile's numbers anew from its derivation")
    parser.add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    try:
        profiles.store(options.file, derived_again(profiles.load(str(options.file))))
    except (MygoError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
