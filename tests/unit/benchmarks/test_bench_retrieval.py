"""The retrieval benchmarks at a size that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.retrieval_index import vectors
from benchmarks.retrieval_index.measure import measure
from benchmarks.retrieval_quality import Ranking, _interval, read_squad
from mygo.config_retrieval import RetrievalConfig
from mygo.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    vectors.write(folder / "vectors.f32", 3000, seed=0)
    data = vectors.mapped(folder / "vectors.f32", 3000)
    questions = vectors.questions(data, 100, seed=0)
    np.save(folder / "questions.npy", questions)
    np.save(folder / "truth-100.npy", np.argsort(-(questions @ data.T), axis=1)[:, :10])
    np.save(folder / "staged.npy", vectors.questions(data, 20, seed=0))
    return folder


def test_vectors_are_units_in_documents_and_the_same_again(folder: Path, tmp_path: Path) -> None:
    data = vectors.mapped(folder / "vectors.f32", 3000)
    np.testing.assert_allclose(np.linalg.norm(data, axis=1), 1, atol=1e-5)
    within = float((data[0] * data[1:10]).sum(axis=1).mean())
    elsewhere = float((data[0] * data[1000:2000]).sum(axis=1).mean())
    assert within > 0.4 > elsewhere
    vectors.write(tmp_path / "again.f32", 3000, seed=0)
    assert (tmp_path / "again.f32").read_bytes() == (folder / "vectors.f32").read_bytes()


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_measure_finds_the_truth_and_no_difference_between_staged_and_one_go(folder: Path, kind: str) -> None:
    config = RetrievalConfig(index=kind, approximate_from_vectors=256, ivf_probes=219)  # type: ignore[arg-type]
    measured = measure(folder, config, vectors=3000)
    assert measured.recall == 1.0
    assert measured.queries_per_s > 0
    assert [plan.stages for plan in measured.staged] == ([2, 4, 8] if kind == "ivf" else [])
    for plan in measured.staged:
        assert plan.different == 0
        assert plan.final_after[-1] == 1.0
        assert plan.final_after == sorted(plan.final_after)


def test_squad_gives_each_paragraph_once_and_every_question(tmp_path: Path) -> None:
    paragraphs = [
        {"context": "Lynxes live here.", "qas": [{"question": "Who lives here?"}, {"question": "Where?"}]},
        {"context": "Foxes do not.", "qas": [{"question": "Who does not?"}]},
        {"context": "Lynxes live here.", "qas": [{"question": "What lives here?"}]},
    ]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    passages, questions = read_squad(path)
    assert [passage.text for passage in passages] == ["Lynxes live here.", "Foxes do not."]
    text_of = {passage.doc_id: passage.text for passage in passages}
    assert [text_of[question.doc_id][0] for question in questions] == ["L", "L", "F", "L"]
    path.write_text("[]")
    with pytest.raises(ConfigError, match="SQuAD's format"):
        read_squad(path)


def test_interval_is_below_zero_only_when_much_is_lost() -> None:
    base = Ranking("a", np.array([1.0] * 90 + [9.0] * 10), 0.0)
    worse = Ranking("b", np.array([1.0] * 70 + [9.0] * 30), 0.0)
    other = Ranking("c", np.array([1.0] * 89 + [9.0] + [1.0] + [9.0] * 9), 0.0)
    assert _interval(base, worse, 5)[1] < 0
    low, high = _interval(base, other, 5)
    assert low <= 0 <= high
