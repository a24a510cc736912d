"""The key under which sharing domains become salts: made once, the same for the whole cluster."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

SECRET_BYTES = 32


def cluster_secret(path: Path) -> bytes:
    """Read the secret, or make it once; only its owner may read it.

    It is there wholly or not at all: an empty key, left by a crash or a full disk, anybody could guess.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        secret = secrets.token_bytes(SECRET_BYTES)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return secret
