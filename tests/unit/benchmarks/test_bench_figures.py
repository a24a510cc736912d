from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import accept, processes
from benchmarks.acceptance import ingest_crash, routing
from benchmarks.acceptance.step import Outcome, Say
from benchmarks.bootstrap import difference_of_medians
from benchmarks.control_plane.analysis import compare
from benchmarks.overhead import broken_bounds


def test_bootstrap_interval_covers_the_true_difference_when_rounds_are_noisy() -> None:
    rng = np.random.default_rng(7)
    moods = rng.normal(0, 1, size=(40, 1))  # what both sides of a round share
    covered = 0
    for _ in range(40):
        ours = 12.0 + moods[:20] + rng.normal(0, 1, size=(20, 30))
        theirs = 10.0 + moods[:20] + rng.normal(0, 1, size=(20, 30))
        found = difference_of_medians(ours.tolist(), theirs.tolist(), samples=300)
        assert found.low <= found.estimate <= found.high
        covered += found.low <= 2.0 <= found.high
    assert covered >= 34


def test_bootstrap_refuses_rounds_when_one_side_lacks_some() -> None:
    with pytest.raises(ValueError, match="equally many"):
        difference_of_medians([[1.0]], [])


def _block(app: str, total_s: list[float], cpu_s: dict[str, float], wall_s: float) -> dict[str, Any]:
    return {"app": app, "total_s": total_s, "first_s": total_s, "cpu_s": cpu_s, "wall_s": wall_s}


MEASURED = {
    "proxy": "default",
    "blocks": [
        _block("mygo", [0.020, 0.022], {"proxy": 0.05, "ingress": 0.03}, 1.0),
        _block("empty", [0.015, 0.017], {"proxy": 0.04}, 1.0),
        _block("empty", [0.015, 0.017], {"proxy": 0.04}, 1.0),
        _block("mygo", [0.020, 0.022], {"proxy": 0.05, "ingress": 0.03}, 1.0),
    ],
    "idle": [{"wall_s": 2.0, "cpu_s": {"proxy": 0.02}}, {"wall_s": 2.0, "cpu_s": {"proxy": 0.02}}],
}


def test_compare_takes_idle_cost_off_when_processes_are_busy_by_themselves() -> None:
    found = compare(MEASURED, "mygo", "empty")
    assert found.latency_ms.estimate == pytest.approx(5.0)
    assert found.idle_cpu_ms_per_s == pytest.approx({"proxy": 10.0})
    # (50 + 30 - 10) / 2 and (40 - 10) / 2 CPU-ms
    assert found.cpu_ms.ours == pytest.approx(35.0)
    assert found.cpu_ms.theirs == pytest.approx(15.0)
    assert found.cpu_ms_by_process["ingress"] == pytest.approx((15.0, 0.0))
    assert found.cpu_ms_by_process["proxy"] == pytest.approx((20.0, 15.0))


def test_bounds_break_when_the_difference_is_larger() -> None:
    found = compare(MEASURED, "mygo", "empty")
    assert broken_bounds(found, 5.1, 20.1) == []
    assert len(broken_bounds(found, 4.9, 20.1)) == 1
    assert "CPU" in broken_bounds(found, 5.1, 19.9)[0]


def _figures(ours: int, shares: list[float]) -> dict[str, dict[str, Any]]:
    others = {"round_robin": 1000, "consistent_hash": 450, "prefix_affinity": 500}
    by_policy: dict[str, dict[str, Any]] = {
        name: {"recomputed_tokens": tokens, "shares": [0.5, 0.5]} for name, tokens in others.items()
    }
    return by_policy | {"predicted_seconds": {"recomputed_tokens": ours, "shares": shares}}


def test_routing_is_judged_by_every_criterion() -> None:
    assert routing.judge("t", _figures(450, [0.4, 0.6])) == []
    assert ["consistent_hash" in each for each in routing.judge("t", _figures(490, [0.4, 0.6]))] == [True]
    assert len(routing.judge("t", _figures(600, [0.4, 0.6]))) == 3
    assert ["20%" in each for each in routing.judge("t", _figures(0, [0.2, 0.8]))] == [True]


def test_phrases_are_all_different() -> None:
    assert len({ingest_crash.phrase(number) for number in range(ingest_crash.FILES)}) == ingest_crash.FILES


def test_processes_names_and_counts_a_child_and_kills_its_whole_tree() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        deadline_s = time.monotonic() + 20
        while not (below := processes.below(parent.pid, processes.running())):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        (child,) = below
        assert {parent.pid, child} <= processes.below(os.getpid(), processes.running())
        while processes.running()[child].cpu_s < 0.05:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        assert processes.kill_tree(parent.pid) == 2
        assert not processes.command(child)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["ray::ServeReplica:mygo:ingress"], "mygo:ingress"),
        (["ray::SERVE_REPLICA::mygo#ingress#x7:ServeReplica:mygo:ingress.handle_request"], "mygo:ingress"),
        (["ray::ProxyActor.handle x"], "ProxyActor"),
        (["/x/bin/python3", "-u", "/y/agent.py", "--a"], "agent.py"),
        (["/x/raylet/raylet", "--b"], "raylet"),
        ([], "gone"),
    ],
)
def test_label_is_short(arguments: list[str], name: str) -> None:
    assert processes.label(arguments) == name


def test_accept_keeps_what_a_step_raises_as_a_failure(tmp_path: Path) -> None:
    def broken(folder: Path, say: Say) -> Outcome:
        raise RuntimeError("no cluster")

    result = accept.run_step(broken, tmp_path / "step", lambda line: None)
    assert not result["passed"]
    assert "no cluster" in result["summary"]
    json.dumps(result)


def test_accept_skips_only_what_has_passed(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    assert accept.passed_before(path) is None
    path.write_text(json.dumps({"passed": False}))
    assert accept.passed_before(path) is None
    path.write_text("{")
    assert accept.passed_before(path) is None
    path.write_text(json.dumps({"passed": True}))
    assert accept.passed_before(path) == {"passed": True}
