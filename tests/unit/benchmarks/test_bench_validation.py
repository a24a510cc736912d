"""What reports say of the emulated engine, and what the check of it keeps."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.emulation_check import Comparison, Round, write
from benchmarks.engine_pair import Served
from benchmarks.report.validation import COMMAND, last_check
from mygo.emulation import profile as profiles


def checked(out: Path, emulated_s: float) -> None:
    real = [Served(float(i), 1000, 500, 1.0) for i in range(3)]
    emulated = [Served(float(i), 1000, 510, emulated_s) for i in range(3)]
    write(out, [Round(profiles.load("llama-3-8b-h100"), Comparison(real, emulated))], 0, "abc")


def test_report_quotes_the_last_check(tmp_path: Path) -> None:
    checked(tmp_path / "check.json", 0.9)
    text = last_check(tmp_path / "check.json")
    assert "commit abc" in text and "3 requests" in text
    assert "mean TTFT was -10.0% off and the token hit ratio +1.00 points: within the bounds of 15%" in text


def test_report_says_so_when_the_check_failed(tmp_path: Path) -> None:
    checked(tmp_path / "check.json", 0.5)
    assert "OUTSIDE the bounds" in last_check(tmp_path / "check.json")


def test_check_keeps_every_request_and_a_table(tmp_path: Path) -> None:
    checked(tmp_path / "check.json", 0.9)
    assert len(json.loads((tmp_path / "check.json").read_text())["rounds"][0]["comparison"]["real"]) == 3
    table = (tmp_path / "check.md").read_text()
    assert "| mean TTFT | 1.000 s | 0.900 s | -10.0% | 15% |" in table
    assert "| token hit ratio | 50.0% | 51.0% | +1.00 points | 2 points |" in table


def test_report_names_the_command_when_there_was_no_check(tmp_path: Path) -> None:
    assert COMMAND in last_check(tmp_path / "none.json")
    assert "not been run" in last_check(tmp_path / "none.json")


def test_report_asks_for_another_check_when_its_file_is_cut(tmp_path: Path) -> None:
    (tmp_path / "check.json").write_text('{"commit": "a')
    assert "run it again" in last_check(tmp_path / "check.json")
