"""Starting and stopping the server process of a cluster on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from mygo.cli import state
from mygo.cli.state import ServerState
from mygo.config import Config
from mygo.errors import MygoError, Unavailable

STOP_GRACE_S = 30.0
"""How long the server may drain and take Ray down before it is killed."""
_FOLLOW_S = 5.0
"""How long the processes of a server that has ended may take to follow it."""
_READY_POLL_S = 1.0
"""Each look asks every part of a cluster that is busy starting."""
_LOG_LINES = 15
_SPARE_S = 120.0
"""Beyond the workers' own time-out: Ray itself, retrieval, the journal's replay."""


class ServerFailed(MygoError):
    """The server process ended, or said that it cannot serve; the message ends with its log."""


@dataclass(frozen=True, slots=True)
class Stopped:
    name: str
    killed: int
    """Processes that had to be killed because they outlived the grace period; 0 for a clean stop."""
    took_s: float


def url_of(config: Config) -> str:
    """Where clients of this machine reach the cluster."""
    host = "127.0.0.1" if config.http.host in ("0.0.0.0", "::") else config.http.host
    return f"http://[{host}]:{config.http.port}" if ":" in host else f"http://{host}:{config.http.port}"


def start(config: Config, config_path: Path | None) -> ServerState:
    """Spawn the server, detached from this terminal, and remember it. Returns at once."""
    name = config.cluster.name
    log, progress = _fresh_files(name)
    with log.open("wb") as log_file:
        process = subprocess.Popen(
            _command(config_path, progress),
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return state.remember(
            name, process.pid, url=url_of(config), config=_absolute(config_path), log=log, progress=progress
        )
    except BaseException:  # `mygo down` could not find it
        process.terminate()
        raise


def become_server(config: Config, config_path: Path | None) -> None:
    """Replace this process by the server, logging to the terminal. Does not return."""
    log, progress = _fresh_files(config.cluster.name)
    # exec keeps pid and start time, so that `mygo down` from another terminal finds this one too
    state.remember(
        config.cluster.name,
        os.getpid(),
        url=url_of(config),
        config=_absolute(config_path),
        log=log,
        progress=progress,
    )
    command = _command(config_path, progress)
    os.execv(command[0], command)


def wait_ready(server: ServerState, timeout_s: float, say: Callable[[str, str], None]) -> float:
    """Wait until ``/readyz`` answers 200, passing each new (phase, detail) to ``say``.

    Returns the seconds it took. Raises ServerFailed if the server ends or reports failure, Unavailable
    if the time runs out (the server then still runs).
    """
    began_s = time.monotonic()
    told = 0
    failure: str | None = None
    with httpx.Client(timeout=5.0, trust_env=False) as http:
        while True:
            lines = _progress(Path(server.progress))
            for phase, detail in lines[told:]:
                if phase == "failed":
                    failure = detail
                else:
                    say(phase, detail)
            told = len(lines)
            if failure is not None or not server.alive:
                raise ServerFailed(f"{failure or 'the server ended before it was ready'}\n{tail(server)}")
            if _answers(http, server.url):
                return time.monotonic() - began_s
            if time.monotonic() - began_s > timeout_s:
                raise Unavailable(
                    f"the cluster was not ready after {timeout_s:.0f} s and still starts; `mygo status` "
                    f"shows how far it is, workers.start_timeout_s gives it longer\n{tail(server)}"
                )
            time.sleep(_READY_POLL_S)


def start_timeout_s(config: Config) -> float:
    return config.workers.start_timeout_s + _SPARE_S


def stop(server: ServerState, grace_s: float = STOP_GRACE_S) -> Stopped:
    """End a server: SIGTERM, then SIGKILL for whatever of its processes outlives the grace period."""
    began_s = time.monotonic()
    if not server.alive:
        state.forget(server.name)
        return Stopped(server.name, 0, 0.0)
    family = {server.pid: server.start_ticks} | state.descendants(server.pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGTERM)
    while server.alive and time.monotonic() - began_s < grace_s:
        family |= state.descendants(server.pid)
        time.sleep(0.2)
    if not server.alive:
        _wait_gone(family, min(grace_s, _FOLLOW_S))
    killed = 0
    for pid, ticks in family.items():
        if state.start_ticks(pid) == ticks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    _wait_gone(family, _FOLLOW_S)
    state.forget(server.name)
    return Stopped(server.name, killed, time.monotonic() - began_s)


def tail(server: ServerState) -> str:
    """The log's last lines and its path."""
    try:
        text = Path(server.log).read_bytes()[-20_000:].decode(errors="replace")
    except OSError:
        text = ""
    lines = [_plain(line) for line in text.splitlines() if line.strip()][-_LOG_LINES:]
    return "\n".join([*(f"  | {line}" for line in lines), f"the whole log: {server.log}"])


def _plain(line: str) -> str:
    """A log line as people read it; Ray writes some as JSON."""
    try:
        entry = json.loads(line)
        return f"{entry['asctime']} {entry['levelname']} {entry['message']}"
    except (ValueError, KeyError, TypeError):
        return line


def _wait_gone(family: dict[int, int], at_most_s: float) -> None:
    """Wait until all these processes have ended, or the time is over."""
    deadline_s = time.monotonic() + at_most_s
    while time.monotonic() < deadline_s:
        if not any(state.start_ticks(pid) == ticks for pid, ticks in family.items()):
            return
        time.sleep(0.05)


def _command(config_path: Path | None, progress: Path) -> list[str]:
    config = [] if config_path is None else [_absolute(config_path)]
    return [sys.executable, "-m", "mygo.serve.main", *config, "--state", str(progress)]


def _fresh_files(name: str) -> tuple[Path, Path]:
    """Log and progress file of a new start; the last start's log is kept beside it."""
    directory = state.state_dir()
    directory.mkdir(parents=True, exist_ok=True)
    log, progress = directory / f"{name}.log", directory / f"{name}.progress"
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    progress.unlink(missing_ok=True)
    return log, progress


def _progress(path: Path) -> list[tuple[str, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []
    complete = text[: text.rfind("\n") + 1]  # the last line may be half written
    entries = [json.loads(line) for line in complete.splitlines()]
    return [(entry["phase"], entry["detail"]) for entry in entries]


def _answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def _absolute(path: Path | None) -> str:
    return "" if path is None else str(path.absolute())
