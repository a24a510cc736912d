"""One proxy: both applications in one Ray Serve instance, asked in turn, block by block.

Run by ``benchmarks.overhead`` in a process of its own for each proxy, because Ray reads the choice
from the environment once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks import processes
from benchmarks.cluster import free_port
from benchmarks.control_plane import workload
from mygo import config as configs
from mygo.config import Config
from mygo.serve import main as server

MYGO, EMPTY = "mygo", "empty"
PATHS = {MYGO: "/v1/chat/completions", EMPTY: "/empty/"}
READY_S = 180.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proxy", choices=("default", "haproxy"), required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="mygo-overhead-") as folder:
        config = configs.parse(
            {
                "cluster": {"data_dir": f"{folder}/data", "haproxy": options.proxy == "haproxy"},
                "http": {"port": free_port()},
            }
        )
        # replicas import this package too, wherever Ray starts them
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        server.prepare_environment(config)
        measured = _measure(config, options.rounds, options.requests)
    options.output.write_text(json.dumps({"proxy": options.proxy, **measured}))


def _measure(config: Config, rounds: int, requests: int) -> dict[str, Any]:
    import ray
    from ray import serve

    from benchmarks.control_plane import empty, instant_worker
    from mygo.serve import app

    paths = app.resolve_models(config)
    server.start(config)
    try:
        mygo = app.build(config, paths, workers=partial(instant_worker.deployment, config))
        serve.run(mygo, name=config.cluster.name, route_prefix="/")
        serve.run(empty.application(), name=EMPTY, route_prefix="/empty")
        _wait_ready(config)
        with _Client(config.http.port, workload.body(paths.language_model), requests) as client:
            return client.rounds(rounds)
    finally:
        serve.shutdown()
        ray.shutdown()


def _wait_ready(config: Config) -> None:
    url = f"http://127.0.0.1:{config.http.port}"
    deadline_s = time.monotonic() + READY_S
    problem: object = "no answer"
    while time.monotonic() < deadline_s:
        try:
            answer = httpx.get(f"{url}/readyz", timeout=10.0, trust_env=False)
            if answer.status_code == 200:
                return
            problem = answer.text
        except httpx.HTTPError as error:
            problem = error
        time.sleep(0.2)
    raise RuntimeError(f"not ready after {READY_S:g} s: {problem}")


class _Client:
    """Gives orders to the client process and watches what they cost."""

    def __init__(self, port: int, body: str, requests: int) -> None:
        self._body = body
        self._requests = requests
        self._sent = 0
        command = [sys.executable, "-m", "benchmarks.control_plane.client", str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30.0)

    def rounds(self, count: int) -> dict[str, Any]:
        """``count`` times: a block of each application (in alternating order) and an idle pause."""
        for name in PATHS:
            self._block(name)  # connections, caches, first-call costs
        blocks: list[dict[str, Any]] = []
        idle: list[dict[str, Any]] = []
        for number in range(count):
            names = list(PATHS) if number % 2 == 0 else list(reversed(PATHS))
            pair = [self._block(name) for name in names]
            blocks += pair
            idle.append(self._idle(sum(block["wall_s"] for block in pair) / 2))
            _tell(number + 1, count, pair)
        return {"requests": self._requests, "blocks": blocks, "idle": idle}

    def _block(self, name: str) -> dict[str, Any]:
        order = {"path": PATHS[name], "body": self._body, "first": self._sent, "requests": self._requests}
        self._sent += self._requests
        before, started = self._cpu_s(), time.perf_counter()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        wall_s = time.perf_counter() - started
        if not line:
            raise RuntimeError(f"the client ended while it asked {PATHS[name]}")
        return {"app": name, "wall_s": wall_s, "cpu_s": self._spent(before), **json.loads(line)}

    def _idle(self, seconds: float) -> dict[str, Any]:
        before, started = self._cpu_s(), time.perf_counter()
        time.sleep(seconds)
        return {"wall_s": time.perf_counter() - started, "cpu_s": self._spent(before)}

    def _cpu_s(self) -> dict[int, float]:
        """CPU seconds so far of all Ray processes: everything below this one but the client."""
        every = processes.running()
        pids = processes.below(os.getpid(), every) - {self._process.pid}
        return {pid: every[pid].cpu_s for pid in pids}

    def _spent(self, before: dict[int, float]) -> dict[str, float]:
        """CPU seconds since ``before`` by kind of process."""
        spent: defaultdict[str, float] = defaultdict(float)
        for pid, cpu_s in self._cpu_s().items():
            spent[processes.label(processes.command(pid))] += cpu_s - before.get(pid, 0.0)
        return {name: seconds for name, seconds in spent.items() if seconds > 0}


def _tell(number: int, count: int, pair: list[dict[str, Any]]) -> None:
    took = ", ".join(f"{block['app']} {block['wall_s']:.2f} s" for block in pair)
    print(f"  round {number} of {count}: {took}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
