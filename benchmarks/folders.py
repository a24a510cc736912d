"""Folders that results are written to."""

from __future__ import annotations

import os
from pathlib import Path

from mygo.errors import ConfigError


def made(folder: Path) -> Path:
    """``folder``, made if there is none. Raises ConfigError if it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: no folder can be there ({error}); give another one") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--out {folder}: cannot be written to; give another folder")
    return folder


def made_empty(folder: Path) -> Path:
    """The same; raises ConfigError also if it holds anything."""
    if any(made(folder).iterdir()):
        raise ConfigError(f"--out {folder}: holds other files; give an empty or a new folder")
    return folder
