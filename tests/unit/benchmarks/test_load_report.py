"""The report and the plots of a load test, and how its command refuses what makes no test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from load_samples import sample

from benchmarks.load.__main__ import main
from benchmarks.load.figures import figures, intervals
from benchmarks.load.local import Kill, Memory
from benchmarks.load.plots import draw
from benchmarks.load.report import Result, write
from benchmarks.load.samples import Outcome, Sample


def _samples(lag_s: float = 0.0) -> list[Sample]:
    return [
        sample(
            number,
            float(number),
            Outcome.CUT if number == 7 else Outcome.OK,
            sent_s=number + lag_s,
            ttft_s=0.5,
            prompt_tokens=100,
            cached_tokens={"device": 50},
            worker="w1",
        )
        for number in range(24)
    ]


def _result(lag_s: float = 0.0, breaches: list[str] | None = None) -> Result:
    samples = _samples(lag_s)
    return Result(
        manifest={"profile": "ramp", "trace": "ragpulse"},
        whole=figures(samples, 0.0, 24.0),
        intervals=intervals(samples, 4.0, 24.0),
        steps=[figures(samples, 0.0, 12.0), figures(samples, 12.0, 24.0)],
        objective_s=2.5,
        tried=[(1.0, True), (2.0, False)],
        kills=[Kill(6.0, "worker", 42, 11.5), Kill(15.0, "worker", 43, None)],
        memory=[Memory(float(i), {"mygo:ingress": 10_000_000 * (i + 1)}) for i in range(3)],
        breaches=breaches or [],
    )


def test_report_says_everything_that_was_found(tmp_path: Path) -> None:
    result = _result(breaches=["1 requests hung"])
    plots = draw(result, tmp_path)
    text = write(result, tmp_path, plots)
    assert plots == ["over_time.png", "ramp.png"]
    assert all((tmp_path / name).stat().st_size > 10_000 for name in plots)
    assert "24 requests sent, 23 served, others: 1 cut" in text
    assert "Throughput at SLO: 1.00 requests/s" in text and "it broke at 2.00" in text
    assert "- 1 requests hung" in text
    assert "| 6.0 | worker | 42 | 5.5 |" in text
    assert "| 15.0 | worker | 43 | never |" in text
    assert "| mygo:ingress | 10 | 30 | 30 |" in text
    assert "device 50.0%" in text
    assert "could not keep its schedule" not in text
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["rate_at_slo"] == 1.0
    assert kept["whole"]["outcomes"] == {"ok": 23, "cut": 1}


def test_report_says_so_when_the_client_was_late() -> None:
    from benchmarks.load.report import render

    assert "could not keep its schedule" in render(_result(lag_s=0.2), [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "is the cluster up"),
        (["--kill", "worker"], "no cluster of this machine serves"),
        (["--cluster-pid", str(2**22 + 1)], "no such process"),
    ],
)
def test_command_refuses_what_makes_no_test(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["http://127.0.0.1:9", "--out", str(tmp_path / "new"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_command_refuses_a_folder_that_is_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.md").write_text("mine")
    assert main(["http://127.0.0.1:9", "--out", str(tmp_path)]) == 2
    assert "give an empty or a new folder" in capsys.readouterr().err
