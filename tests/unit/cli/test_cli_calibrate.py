from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mygo.blend.selection import Method, Repair
from mygo.calibration.records import EXACT, Outcome
from mygo.calibration.report import report
from mygo.cli.app import app
from mygo.cli.calibrate import Wish, methods, repairs, shares, show
from mygo.errors import ConfigError


def test_lists_are_read() -> None:
    assert shares("0, 0.15,.3") == [0.0, 0.15, 0.3]


@pytest.mark.parametrize("text", ["", "a", "0,1", "-0.1", "0;0.1"])
def test_shares_are_refused_when_they_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--shares"):
        shares(text)


def test_methods_are_read_in_one_order() -> None:
    assert methods("spread, first_tokens,spread") == [Method.FIRST_TOKENS, Method.SPREAD]
    for text in ("", "first", "spread,"):
        with pytest.raises(ConfigError, match="--methods"):
            methods(text)


def test_methods_are_compared_only_where_something_is_recomputed(tmp_path: Path) -> None:
    both = [Method.FIRST_TOKENS, Method.SPREAD]
    wish = Wish((), None, tmp_path, 1, 2, (0.0, 0.15), both, 0.1, 0, plot=False)
    assert repairs(wish) == [
        Repair(0.0, 0, Method.FIRST_TOKENS),
        Repair(0.15, 0, Method.FIRST_TOKENS),
        Repair(0.15, 0, Method.SPREAD),
    ]


def test_command_asks_for_documents_or_questions() -> None:
    result = CliRunner().invoke(app, ["calibrate"])
    assert result.exit_code == 2
    assert "give documents, or --questions" in " ".join(result.output.split())


def test_table_fits_a_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    measured = [
        Outcome(f"q{number}", 1 + number % 2, method, share, 0.051, 12.3, 0.01, share, 0.5, 0.25, True)
        for number in range(40)
        for method, share in ((EXACT, 1.0), ("first_tokens", 0.15), ("spread", 0.15))
    ]
    show(report(measured, kl_bound=0.12, gold_nats_bound=0.1), tmp_path)
    printed = capsys.readouterr().out
    assert "questions that take 2 documents" in printed
    row = "first_tokens 0.15 20 15.0 0.051 0.051 12.30 +0.010 +0.010 0.50 0.25 1.00"
    assert row in [" ".join(line.split()) for line in printed.splitlines()]
    assert "repair_share: 0.15" in printed
    assert "spread 0.15 40 +0.0000 +0.0000 +0.0000 +0.000 +0.000 +0.000" in [
        " ".join(line.split()) for line in printed.splitlines()
    ]
