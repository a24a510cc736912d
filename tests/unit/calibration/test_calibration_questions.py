from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mygo.calibration.groups import BIRTHS, GROUP_QUESTIONS, groups
from mygo.calibration.questions import (
    ANSWER_WORDS,
    CUE_WORDS,
    Material,
    Question,
    choose,
    made_of,
    read_squad,
)
from mygo.errors import BadRequest

CONTEXT = "Bees dance to tell where nectar is. Wasps do not dance."


def halves(text: str) -> list[str]:
    """Two passages, cut behind the first sentence."""
    first, _, second = text.partition(". ")
    return [f"{first}.", second] if second else [text]


def squad(folder: Path, *asked: dict[str, Any], context: str = CONTEXT) -> Path:
    path = folder / "set.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": list(asked)}]}]}))
    return path


def asked(answer: str, start: int, name: str = "q") -> dict[str, Any]:
    return {"id": name, "question": "Who?", "answers": [{"text": answer, "answer_start": start}]}


def test_question_belongs_to_the_passage_that_holds_its_answer(tmp_path: Path) -> None:
    found = read_squad(squad(tmp_path, asked("dance", CONTEXT.rindex("dance"))), halves)
    assert found.passages == tuple(halves(CONTEXT))
    (question,) = found.questions
    assert question.passages == (halves(CONTEXT)[1],)
    assert question.answers == ("dance",)
    assert question.text.startswith("Who? ")


def test_question_is_left_out_when_no_passage_holds_its_answer(tmp_path: Path) -> None:
    across = asked("is. Wasps", CONTEXT.index("is. Wasps"), "across")
    unanswerable = {"id": "none", "question": "Who?", "answers": []}
    assert not read_squad(squad(tmp_path, across, unanswerable), halves).questions


@pytest.mark.parametrize("text", ["", "{}", '{"data": [{}]}', '{"data": 3}', "not json"])
def test_file_is_refused_when_it_is_no_question_set(text: str, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(BadRequest, match="no question set in SQuAD's form"):
        read_squad(path, halves)


def test_file_is_refused_when_it_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="cannot be read"):
        read_squad(tmp_path / "set.json", halves)


def test_made_question_asks_for_what_its_passage_says_next() -> None:
    sentence = " ".join(f"w{number}" for number in range(40)) + "."
    found = made_of([f"Too short. {sentence}", "Too short.", "Too short."], Random(0))
    assert len(found.passages) == 2
    (question,) = found.questions
    cue = question.text.split('"')[1]
    assert len(cue.split()) == CUE_WORDS and len(question.answers[0].split()) == ANSWER_WORDS
    assert f"{cue} {question.answers[0]}" in found.passages[0]


def material(passages: int, per_passage: int = 3) -> Material:
    texts = tuple(f"passage {number}" for number in range(passages))
    return Material(
        texts,
        tuple(
            Question(f"{text}/{number}", "What?", (f"{number}",), (text,))
            for text in texts
            for number in range(per_passage)
        ),
    )


def test_few_questions_are_about_many_passages() -> None:
    chosen = choose(material(30), single=30, pairs=0, rng=Random(1))
    assert len({question.passages for question in chosen}) == 30


def test_pair_takes_both_of_its_passages_and_answers() -> None:
    chosen = choose(material(30), single=10, pairs=20, rng=Random(1))
    pairs = chosen[10:]
    assert len(pairs) >= 15 and len({pair.id for pair in pairs}) == len(pairs)
    for pair in pairs:
        first, second = pair.id.split("+")
        assert pair.passages == (first.split("/")[0], second.split("/")[0])
        assert pair.passages[0] != pair.passages[1]
        assert pair.answers == (f"First: {first[-1]} Second: {second[-1]}",)


def test_group_asks_every_question_once_among_other_passages() -> None:
    found = material(40)
    chosen = choose(found, single=20, pairs=5, rng=Random(2))
    made = groups(chosen, found.passages, documents=3, seed=0)
    posed = [each for group in made for each in group.posed]
    assert sorted(each.question.id for each in posed) == sorted(question.id for question in chosen)
    assert all(len(group.posed) <= GROUP_QUESTIONS for group in made)
    for each in posed:
        assert len(set(each.passages)) == 3
        assert set(each.question.passages) <= set(each.passages)


def test_passages_of_a_question_are_born_apart_and_behind_another() -> None:
    found = material(40)
    chosen = choose(found, single=20, pairs=5, rng=Random(2))
    for group in groups(chosen, found.passages, documents=3, seed=0):
        asked = [set(each.passages) for each in group.posed]
        behind = [set(birth[1:]) for birth in group.births]
        for birth in group.births:
            assert not any(birth[0] in passages for passages in asked)
        for passages in asked:
            assert all(len(passages & born) == 1 for born in behind)
            assert all(sum(each in born for born in behind) == BIRTHS for each in passages)
        assert len({birth[0] for birth in group.births}) == len(group.births)


def test_groups_are_the_same_when_arguments_are() -> None:
    found = material(40)
    chosen = choose(found, single=20, pairs=5, rng=Random(2))
    made = groups(chosen, found.passages, documents=3, seed=0)
    assert made == groups(chosen, found.passages, documents=3, seed=0)
    assert made != groups(chosen, found.passages, documents=3, seed=1)


def test_groups_are_refused_when_there_are_too_few_passages() -> None:
    found = material(17)
    with pytest.raises(BadRequest, match=r"17 passages are too few .* at least 18"):
        groups(found.questions, found.passages, documents=3, seed=0)


def test_order_by_popularity_is_every_prompts() -> None:
    found = material(40)
    chosen = choose(found, single=20, pairs=5, rng=Random(2))
    posed = [each for group in groups(chosen, found.passages, documents=3, seed=0) for each in group.posed]
    before = {
        pair for each in posed for pair in combinations(each.by_popularity, 2)
    }  # each passage with those behind it
    assert not any((second, first) in before for first, second in before)
    assert all(sorted(each.by_popularity) == sorted(each.passages) for each in posed)
    assert any(each.by_popularity != each.passages for each in posed)
    answers = [each.by_popularity.index(each.question.passages[0]) for each in posed]
    assert set(answers) == {0, 1, 2}
