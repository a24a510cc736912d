"""The systems under test. A row is an object with the attributes of ``system.System``, in ``SYSTEMS``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from benchmarks.systems import lmcache, mygo_rows, sglang, vllm, vllm_offload
from benchmarks.systems.system import System
from mygo.errors import ConfigError

_ROWS: tuple[System, ...] = (*vllm.ROWS, *vllm_offload.ROWS, *lmcache.ROWS, *sglang.ROWS, *mygo_rows.ROWS)
SYSTEMS = {system.name: system for system in _ROWS}
BASELINE = vllm.VLLM.name
"""What ratios compare with, unless the run does without it: then its first system."""


def choose(names: Sequence[str]) -> list[str]:
    """The names, checked. Raises ConfigError for one that is unknown or cannot run here."""
    for name in names:
        if name not in SYSTEMS:
            near = difflib.get_close_matches(name, SYSTEMS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(SYSTEMS)}"
            raise ConfigError(f"--systems {name}: there is no such system; {hint}")
        if problem := SYSTEMS[name].problem():
            raise ConfigError(f"--systems {name}: {problem}")
    if not names:
        raise ConfigError(f"--systems: name at least one of {', '.join(SYSTEMS)}")
    return list(names)
