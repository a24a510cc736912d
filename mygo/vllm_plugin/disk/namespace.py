"""What makes stored KV comparable, and the folder that only such KV shares."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from vllm import __version__ as vllm_version
from vllm.platforms import current_platform
from vllm.v1.core.kv_cache_utils import DEFAULT_NONE_HASH_SEED

from mygo.errors import ConfigError
from mygo.vllm_plugin.disk.format import FORMAT_VERSION

_MOST_SLOTS = 256


def facts(config: Any, chunk_bytes: int, identity: Mapping[str, str]) -> dict[str, Any]:
    """Everything that two chunks of equal key must share to be interchangeable.

    ``config`` is vLLM's OffloadingConfig, ``identity`` what it does not tell (weights, compute type ...).
    The scheduler's rows hold the chunks of all tensor- and pipeline-parallel ranks side by side, so the
    degrees of parallelism are part of the layout, and one rank's name is enough. Block hashes chain from a
    seed that is known only after the tiers are built; it follows from PYTHONHASHSEED.

    Raises ConfigError if nothing identifies the weights.
    """
    parallel = config.parallel
    return {
        "format": FORMAT_VERSION,
        "vllm": vllm_version,
        "device": _device(),
        "model": config.model.name,
        "kv_dtype": config.model.dtype,
        "groups": [[each.group_id, each.tokens_per_block, *each.layer_names] for each in config.groups],
        "hash_tokens": config.cache.tokens_per_hash,
        "chunk_blocks": config.cache.blocks_per_chunk,
        "chunk_bytes": chunk_bytes,
        "worker_block_bytes": config.worker_kv_bytes_per_block,
        "layout": [config.kv_cache_layout, config.canonical_layout, config.replicated_layout],
        "parallel": [
            parallel.rank,
            parallel.world_size,
            parallel.tp_size,
            parallel.pp_size,
            parallel.pcp_size,
            parallel.dcp_size,
        ],
        "hash_seed": os.environ.get("PYTHONHASHSEED", DEFAULT_NONE_HASH_SEED),
        "identity": {"weights": weights(config.model.name, identity), **identity},
    }


def digest(namespace_facts: Mapping[str, Any]) -> bytes:
    """32 bytes, equal for equal facts."""
    return hashlib.sha256(json.dumps(namespace_facts, sort_keys=True).encode()).digest()


def weights(model: str, identity: Mapping[str, str]) -> str:
    """What tells one set of weights from another that lies under the same name."""
    if "weights" in identity:
        return identity["weights"]
    folder = Path(model)
    if not folder.is_dir():
        raise ConfigError(
            f"secondary_tiers: {model!r} is no local folder, so another revision of it would be given this "
            'one\'s KV: add "identity": {"weights": REVISION} to the disk tier, or give the model as a path'
        )
    # Sizes alone do not tell a fine-tuned model from its base, and hashing gigabytes would delay the start.
    files = sorted(path for path in folder.iterdir() if path.is_file())
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(states).encode()).hexdigest()


def _device() -> str:
    """The CPU backend packs KV as the processor's instruction set likes it."""
    kind = str(current_platform.device_type)
    if kind != "cpu":
        return kind
    return f"cpu {torch.backends.cpu.get_cpu_capability()} amx={torch.cpu._is_amx_tile_supported()}"


class Slot:
    """A folder of the namespace that belongs to one process, for as long as it lives.

    Engines on one node that share a ``root_dir`` (replicas, data-parallel ranks) each take the first free
    slot, and each may fill it to its own bound. Sharing one folder would need a common index and a common
    eviction order for files that each reads and deletes; a lock that the kernel drops with the process needs
    nothing, and after a restart the slots are taken up again.
    """

    def __init__(self, root_dir: Path, namespace_facts: Mapping[str, Any]) -> None:
        """Raises OSError if the folder cannot be made or every slot is taken."""
        name = re.sub(r"[^\w.-]+", "_", Path(str(namespace_facts["model"])).name)
        home = root_dir / f"{name}-{digest(namespace_facts).hex()[:16]}"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
        self._lock_fd = -1
        for number in range(_MOST_SLOTS):
            fd = os.open(home / f"slot-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            except OSError:
                os.close(fd)
                raise
            self._lock_fd = fd
            self.folder = home / f"slot-{number}"
            self.folder.mkdir(mode=0o700, exist_ok=True)
            break
        else:
            raise OSError(f"all {_MOST_SLOTS} slots of {home} are taken: give this engine another root_dir")
        with contextlib.suppress(FileExistsError), (home / "identity.json").open("x") as file:
            json.dump(namespace_facts, file, indent=2, sort_keys=True)

    def release(self) -> None:
        """Let another process have it. Safe to call again."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
