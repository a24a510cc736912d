"""How fast a named GPU loads KV in comparison with computing it, so that a CPU can be slowed down to it.

On a CPU a host copy takes a few ten-thousandths of what computing the same tokens takes; on a GPU it is a
good part. Tiers that are measured without this look a hundred times better than they will be.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from benchmarks.systems.system import Throttle
from mygo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Ratios:
    """Seconds to load a token's KV from a tier, over seconds to compute the token."""

    gpu: str
    host: float
    disk: float
    source: str

    def throttle(self, prefill_s_per_token: float) -> Throttle:
        """The same ratios on a machine that computes a token in ``prefill_s_per_token``."""
        return Throttle(self.gpu, self.host * prefill_s_per_token, self.disk * prefill_s_per_token)


GPUS = {
    "h100": Ratios(
        gpu="h100",
        # an 8B Llama keeps 128 KiB of KV per token and computes one in about 40 microseconds
        host=0.07,  # 2.8 microseconds: 47 GB/s over PCIe 5 x16
        disk=0.5,  # 20 microseconds: 6.5 GB/s from one NVMe drive
        source="Llama-3-8B in bfloat16 on one H100: 40 us of prefill per token, 47 GB/s from host memory, "
        "6.5 GB/s from one NVMe drive",
    ),
}


def ratios(gpu: str) -> Ratios:
    """Raises ConfigError for a GPU that has no figures here."""
    if gpu not in GPUS:
        near = difflib.get_close_matches(gpu, GPUS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(GPUS)}"
        raise ConfigError(f"--throttle {gpu}: no figures for this GPU; {hint}")
    return GPUS[gpu]
