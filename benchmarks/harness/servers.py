"""Starts a system's server apart from the others, and says what CPU time each has used."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import processes
from benchmarks.harness.plan import Member
from benchmarks.systems import SYSTEMS
from benchmarks.systems.system import Server, Settings

Start = Callable[[Member, Settings, Path, tuple[int, ...]], Server]
"""``start(member, settings, folder, spare)``: its server, ready; ``folder`` is empty and its own."""


def start_apart(member: Member, settings: Settings, folder: Path, spare: tuple[int, ...]) -> Server:
    """Start it, then keep all but its engine's workers on the cores ``spare``.

    What idle systems do in the background (Ray's is a third of a core) would otherwise slow down whoever is
    measured, and not itself. Raises RuntimeError if it does not start or has no engine that can be told.
    """
    os.sched_setaffinity(0, settings.cores)  # children inherit it, and OpenMP takes no core beyond it
    try:
        server = SYSTEMS[member.system].start(folder, settings)
    finally:
        processes.confine([os.getpid()], spare)
    pids = _tree(server, processes.running())
    engines = {pid for pid in pids if " ".join(processes.command(pid)).startswith(server.engine_title)}
    if not engines:
        server.stop()
        raise RuntimeError(
            f"{member.label} has no process called {server.engine_title}: nothing to keep apart"
        )
    processes.confine(pids - engines, spare)
    return server


def cpu_s(servers: Mapping[str, Server]) -> dict[str, float]:
    """CPU seconds of each server's processes since they started."""
    running = processes.running()
    return {
        label: sum(running[pid].cpu_s for pid in _tree(server, running)) for label, server in servers.items()
    }


def _tree(server: Server, running: Mapping[int, processes.Process]) -> set[int]:
    """The pids of all its processes."""
    pids = set(server.root_pids)
    for root in server.root_pids:
        pids |= processes.below(root, running)
    return pids & running.keys()
