"""The steps of the emulated try-out are commands that the load test understands."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from benchmarks.cluster import Cluster
from benchmarks.load import emulated
from benchmarks.load.__main__ import main


@pytest.mark.parametrize("name", emulated.STEPS)
def test_step_is_understood_and_names_the_cluster(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = cast(
        Cluster,
        SimpleNamespace(url="http://127.0.0.1:9", process=SimpleNamespace(pid=2**22 + 1)),
    )
    _, module, *arguments = emulated.load(cluster, name, tmp_path)
    assert module == "benchmarks.load"
    assert main(arguments) == 2
    assert f"--cluster-pid {2**22 + 1}: no such process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("completed", "failed", "all_served"), [(20, 0, True), (19, 1, False), (19, 0, False)]
)
def test_vllm_bench_counts_as_failed_when_a_request_did(
    completed: int, failed: int, all_served: bool, tmp_path: Path
) -> None:
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"completed": completed, "failed": failed, "num_prompts": 20}))
    assert emulated.served_all(result) is all_served
