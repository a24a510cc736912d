"""The retrieval benchmarks at a size that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.retrieval_index import __main__ as index_study
from benchmarks.retrieval_index import vectors
from benchmarks.retrieval_index.measure import measure
from benchmarks.retrieval_quality import Ranking, _interval, read_squad
from mygo.config_retrieval import RetrievalConfig
from mygo.errors import ConfigError


def _squad(paragraph: dict[str, Any]) -> str:
    return json.dumps({"data": [{"title": "t", "paragraphs": [paragraph]}]})


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


def test_recall_of_fewer_vectors_than_results_is_whole(tmp_path: Path) -> None:
    vectors.write(tmp_path / "vectors.f32", 9, seed=0)
    np.save(tmp_path / "questions.npy", vectors.questions(vectors.mapped(tmp_path / "vectors.f32", 9), 5, 0))
    np.save(tmp_path / "truth-5.npy", np.array([[*range(9), -1]] * 5))
    np.save(tmp_path / "staged.npy", np.empty((0, vectors.DIMENSIONS), np.float32))
    assert measure(tmp_path, RetrievalConfig(index="flat"), vectors=9).recall == 1.0


def test_result_is_kept_only_for_what_it_depends_on(tmp_path: Path) -> None:
    asked = index_study._depends_on("flat", index_study._arguments([]))
    asked["commit"] = "0123456789ab"
    kept = tmp_path / "flat.json"
    assert index_study._kept(kept, asked) is None
    kept.write_text(json.dumps({"recall": 1.0, "depends_on": asked}))
    assert index_study._kept(kept, asked) is not None
    for key in asked:
        assert index_study._kept(kept, asked | {key: "another"}) is None
    kept.write_text(json.dumps({"recall": 1.0}))
    assert index_study._kept(kept, asked) is None
    unknown = asked | {"commit": "no-commit"}
    kept.write_text(json.dumps({"depends_on": unknown}))
    assert index_study._kept(kept, unknown) is None


def test_staged_bound_is_about_large_indexes_of_ivf() -> None:
    slow = {"stages": 4, "ratio": 2.0, "different": 0}
    row = {"kind": "ivf", "vectors": 100_000, "memory_mb": 0.0, "staged": [slow]}
    small, codes = row | {"vectors": 99_999}, row | {"kind": "ivfpq"}
    assert len(index_study._broken([row])) == 1 and not index_study._not_judged([row])
    assert not index_study._broken([small]) and "not judged" in index_study._not_judged([small])[0]
    assert not index_study._broken([codes]) and "exempt" in index_study._not_judged([codes])[0]
    assert index_study._broken([small | {"staged": [slow | {"different": 1}]}])


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["ivf_probes=0"], "ivf_probes: Input should be greater than or equal to 1 (got 0)"),
        (["ivf_probes="], "ivf_probes: Input should be a valid integer (got None)"),
        (["ivf_probes"], "--set ivf_probes: has no value"),
        (["ivf_probes=["], "--set ivf_probes: '[' is no value in YAML"),
        (["index=hnsw"], "--set index: kinds are chosen by --kinds: flat, ivf, ivfpq, hnsw"),
        (["nope=1"], "--set nope: changes no index; allowed are hnsw_ef_search,"),
        (["ivf_on_disk=true"], "--kinds flat: retrieval: ivf_on_disk: only"),
        (["pq_bytes=7"], "--set pq_bytes: must divide 384"),
        (["ivf_probes=0", "ivf_lists=-1"], "ivf_lists"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(
    pairs: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["retrieval_index", *(f"--set={pair}" for pair in pairs)])
    with pytest.raises(SystemExit) as ended:
        index_study.main()
    said = capsys.readouterr().out
    assert ended.value.code == 2 and words in said and said.count("\n") == 1


def test_squad_gives_each_paragraph_once_and_every_question(tmp_path: Path) -> None:
    paragraphs = [
        {"context": "Lynxes live here.", "qas": [{"question": "Who lives here?"}, {"question": "Where?"}]},
        {"context": "Foxes do not.", "qas": [{"question": "Who does not?"}]},
        {"context": "Lynxes live here.", "qas": [{"question": "What lives here?"}]},
    ]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    passages, questions, unanswerable = read_squad(path)
    assert [passage.text for passage in passages] == ["Lynxes live here.", "Foxes do not."]
    text_of = {passage.doc_id: passage.text for passage in passages}
    assert [text_of[question.doc_id][0] for question in questions] == ["L", "L", "F", "L"]
    assert unanswerable == 0


def test_squad_with_a_byte_order_mark_leaves_out_questions_without_an_answer(tmp_path: Path) -> None:
    qas = [{"question": "Who?", "is_impossible": False}, {"question": "When?", "is_impossible": True}]
    path = tmp_path / "squad.json"
    path.write_text(_squad({"context": "Lynxes.", "qas": qas}), encoding="utf-8-sig")
    _, questions, unanswerable = read_squad(path)
    assert ([question.text for question in questions], unanswerable) == (["Who?"], 1)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[]", "what it holds is not an object"),
        ("{}", "data is missing"),
        ('{"data": []}', "data has no question with an answer"),
        ('{"data": [3]}', "data[0] is not an object"),
        (_squad({"context": "c", "qas": []}), "data has no question with an answer"),
        (_squad({"context": 3, "qas": [{"question": "q"}]}), "data[0].paragraphs[0].context is not a string"),
        (_squad({"context": "c", "qas": [{"question": ["q"]}]}), "[0].qas[0].question is not a string"),
        (_squad({"context": "c", "qas": [{"question": "\ud800"}]}), "qas[0].question is not valid Unicode"),
        (_squad({"context": "\ud800", "qas": [{"question": "q"}]}), "[0].context is not valid Unicode"),
        (_squad({"context": "c", "qas": [{"question": "q", "is_impossible": True}]}), "no question with an"),
    ],
)
def test_squad_that_is_none_is_refused_with_its_place(text: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "squad.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="SQuAD's format") as refused:
        read_squad(path)
    assert str(path) in str(refused.value) and place in str(refused.value)
    assert "\n" not in str(refused.value)


def test_interval_is_below_zero_only_when_much_is_lost() -> None:
    base = Ranking("a", np.array([1.0] * 90 + [9.0] * 10), 0.0)
    worse = Ranking("b", np.array([1.0] * 70 + [9.0] * 30), 0.0)
    other = Ranking("c", np.array([1.0] * 89 + [9.0] + [1.0] + [9.0] * 9), 0.0)
    assert _interval(base, worse, 5)[1] < 0
    low, high = _interval(base, other, 5)
    assert low <= 0 <= high
