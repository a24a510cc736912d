"""One real cluster for all tests of this folder: two vLLM workers, two FAISS shards, two tenants."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from openai import OpenAI

from mygo.config import ClusterConfig

START_S = 600.0
MODEL = "smollm2-135m-instruct"


@dataclass
class Cluster:
    """A running server process and how to reach it."""

    url: str
    process: subprocess.Popen[bytes]
    config: dict[str, Any]
    log: Path

    def client(self, key: str = "sk-alice", **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, timeout=120.0, **{"max_retries": 0} | options)

    def status(self) -> dict[str, Any]:
        headers = {"Authorization": "Bearer sk-alice"}
        answer = httpx.get(f"{self.url}/v1/mygo/status", headers=headers, timeout=30.0, trust_env=False)
        status: dict[str, Any] = answer.raise_for_status().json()
        return status

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10.0, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_ready(self, timeout_s: float = START_S) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not self.ready():
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()[-5000:]}"
            assert time.monotonic() < deadline_s, f"not ready:\n{self.log.read_text()[-5000:]}"
            time.sleep(0.5)

    def processes(self, name: str) -> list[int]:
        """Pids below the server whose name begins with ``name``."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command.startswith(name) and self.process.pid in _ancestors(int(entry.name)):
                    found.append(int(entry.name))
            except (OSError, ProcessLookupError):
                continue
        return found


def _ancestors(pid: int) -> set[int]:
    ancestors: set[int] = set()
    while pid > 1:
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rsplit(")", 1)[1].split()[1])
        ancestors.add(pid)
    return ancestors


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_cluster(folder: Path, **overrides: dict[str, Any]) -> Cluster:
    """Start a server in a folder of its own and wait until it is ready."""
    settings: dict[str, dict[str, Any]] = {
        "cluster": {"data_dir": str(folder / "data"), "cache_dir": str(ClusterConfig().cache_dir)},
        "http": {"port": free_port(), "api_keys": {"sk-alice": "alice", "sk-bob": "bob"}},
        # about 9,000 tokens of device KV per worker: small enough for tests to overflow
        "model": {"max_context_tokens": 4096, "kv_cache_bytes": 208_000_000},
        "prompt": {"default_max_tokens": 24},
    }
    for section, values in overrides.items():
        settings.setdefault(section, {}).update(values)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    log = folder / "server.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mygo.serve.main", str(path), "--state", str(folder / "progress")],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    cluster = Cluster(f"http://127.0.0.1:{settings['http']['port']}", process, settings, log)
    try:
        cluster.wait_ready()
    except BaseException:
        stop_cluster(cluster)
        raise
    return cluster


def stop_cluster(cluster: Cluster) -> None:
    if cluster.process.poll() is None:
        cluster.process.send_signal(signal.SIGTERM)
        try:
            cluster.process.wait(60.0)
        except subprocess.TimeoutExpired:
            os.killpg(cluster.process.pid, signal.SIGKILL)
            cluster.process.wait()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = start_cluster(tmp_path_factory.mktemp("cluster"))
    yield running
    stop_cluster(running)


@pytest.fixture
def client(cluster: Cluster) -> OpenAI:
    return cluster.client()


def mygo_of(response: Any) -> dict[str, Any]:
    """The ``mygo`` object of a response or chunk of the official client."""
    extra: dict[str, Any] = json.loads(response.model_dump_json())["mygo"]
    return extra
