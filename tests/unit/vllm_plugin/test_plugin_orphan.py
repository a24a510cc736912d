"""An engine whose worker was killed does not stay behind with its memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

# the middle process stands for the worker, the last one for the engine
WORKER = """
import subprocess, sys
engine = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
print(engine.pid, flush=True)
engine.wait()
"""
ENGINE = """
import sys, time
from mygo.vllm_plugin.reporter import Reporter
from mygo.vllm_plugin.tiers.counters import TierCounters
from mygo.vllm_plugin.wire import Hello
Reporter(sys.argv[1], Hello("e", 32, 1024, 1, 0), TierCounters).start()
open(sys.argv[1] + ".started", "w").close()
time.sleep(120)
"""


def _alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_engine_ends_when_its_worker_is_killed(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, ENGINE, str(tmp_path / "nobody-listens")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    engine = int(worker.stdout.readline())
    started = tmp_path / "nobody-listens.started"
    while not started.exists():
        assert _alive(engine)
        time.sleep(0.05)
    worker.kill()
    worker.wait()
    deadline_s = time.monotonic() + 30
    while _alive(engine):
        assert time.monotonic() < deadline_s, "the engine outlived its worker"
        time.sleep(0.1)
