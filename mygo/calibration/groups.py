"""Which prompts measure a question: its passages among others, and earlier prompts in which they were born.

A passage's KV must come from a prompt in which it stood behind other passages than now, as it does in
service. So questions are measured in groups: the first passages of all questions of a group are computed in
one prompt, behind a passage that is in none of theirs, the second ones in the next, and so on. No two
passages of a question meet before they meet in it: none has seen what it sees now, which is the hardest case.
Then all this once more, with other neighbours: what ranks tokens compares two births.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from mygo.calibration.questions import Question
from mygo.errors import BadRequest

GROUP_QUESTIONS = 4
BIRTHS = 2
"""Of each passage."""


@dataclass(frozen=True, slots=True)
class Posed:
    question: Question
    passages: tuple[str, ...]
    """In the order of the prompt; what answers the question may stand anywhere."""
    by_popularity: tuple[str, ...]
    """The same in an order that all prompts have in common, and that knows no question."""


@dataclass(frozen=True, slots=True)
class Group:
    posed: tuple[Posed, ...]
    births: tuple[tuple[str, ...], ...]
    """Passages of the prompts that are computed first. Each is in ``BIRTHS`` of them, but the first one of a
    prompt, which is in no question."""


def groups(
    questions: Sequence[Question], passages: Sequence[str], *, documents: int, seed: int
) -> list[Group]:
    """``documents``: passages of each prompt. Equal arguments give equal groups.

    Raises BadRequest if there are too few passages for it.
    """
    needed = documents * (GROUP_QUESTIONS + BIRTHS)
    if len(passages) < needed:
        raise BadRequest(
            f"{len(passages)} passages are too few for prompts of {documents} documents with different "
            f"neighbours: give documents of at least {needed} passages, or fewer documents per prompt"
        )
    found: list[Group] = []
    ranked = Random(f"{seed} popularity").sample(passages, k=len(passages))
    rank = {passage: place for place, passage in enumerate(ranked)}
    waiting = list(questions)
    while waiting:
        chosen: list[Question] = []
        taken: set[str] = set()
        for question in waiting:
            if len(chosen) < GROUP_QUESTIONS and taken.isdisjoint(question.passages):
                chosen.append(question)
                taken.update(question.passages)
        waiting = [question for question in waiting if question not in chosen]
        rng = Random(f"{seed} {chosen[0].id}")
        found.append(_group(chosen, taken, passages, documents, rank, rng))
    # what is measured of them before a run is cut off is of all kinds
    return Random(seed).sample(found, k=len(found))


def _group(
    questions: Sequence[Question],
    taken: set[str],
    passages: Sequence[str],
    documents: int,
    rank: Mapping[str, int],
    rng: Random,
) -> Group:
    others = [passage for passage in rng.sample(passages, k=len(passages)) if passage not in taken]
    posed: list[Posed] = []
    for question in questions:
        if len(question.passages) > documents:
            raise BadRequest(
                f"{question.id} takes {len(question.passages)} passages, and prompts have {documents} "
                "documents: give more documents per prompt"
            )
        own = list(question.passages)
        while len(own) < documents:
            own.append(others.pop())
        by_popularity = tuple(sorted(own, key=rank.__getitem__))
        posed.append(Posed(question, tuple(rng.sample(own, k=documents)), by_popularity))
    births = []
    for birth in range(BIRTHS):
        for place in range(documents):
            # each from another place of its question the second time: behind other ones
            born = [each.passages[(place + birth * at) % documents] for at, each in enumerate(posed)]
            births.append((others.pop(), *rng.sample(born, k=len(born))))
    return Group(tuple(posed), tuple(births))
