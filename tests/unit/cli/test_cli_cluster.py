"""Starting, finding and stopping server processes, with real child processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mygo.cli import cluster, state
from mygo.cli.client import find_url, pick_server
from mygo.config import Config
from mygo.errors import BadRequest, ConfigError, NotFound, Unavailable

MEEK = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {MEEK}"
# a server whose child ignores SIGTERM and would outlive it
PARENT = f"""
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.pause()
"""


@pytest.fixture
def spawn() -> Iterator[object]:
    processes: list[subprocess.Popen[str]] = []

    def start(code: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        processes.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.wait()


def remember(
    pid: int, tmp_path: Path, name: str = "mygo", url: str = "http://127.0.0.1:9"
) -> state.ServerState:
    return state.remember(name, pid, url=url, config="", log=tmp_path / "log", progress=tmp_path / "progress")


def test_state_is_alive_until_the_process_ends(spawn, tmp_path: Path) -> None:
    process, _ = spawn(MEEK)
    remember(process.pid, tmp_path)
    recalled = state.recall("mygo")
    assert recalled is not None and recalled.alive
    process.kill()
    process.wait()
    assert not recalled.alive
    assert state.living() == []


def test_state_is_dead_when_the_pid_belongs_to_another_process(spawn, tmp_path: Path) -> None:
    process, _ = spawn(MEEK)
    ours = remember(process.pid, tmp_path)
    path = state.state_dir() / "mygo.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "start_ticks": ours.start_ticks - 1}))
    stranger = state.recall("mygo")
    assert stranger is not None and not stranger.alive
    cluster.stop(stranger)
    assert process.poll() is None, "a process that is not ours was signalled"
    assert state.recall("mygo") is None


def test_recall_gives_none_when_the_file_is_damaged(tmp_path: Path) -> None:
    state.state_dir().mkdir(parents=True)
    (state.state_dir() / "mygo.json").write_text('{"name": "mygo"')
    assert state.recall("mygo") is None


def test_stop_ends_the_process_when_it_obeys(spawn, tmp_path: Path) -> None:
    process, _ = spawn(MEEK)
    stopped = cluster.stop(remember(process.pid, tmp_path))
    assert process.wait(5) == -signal.SIGTERM
    assert stopped.killed == 0
    assert state.recall("mygo") is None


def test_stop_kills_when_the_grace_period_is_over(spawn, tmp_path: Path) -> None:
    process, _ = spawn(STUBBORN)
    stopped = cluster.stop(remember(process.pid, tmp_path), grace_s=0.3)
    assert process.wait(5) == -signal.SIGKILL
    assert stopped.killed == 1


def test_stop_kills_children_when_they_outlive_the_server(spawn, tmp_path: Path) -> None:
    """Scenario: the server exits at SIGTERM, but a process that it started does not."""
    process, child = spawn(PARENT)
    assert int(child) in state.descendants(process.pid)
    stopped = cluster.stop(remember(process.pid, tmp_path), grace_s=3.0)
    assert stopped.killed == 1
    assert state.start_ticks(int(child)) is None


def test_wait_ready_shows_the_log_when_the_server_dies(spawn, tmp_path: Path) -> None:
    process, _ = spawn(MEEK)
    server = remember(process.pid, tmp_path)
    (tmp_path / "log").write_text("first\nsomething went wrong\n")
    process.kill()
    process.wait()
    with pytest.raises(cluster.ServerFailed, match=r"(?s)ended before.*something went wrong.*whole log"):
        cluster.wait_ready(server, 5.0, lambda phase, detail: None)


def test_wait_ready_gives_the_reason_when_the_server_reports_failure(spawn, tmp_path: Path) -> None:
    process, _ = spawn(MEEK)
    server = remember(process.pid, tmp_path)
    lines = [{"phase": "ray", "detail": "starting"}, {"phase": "failed", "detail": "no such model"}]
    (tmp_path / "progress").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"phase": "ha')
    said: list[tuple[str, str]] = []
    with pytest.raises(cluster.ServerFailed, match="no such model"):
        cluster.wait_ready(server, 5.0, lambda phase, detail: said.append((phase, detail)))
    assert said == [("ray", "starting")]


def test_wait_ready_gives_up_when_the_time_is_over(spawn, tmp_path: Path) -> None:
    process, _ = spawn(MEEK)
    with pytest.raises(Unavailable, match="start_timeout_s"):
        cluster.wait_ready(remember(process.pid, tmp_path), 0.4, lambda phase, detail: None)


def test_find_url_prefers_the_option_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYGO_URL", "http://env:1/")
    assert find_url("http://option:2/", None) == "http://option:2"
    assert find_url(None, None) == "http://env:1"


def test_pick_server_asks_which_when_several_run(spawn, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no cluster runs"):
        pick_server(None)
    process, _ = spawn(MEEK)
    remember(process.pid, tmp_path, name="one")
    assert pick_server(None).name == "one"
    remember(os.getpid(), tmp_path, name="two")
    with pytest.raises(BadRequest, match="one, two"):
        pick_server(None)
    assert pick_server("two").pid == os.getpid()
    with pytest.raises(NotFound, match="no cluster named three"):
        pick_server("three")


def test_start_ticks_are_none_when_only_a_zombie_is_left() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    deadline_s = time.monotonic() + 10
    while state.start_ticks(process.pid) is not None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert Path(f"/proc/{process.pid}").exists()
    assert state.start_ticks(process.pid) is None
    process.wait()


def test_start_leaves_nothing_running_when_its_state_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def refuse(name: str, pid: int, **_: object) -> state.ServerState:
        started.append(pid)
        raise ConfigError("the disk is full")

    monkeypatch.setattr(cluster, "_command", lambda *_: [sys.executable, "-c", MEEK])
    monkeypatch.setattr(state, "remember", refuse)
    with pytest.raises(ConfigError, match="full"):
        cluster.start(Config(), None)
    deadline_s = time.monotonic() + 20
    while state.start_ticks(started[0]) is not None:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
