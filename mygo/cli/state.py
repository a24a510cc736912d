"""What the command line remembers of the clusters it started on this machine: one JSON file each.

A pid alone may be reused by a stranger after a crash or a reboot, so a server is named by its pid, the
kernel's start time of that pid, and the boot it happened in. Nothing is ever signalled unless all agree.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from mygo.errors import ConfigError

_START_TICKS = 19
"""Index of field 22, starttime, of /proc/PID/stat after the command name (proc(5))."""
_PARENT = 1


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server process that ``mygo up`` started, dead or alive."""

    name: str
    pid: int
    start_ticks: int
    """Clock ticks between boot and the process's start."""
    boot_id: str
    url: str
    config: str
    """Absolute path of the configuration file; empty for the defaults."""
    log: str
    progress: str
    """File to which the server appends one JSON object per phase."""

    @property
    def alive(self) -> bool:
        return self.boot_id == _boot_id() and start_ticks(self.pid) == self.start_ticks


def state_dir() -> Path:
    """``$XDG_STATE_HOME/mygo``, by default ``~/.local/state/mygo``."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "mygo"


def remember(name: str, pid: int, *, url: str, config: str, log: Path, progress: Path) -> ServerState:
    """Write the state of a running process; raises ConfigError if it is gone or the disk refuses."""
    ticks = start_ticks(pid)
    if ticks is None:
        raise ConfigError(f"the server (pid {pid}) ended at once; see {log}")
    state = ServerState(name, pid, ticks, _boot_id(), url, config, str(log), str(progress))
    path = _path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(dataclasses.asdict(state), indent=1) + "\n")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error}); set XDG_STATE_HOME to a folder") from error
    return state


def recall(name: str) -> ServerState | None:
    """The state file of a cluster; None if there is none or it cannot be read."""
    try:
        return ServerState(**json.loads(_path(name).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def forget(name: str) -> None:
    _path(name).unlink(missing_ok=True)


def living() -> list[ServerState]:
    """Every cluster of this user whose server runs, by name."""
    states = (recall(path.stem) for path in sorted(state_dir().glob("*.json")))
    return [state for state in states if state is not None and state.alive]


def start_ticks(pid: int) -> int | None:
    """When a process started, in the kernel's ticks; None if there is none (or only its zombie)."""
    fields = _stat(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[_START_TICKS])


def descendants(pid: int) -> dict[int, int]:
    """Every process below ``pid``, as pid -> start ticks."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[_PARENT]), []).append(int(entry.name))
            ticks[int(entry.name)] = int(fields[_START_TICKS])
    below: dict[int, int] = {}
    frontier = [pid]
    while frontier:
        for child in children.get(frontier.pop(), []):
            below[child] = ticks[child]
            frontier.append(child)
    return below


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third (the state) on; the name before may hold spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _path(name: str) -> Path:
    return state_dir() / f"{name}.json"
