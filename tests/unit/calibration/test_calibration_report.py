from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean

import pytest

from mygo.calibration import plots
from mygo.calibration.records import CACHE_ORDER, EXACT, Outcome, Records
from mygo.calibration.report import report
from mygo.config import parse
from mygo.errors import BadRequest, ConfigError

SUBJECT = {"model": "tiny", "seed": 0}


def outcomes(method: str, share: float, kl: float, more: float = 0.0, count: int = 40) -> list[Outcome]:
    """Around these means; a quarter of the questions take two documents."""
    rng = Random(f"{method} {share}")
    return [
        Outcome(
            question=f"q{number}",
            documents=2 if number % 4 == 0 else 1,
            method=method,
            share=share,
            first_token_kl=kl * rng.uniform(0.9, 1.1),
            gold_nats=3.0 + more,
            gold_nats_more=more,
            computed_share=share,
            f1=0.2,
            exact_match=0.0,
            same=number % 2 == 0,
        )
        for number in range(count)
    ]


MEASURED = [
    *outcomes(EXACT, 1.0, 0.0),
    *outcomes(CACHE_ORDER, 1.0, 0.7, more=-0.01),
    *outcomes("first_tokens", 0.0, 0.3),
    *outcomes("first_tokens", 0.15, 0.05),
    *outcomes("first_tokens", 0.3, 0.03),
]


def test_report_chooses_the_least_repair_that_keeps_both_bounds() -> None:
    found = report(MEASURED, kl_bound=0.12, gold_nats_bound=0.1)
    assert found.calibration.chosen is not None
    assert found.calibration.chosen.alpha == 0.15
    reuse = parse(_yaml(found.yaml())).reuse
    assert (reuse.mode, reuse.repair_share, reuse.floor_tokens) == ("blend", 0.15, 0)
    assert reuse.method == "first_tokens"


def test_report_chooses_the_method_that_needs_less() -> None:
    spread = outcomes("spread", 0.05, 0.05)
    found = report([*MEASURED, *spread], kl_bound=0.12, gold_nats_bound=0.1)
    reuse = parse(_yaml(found.yaml())).reuse
    assert (reuse.repair_share, reuse.method) == (0.05, "spread")


def test_report_says_that_the_guard_cannot_raise_nothing() -> None:
    found = report(outcomes("first_tokens", 0.0, 0.05), kl_bound=0.12, gold_nats_bound=0.1)
    assert "cannot raise 0" in found.yaml()
    assert parse(_yaml(found.yaml())).reuse.repair_share == 0


def test_report_chooses_exact_answers_when_no_repair_keeps_the_bounds() -> None:
    found = report(MEASURED, kl_bound=0.01, gold_nats_bound=0.1)
    assert found.calibration.chosen is None
    assert parse(_yaml(found.yaml())).reuse.mode == "exact"


def test_report_shows_questions_of_two_documents_apart() -> None:
    found = report(MEASURED, kl_bound=0.12, gold_nats_bound=0.1)
    assert [(line.documents, line.method, line.share, line.questions) for line in found.lines] == [
        (documents, method, share, count)
        for documents, count in ((1, 30), (2, 10))
        for method, share in (
            (EXACT, 1.0),
            (CACHE_ORDER, 1.0),
            ("first_tokens", 0.0),
            ("first_tokens", 0.15),
            ("first_tokens", 0.3),
        )
    ]
    line = found.lines[2]
    kls = [each.first_token_kl for each in MEASURED if (each.share, each.documents) == (0.0, 1)]
    assert line.kl == pytest.approx(fmean(kls))
    assert line.kl < line.kl_upper < 1.05 * line.kl
    assert line.same == pytest.approx(1 / 3)


def test_repair_is_not_considered_when_it_was_asked_too_little() -> None:
    found = report(
        [*MEASURED, *outcomes("first_tokens", 0.05, 0.01, count=19)], kl_bound=0.12, gold_nats_bound=0.1
    )
    assert found.too_few == ("first_tokens 0.05",)
    assert found.calibration.chosen is not None and found.calibration.chosen.alpha == 0.15
    with pytest.raises(BadRequest, match="no rows"):
        report(outcomes(EXACT, 1.0, 0.0), kl_bound=0.12, gold_nats_bound=0.1)


def test_methods_are_compared_question_by_question() -> None:
    """Where all questions differ much, and every one is answered a little worse."""
    first = [
        replace(each, first_token_kl=each.first_token_kl * number, gold_nats=float(number))
        for number, each in enumerate(outcomes("first_tokens", 0.15, 0.05))
    ]
    worse = [
        replace(
            each, method="spread", first_token_kl=each.first_token_kl + 0.01, gold_nats=each.gold_nats - 0.1
        )
        for each in first[5:]
    ]
    found = report([*MEASURED[:80], *first, *worse], kl_bound=0.12, gold_nats_bound=0.1).pairs
    (pair,) = found
    assert (pair.method, pair.share, pair.questions) == ("spread", 0.15, 35)
    assert [pair.kl, *pair.kl_interval] == pytest.approx([0.01] * 3)
    assert [pair.gold_nats, *pair.gold_nats_interval] == pytest.approx([-0.1] * 3)
    assert report(MEASURED, kl_bound=0.12, gold_nats_bound=0.1).pairs == ()


def test_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    spread = [*outcomes("spread", 0.15, 0.06), *outcomes("spread", 0.3, 0.02)]
    plots.plot(report([*MEASURED, *spread], kl_bound=0.12, gold_nats_bound=0.1), path, "tiny")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_outcomes_outlive_the_run_that_measured_them(tmp_path: Path) -> None:
    first = Records(tmp_path / "new", SUBJECT)
    first.add(MEASURED[:5])
    first.add(MEASURED[3:8])
    second = Records(tmp_path / "new", SUBJECT)
    assert second.outcomes == MEASURED[:8]
    assert second.has("q7", EXACT, 1.0) and not second.has("q7", "first_tokens", 0.15)


def test_outcome_is_measured_again_when_its_line_was_cut_off(tmp_path: Path) -> None:
    Records(tmp_path, SUBJECT).add(MEASURED[:3])
    path = tmp_path / "outcomes.jsonl"
    path.write_text(path.read_text()[:-20])
    records = Records(tmp_path, SUBJECT)
    assert records.outcomes == MEASURED[:2]
    records.add(MEASURED[2:4])
    assert Records(tmp_path, SUBJECT).outcomes == MEASURED[:4]


def test_folder_is_refused_when_it_holds_something_elses_outcomes(tmp_path: Path) -> None:
    Records(tmp_path, SUBJECT).add([replace(MEASURED[0])])
    with pytest.raises(ConfigError, match="other seed"):
        Records(tmp_path, {**SUBJECT, "seed": 1})


def _yaml(text: str) -> dict[str, object]:
    import yaml

    loaded: dict[str, object] = yaml.safe_load(text)
    return loaded
