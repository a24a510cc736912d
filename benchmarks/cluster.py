"""A real server process in a folder of its own: how benchmarks and cluster tests start and reach it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from openai import OpenAI

from benchmarks import processes
from mygo.config import ClusterConfig

START_S = 900.0
MODEL = "smollm2-135m-instruct"
KEY = "sk-alice"


@dataclass
class Cluster:
    """A running server process and how to reach it."""

    url: str
    process: subprocess.Popen[bytes]
    config: dict[str, Any]
    log: Path

    def client(self, key: str = KEY, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, timeout=120.0, **{"max_retries": 0} | options)

    def chat(
        self, documents: Sequence[str], question: str, *, max_tokens: int, timeout_s: float = 600.0
    ) -> dict[str, Any]:
        """One greedy answer over inline documents, whole, with token ids; raises for an HTTP error."""
        answer = httpx.post(
            f"{self.url}/v1/chat/completions",
            headers={"Authorization": f"Bearer {KEY}"},
            json={
                "model": MODEL,
                "messages": [{"role": "user", "content": question}],
                "documents": [{"id": f"doc-{i}", "text": text} for i, text in enumerate(documents)],
                "temperature": 0,
                "max_tokens": max_tokens,
                "return_token_ids": True,
            },
            timeout=timeout_s,
            trust_env=False,
        )
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code} from the server: {answer.text[:1000]}")
        whole: dict[str, Any] = answer.json()
        return whole

    def status(self) -> dict[str, Any]:
        return self._report("status", timeout_s=30.0)

    def quality(self) -> dict[str, Any]:
        """What the workers' quality guards know."""
        return self._report("cache/quality", timeout_s=60.0)

    def _report(self, what: str, *, timeout_s: float) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = httpx.get(f"{self.url}/v1/mygo/{what}", headers=headers, timeout=timeout_s, trust_env=False)
        report: dict[str, Any] = answer.raise_for_status().json()
        return report

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10.0, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Raises RuntimeError with the end of the log if the server ends or is not ready in time."""
        deadline_s = time.monotonic() + timeout_s
        while not self.ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self._tail()}")
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the server is not ready after {timeout_s:g} s:\n{self._tail()}")
            time.sleep(0.5)

    def processes(self, name: str) -> list[int]:
        """Pids below the server whose command line begins with ``name``."""
        pids = processes.below(self.process.pid, processes.running())
        return sorted(pid for pid in pids if " ".join(processes.command(pid)).startswith(name))

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-5000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_cluster(folder: Path, **overrides: dict[str, Any]) -> Cluster:
    """Start a server in ``folder`` (its data stay there) and wait until it is ready."""
    folder = folder.absolute()
    settings: dict[str, dict[str, Any]] = {
        "cluster": {"data_dir": str(folder / "data"), "cache_dir": str(ClusterConfig().cache_dir)},
        "http": {"port": free_port(), "api_keys": {KEY: "alice", "sk-bob": "bob"}},
        # about 9,000 tokens of device KV per worker: small enough to overflow
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


def stop_cluster(cluster: Cluster, timeout_s: float = 60.0) -> None:
    """Ask it to end; kill whatever is left."""
    if cluster.process.poll() is None:
        cluster.process.send_signal(signal.SIGTERM)
        try:
            cluster.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            processes.kill_tree(cluster.process.pid)
            cluster.process.wait()


@contextlib.contextmanager
def running_cluster(folder: Path, **overrides: dict[str, Any]) -> Iterator[Cluster]:
    cluster = start_cluster(folder, **overrides)
    try:
        yield cluster
    finally:
        stop_cluster(cluster)
