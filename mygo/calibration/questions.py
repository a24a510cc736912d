"""Questions whose right answers are known: from a set in SQuAD's form, or made of the documents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from mygo.errors import BadRequest

Chunks = Callable[[str], Sequence[str]]
"""Text -> passages, in order; a passage is a part of the text."""

CUE_WORDS = 8
ANSWER_WORDS = 6
"""Of a question that is made of a passage: how many words it quotes, and asks for."""
_BRIEFLY = "Answer with a few words of the documents."
"""The right answers of a set are short, and a model that was asked for no such thing would not give them."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    text: str
    answers: tuple[str, ...]
    """Right ones; the first is the one whose likelihood is measured."""
    passages: tuple[str, ...]
    """That it takes to answer it."""


@dataclass(frozen=True, slots=True)
class Material:
    passages: tuple[str, ...]
    """To choose a question's neighbours from; those that answer questions are among them."""
    questions: tuple[Question, ...]


def read_squad(path: Path, chunks: Chunks) -> Material:
    """A question set in SQuAD's form; what has no answer, or none within one passage, is left out.

    Raises BadRequest if the file is none.
    """
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        found: list[Question] = []
        passages: list[str] = []
        for paragraph in paragraphs:
            context = str(paragraph["context"])
            parts = chunks(context)
            passages += parts
            asked = (_answerable(each, context, parts) for each in paragraph["qas"])
            found += [question for question in asked if question is not None]
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path}: cannot be read ({error}); give a question set in SQuAD's form") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BadRequest(
            f"{path}: is no question set in SQuAD's form ({type(error).__name__}: {error}); it takes "
            '{"data": [{"paragraphs": [{"context": ..., "qas": [{"id", "question", "answers": [{"text", '
            '"answer_start"}]}]}]}]}'
        ) from error
    return Material(tuple(dict.fromkeys(passages)), tuple(found))


def _answerable(asked: Any, context: str, parts: Sequence[str]) -> Question | None:
    if not asked["answers"]:
        return None
    first = int(asked["answers"][0]["answer_start"])
    answers = tuple(dict.fromkeys(str(answer["text"]) for answer in asked["answers"]))
    end = 0
    for part in parts:
        start = context.index(part, end)
        end = start + len(part)
        if start <= first and first + len(answers[0]) <= end:
            text = f"{asked['question']} {_BRIEFLY}"
            return Question(str(asked["id"]), text, answers, (part,))
    return None


def made_of(passages: Iterable[str], rng: Random) -> Material:
    """One question of each passage that has a sentence long enough: how does it go on?"""
    distinct = tuple(dict.fromkeys(passages))
    found: list[Question] = []
    for number, passage in enumerate(distinct):
        long_ones = [
            words
            for sentence in _SENTENCE.split(passage)
            if len(words := sentence.split()) >= CUE_WORDS + ANSWER_WORDS
        ]
        if not long_ones:
            continue
        words = rng.choice(long_ones)
        start = rng.randrange(len(words) - CUE_WORDS - ANSWER_WORDS + 1)
        cue = " ".join(words[start : start + CUE_WORDS])
        answer = " ".join(words[start + CUE_WORDS :][:ANSWER_WORDS])
        text = f'Which words follow "{cue}" in the documents? Reply with these words alone.'
        found.append(Question(f"made-{number}", text, (answer,), (passage,)))
    return Material(distinct, tuple(found))


def choose(material: Material, *, single: int, pairs: int, rng: Random) -> list[Question]:
    """So many questions of one passage, and so many of two: two questions at once about different passages.

    Passages take turns, so that few questions are about many. Fewer, where there are not enough.
    """
    shuffled = rng.sample(material.questions, k=len(material.questions))
    turns: dict[tuple[str, ...], int] = {}
    ranked: list[tuple[int, int, Question]] = []
    for number, question in enumerate(shuffled):
        turn = turns[question.passages] = turns.get(question.passages, 0) + 1
        ranked.append((turn, number, question))
    ordered = [question for _, _, question in sorted(ranked, key=lambda each: each[:2])]
    chosen, rest = ordered[:single], ordered[single:] + ordered[:single]
    for first, second in zip(rest[0 : 2 * pairs : 2], rest[1 : 2 * pairs : 2], strict=False):
        if first.passages != second.passages:
            chosen.append(_both(first, second))
    return chosen


def _both(first: Question, second: Question) -> Question:
    text = f"Answer both questions. First: {first.text} Second: {second.text}"
    answer = f"First: {first.answers[0]} Second: {second.answers[0]}"
    return Question(f"{first.id}+{second.id}", text, (answer,), first.passages + second.passages)
