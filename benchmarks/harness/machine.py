"""What this machine has, and what a model takes of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from mygo.errors import ConfigError

_BYTES = {"bfloat16": 2, "float16": 2, "auto": 2, "float32": 4}
_RESERVE_GB = 1.5
"""Left free for page cache and this process."""


def usable_cores() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0)))


def available_gb() -> float:
    """Memory that could be taken now without swapping, less a reserve."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, value = line.split(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024 / 1e9 - _RESERVE_GB
    raise ConfigError("/proc/meminfo has no MemAvailable: this benchmark needs Linux")


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return os.uname().machine


def kv_bytes_per_token(model_path: Path, dtype: str) -> int:
    """Keys and values of all layers, from a Hugging Face ``config.json`` of a plain transformer."""
    config = json.loads((model_path / "config.json").read_text())
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return int(2 * config["num_hidden_layers"] * heads * head_dim * _BYTES[dtype])
