"""Folders for Unix sockets, which processes that were killed leave behind and later ones remove."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "mygo-engine-"


def socket_folder() -> Path:
    """Make a folder that only this user can enter; it stays as long as this process.

    Removes those of processes that ended: each folder is locked by the process that made it, and the
    kernel releases locks however a process ends. In the system's folder for temporary files, as the path
    of a socket must stay below 108 bytes.
    """
    parent = Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # until the process ends: it is never closed
        except FileNotFoundError:
            continue
        if folder.exists():  # else another process found it before it was locked
            return folder
        os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another user's, or removed by another process that starts
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)
