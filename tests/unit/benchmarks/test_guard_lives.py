"""What the guard makes of divergences that were measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from benchmarks.guard_lives import MOST_COST_SHARE, live, main
from mygo.blend.verdicts import Verdict
from mygo.calibration.records import EXACT, Outcome, Records

GOOD = Outcome("q", 3, "first_tokens", 0.15, 0.01, 1.0, 0.0, 0.2, 1.0, 1.0, same=True)


def outcomes(*kls: float) -> list[Outcome]:
    return [replace(GOOD, question=f"q{number}", first_token_kl=kl) for number, kl in enumerate(kls)]


def test_guard_blends_and_checks_little_when_divergences_are_small() -> None:
    for seed in range(20):
        life = live(outcomes(0.0, 0.01, 0.02, 0.09), 2000, 0.12, Random(seed))
        assert life.fired is None
        assert life.proven_at is not None and life.proven_at < 1500
        assert 0 < life.cost_share < 2 * MOST_COST_SHARE


def test_guard_fires_and_never_blends_when_divergences_are_large() -> None:
    life = live(outcomes(0.5, 0.9), 2000, 0.12, Random(0))
    assert life.fired is Verdict.OFF and life.proven_at is None


def test_only_the_documents_of_a_broken_question_go_off() -> None:
    life = live(outcomes(*[0.01] * 30, 1.0), 20_000, 0.12, Random(1))
    assert life.fired in (None, Verdict.DOCUMENT_OFF)
    assert life.proven_at is not None


def test_run_reads_a_calibration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = Records(tmp_path, {"model": "m"})
    records.add([*outcomes(0.0, 0.01), replace(GOOD, method=EXACT, share=1.0)])
    assert main([str(tmp_path), "--lives", "5"]) == 0
    assert "measured questions" in capsys.readouterr().out
    assert main([str(tmp_path), "--lives", "5", "--share", "0.3"]) == 2
    assert "0.15" in capsys.readouterr().err
    assert main([str(tmp_path), "--lives", "5", "--method", "spread"]) == 2
    assert "first_tokens 0.15" in " ".join(capsys.readouterr().err.split())
    assert main([str(tmp_path / "none")]) == 2
