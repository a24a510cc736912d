"""Processes below another one: which they are, what they are called, what CPU time they have used.

Reads ``/proc``, so Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


@dataclass(frozen=True, slots=True)
class Process:
    parent: int
    cpu_s: float
    """User and system seconds of all its threads, in steps of a clock tick (10 ms)."""


def running() -> dict[int, Process]:
    """Every process of this machine by pid."""
    found: dict[int, Process] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(*_GONE):
                # the name in brackets may hold spaces and brackets itself
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                ticks = int(fields[11]) + int(fields[12])
                found[int(entry.name)] = Process(int(fields[1]), ticks / _TICKS_PER_S)
    return found


def below(root: int, processes: Mapping[int, Process]) -> set[int]:
    """The pids of all descendants of ``root``, itself not included."""
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    found: set[int] = set()
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def command(pid: int) -> list[str]:
    """The command line; empty for a process that is gone or belongs to the kernel."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except _GONE:
        return []
    return [part for part in raw.decode(errors="replace").split("\0") if part]


def label(arguments: list[str]) -> str:
    """A short name for a command line: a Ray title, a script, or a program."""
    if not arguments:
        return "gone"
    title = arguments[0].split()[0]
    if title.startswith("ray::"):
        # a replica at work carries its actor's name in front, and the method behind
        return title.removeprefix("ray::").split("ServeReplica:")[-1].split(".")[0]
    program = Path(title).name
    if program.startswith("python"):
        scripts = [each for each in arguments[1:] if each.endswith(".py")]
        return Path(scripts[0]).name if scripts else program
    return program


def confine(pids: Iterable[int], cores: Iterable[int]) -> None:
    """Keep all present threads of ``pids``, and what they start from now on, on ``cores``."""
    for pid in pids:
        with contextlib.suppress(*_GONE):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(*_GONE):
                    os.sched_setaffinity(int(thread.name), cores)


def kill_tree(root: int, timeout_s: float = 30.0) -> int:
    """SIGKILL ``root`` and everything below it, as a power cut would; returns how many there were.

    The pids are listed before the first of them dies: orphans could not be found afterwards.
    Raises TimeoutError if some of them live on.
    """
    pids = below(root, running()) | {root}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline_s = time.monotonic() + timeout_s
    while alive := [pid for pid in pids if command(pid)]:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"processes {alive} survived SIGKILL for {timeout_s:g} s")
        time.sleep(0.05)
    return len(pids)
