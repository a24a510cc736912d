"""Finding, measuring and killing the processes of a cluster, with real processes under its titles."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from random import Random

import pytest

from benchmarks import processes
from benchmarks.load.client import LoadClient
from benchmarks.load.local import LocalCluster, kill_every, watch_memory
from mygo.errors import ConfigError

# A root that keeps a process with a worker's title alive, as Ray does, and one with the directory's.
_ROOT = """
import subprocess
keep = lambda title: subprocess.Popen(["bash", "-c", f"exec -a '{title}' sleep 60"])
directory = keep("ray::ServeReplica:mygo:directory")
while True:
    keep("ray::ServeReplica:mygo:worker:emulated.generate").wait()
"""


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    root = subprocess.Popen([sys.executable, "-c", _ROOT])
    found = LocalCluster(root.pid)
    deadline_s = time.monotonic() + 20
    while not (found.pids("worker") and found.pids("directory")):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    yield found
    processes.kill_tree(root.pid)
    root.wait()


class _Ready(LoadClient):
    async def ready(self) -> bool:
        return True


def test_kill_ends_a_process_of_the_role_and_notes_its_replacement(cluster: LocalCluster) -> None:
    (worker,), directory = cluster.pids("worker"), cluster.pids("directory")

    async def run() -> list[tuple[str, int, bool]]:
        async with _Ready("http://127.0.0.1:9", api_key=None, timeout_s=1.0) as client:
            over = asyncio.Event()
            began_s = time.monotonic()
            killing = asyncio.create_task(
                kill_every(
                    cluster, client, "worker", 0.1, Random(1), lambda: time.monotonic() - began_s, over
                )
            )
            await asyncio.sleep(0.4)
            over.set()
            return [(each.role, each.pid, each.recovered_s is not None) for each in await killing]

    assert asyncio.run(run()) == [("worker", worker, True)]
    assert worker not in cluster.pids("worker")
    assert cluster.pids("worker")
    assert cluster.pids("directory") == directory


def test_role_without_a_process_is_refused(cluster: LocalCluster) -> None:
    cluster.check_has("worker")
    with pytest.raises(ConfigError, match=r"--kill engine.*kill a worker"):
        cluster.check_has("engine")


def test_memory_is_measured_by_label(cluster: LocalCluster) -> None:
    async def run() -> list[dict[str, int]]:
        over = asyncio.Event()
        watching = asyncio.create_task(watch_memory(cluster, 0.05, lambda: 0.0, over))
        await asyncio.sleep(0.2)
        over.set()
        return [each.pss_bytes for each in await watching]

    measured = asyncio.run(run())
    assert len(measured) >= 2
    assert measured[0]["mygo:worker:emulated"] > 10_000
    assert measured[0]["mygo:directory"] > 10_000


def test_cluster_pid_that_does_not_live_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such process"):
        LocalCluster.find("http://127.0.0.1:8000", 2**22 + 1)
    assert LocalCluster.find("http://127.0.0.1:1", None) is None
