"""``mygo trace``: figures beside their targets, files written and read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mygo.cli.app import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mygo", "trace", *arguments])
    return main()


def test_trace_shows_figures_beside_targets_when_given_a_preset(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "ragpulse", "--seed", "1", "--requests", "50") == 0
    shown = capsys.readouterr().out
    assert "ragpulse, seed 1" in shown
    [line] = [line.split() for line in shown.splitlines() if line.startswith("ordered_prefix_hit")]
    assert len(line) == 3
    assert line[2] == "0.287"


def test_written_trace_is_read_again_with_the_same_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = str(tmp_path / "t.jsonl")
    assert run(monkeypatch, "burst", "--requests", "40", "--rate", "3", "--out", path, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["measured"]["mean_rate_per_s"] == pytest.approx(3)
    assert run(monkeypatch, path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["measured"] == made["measured"]
    assert run(monkeypatch, "burst", "--requests", "40", "--out", path) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ragpuls"], "did you mean ragpulse?"),
        (["missing.jsonl"], "missing.jsonl: cannot be read"),
        (["burst", "--rate", "0"], "rate_per_s: must be above 0"),
        ([__file__, "--seed", "1"], "--seed"),
        ([__file__], "line 1: not a trace that is known"),
    ],
)
def test_wrong_input_is_explained_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
