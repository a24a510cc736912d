"""Memory that an engine's processes share is given back however they end.

vLLM's processes share files in /dev/shm, some 250 MB for a worker's answers and all of the host tier, and
whoever made one removes it as its last act. Processes that are killed, as those of a cluster are when it
stops, have no last act: the files would keep the machine's memory until it restarts. A file without a name is
freed by the kernel with the last process that maps it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_FOLDER = Path("/dev/shm")
_PREFIXES = ("psm_", "vllm_offload_")
"""Python's own name for shared memory, in which vLLM passes messages, and the host tier's."""


def unname(engine: int) -> list[Path]:
    """Remove the names of all such files that an engine (a pid) and the processes below it map.

    To be called when all of them run: nobody can map the files afterwards. Returns what was removed.
    """
    files = sorted({path for pid in _family(engine) for path in _mapped(pid)})
    removed: list[Path] = []
    for path in files:
        with contextlib.suppress(FileNotFoundError):  # whoever made it has ended meanwhile, and removed it
            path.unlink()
            removed.append(path)
    return removed


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    family = [pid]
    for each in family:
        threads: list[Path] = []
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a process that is ending
            threads += Path(f"/proc/{each}/task").glob("*/children")
        for children in threads:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
                family += map(int, children.read_text().split())
    return family


def _mapped(pid: int) -> set[Path]:
    """Named files of shared memory that a process maps; none if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    # "address permissions offset device inode path"; that of a file without a name has " (deleted)" behind it
    paths = {Path(fields[5]) for line in lines if len(fields := line.split()) == 6}
    return {path for path in paths if path.parent == _FOLDER and path.name.startswith(_PREFIXES)}
