"""The tiers study from its command to its report, on emulated engines in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.tiers.__main__ import main
from benchmarks.tiers.plan import SYSTEMS

pytestmark = pytest.mark.engine


def test_study_writes_its_report_and_goes_on_where_it_was_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--requests", "12", "--warmup", "4", "--loads", "0.5", "--seeds", "1"]
    arguments = [*sizes, "--out", str(tmp_path / "study")]
    assert main(arguments) in (0, 1)
    assert {path.name for path in (tmp_path / "study").iterdir()} >= {"report.md", "report.json", "loads.png"}
    report = json.loads((tmp_path / "study" / "report.json").read_text())
    assert [each["system"] for each in report["cells"][0]["systems"]] == [each.name for each in SYSTEMS]
    kept = (tmp_path / "study" / "runs.jsonl").read_text()
    assert {len(json.loads(line)["ttft_s"]) for line in kept.splitlines()} == {12}
    assert main(arguments) in (0, 1)
    assert (tmp_path / "study" / "runs.jsonl").read_text() == kept
    assert "emulated" in capsys.readouterr().out
    assert main(["--requests", "13", "--out", str(tmp_path / "study")]) == 2
