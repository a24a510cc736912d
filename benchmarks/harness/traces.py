"""The trace of a run: a preset, generated, or a recorded one, from a file."""

from __future__ import annotations

from pathlib import Path

from mygo.workloads.cut import first, scaled
from mygo.workloads.files import load
from mygo.workloads.presets import preset as preset_named
from mygo.workloads.trace import Trace


def load_trace(*, preset: str, path: Path | None, seed: int, requests: int, token_scale: float) -> Trace:
    """``requests`` requests with texts ``token_scale`` as long; ``path`` goes before ``preset``.

    Raises BadTrace for an unknown preset, and for a file or a scale that makes no trace.
    """
    if path is not None:
        return scaled(first(load(path), requests), token_scale=token_scale)
    return preset_named(preset).trace(seed, requests=requests, token_scale=token_scale)
