"""Each question exactly, in two orders of its documents, and by every repair of KV from other prompts."""

from __future__ import annotations

import hashlib
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import AutoTokenizer

from mygo.blend.selection import Repair
from mygo.calibration.engine import Answer, Asked, BlendEngine
from mygo.calibration.groups import Group, Posed
from mygo.calibration.records import CACHE_ORDER, EXACT, Outcome, Records
from mygo.config import Config
from mygo.prompt.build import PromptBuilder
from mygo.prompt.template import ChatTemplate, Message
from mygo.tree.keys import root_key
from mygo.types import ContentHash, DocId, DomainTag, Passage, Prompt, ScoredPassage, SegmentKind

ANSWER_TOKENS = 16
"""Longest answer of the model's own that is compared."""
_TENANT = DomainTag("calibration")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Prompts:
    """Prompts as a deployment with this configuration lays them out."""

    def __init__(self, config: Config, model: str) -> None:
        self.block_tokens = config.model.block_tokens
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self._builder = PromptBuilder(
            ChatTemplate.from_tokenizer(self.tokenizer),
            self.tokenizer,
            root_key(model=config.model.name, kv_dtype=config.model.dtype),
            max_context_tokens=config.model.max_context_tokens,
            system=config.prompt.system,
            after_documents=config.prompt.after_documents,
        )

    def prompt(self, passages: Sequence[str], question: str) -> Prompt:
        return self._builder.documents_first(
            [Message("user", question)], [_scored(text) for text in passages], domain=_TENANT
        )

    def answer_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def text(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True))


def _scored(text: str) -> ScoredPassage:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return ScoredPassage(Passage(DocId(digest[:16]), 0, text, ContentHash(digest)), 0.0)


def measure(
    engine: BlendEngine,
    prompts: Prompts,
    groups: Iterable[Group],
    repairs: Sequence[Repair],
    records: Records,
    say: Callable[[int], None],
) -> None:
    """Add to ``records`` what they do not know yet of these groups; ``say`` is told of questions that are
    done."""
    for group in groups:
        todo: dict[Posed, list[Way]] = {}
        for posed in group.posed:
            wanted = [Way(repair.method.value, repair.share, repair) for repair in repairs]
            wanted.append(Way(CACHE_ORDER, 1.0))
            missing = [way for way in wanted if not records.has(posed.question.id, way.method, way.share)]
            if missing:
                todo[posed] = missing
        if todo:
            records.add(_measured(engine, prompts, group, todo))
        say(len(group.posed))


@dataclass(frozen=True, slots=True)
class Way:
    """To answer a question."""

    method: str
    share: float
    repair: Repair | None = None
    """None: all is computed."""

    def passages(self, posed: Posed) -> tuple[str, ...]:
        return posed.by_popularity if self.method == CACHE_ORDER else posed.passages


_EXACT = Way(EXACT, 1.0)


def _measured(
    engine: BlendEngine, prompts: Prompts, group: Group, todo: dict[Posed, list[Way]]
) -> list[Outcome]:
    engine.forget(chunks=True)
    births = [prompts.prompt(passages, group.posed[0].question.text) for passages in group.births]
    engine.answer([Asked(prompt) for prompt in births])
    engine.forget(chunks=False)
    # from here on the system prompt lies on the device for all, so that what chunks give can be told apart
    engine.answer([Asked(prompts.prompt((), group.posed[0].question.text))])
    ways = [(posed, way) for posed, wanted in todo.items() for way in wanted]
    blended = [each for each in ways if each[1].repair is not None]
    # last, because what they compute is kept, and would be reused in the place where it was born
    computed = [each for each in ways if each[1].repair is None] + [(posed, _EXACT) for posed in todo]
    found = dict(zip(blended, _asked(engine, prompts, blended), strict=True))
    found |= zip(computed, _asked(engine, prompts, computed), strict=True)
    exact = [(posed, _EXACT) for posed in todo]  # first: who is known in any other way is known in this one
    return [
        _outcome(prompts, posed, way, found[posed, way], found[posed, _EXACT])
        for posed, way in (*exact, *ways)
    ]


Answers = tuple[Answer, Answer]
"""What it was made to say, and what it said by itself."""


def _asked(engine: BlendEngine, prompts: Prompts, ways: Sequence[tuple[Posed, Way]]) -> list[Answers]:
    asked: list[Asked] = []
    for posed, way in ways:
        prompt = prompts.prompt(way.passages(posed), posed.question.text)
        asked.append(Asked(prompt, way.repair, said=prompts.answer_ids(posed.question.answers[0])))
        asked.append(Asked(prompt, way.repair, max_tokens=ANSWER_TOKENS))
    answers = engine.answer(asked)
    return list(zip(answers[::2], answers[1::2], strict=True))


def _outcome(prompts: Prompts, posed: Posed, way: Way, answers: Answers, exact: Answers) -> Outcome:
    said, own = answers
    right, text = posed.question.answers, prompts.text(own.token_ids)
    return Outcome(
        question=posed.question.id,
        documents=len(posed.question.passages),
        method=way.method,
        share=way.share,
        first_token_kl=kl(exact[0].first, said.first),
        gold_nats=said.nats,
        gold_nats_more=said.nats - exact[0].nats,
        computed_share=1.0 if way.repair is None else _computed_share(prompts, posed, answers),
        f1=max(f1(text, answer) for answer in right),
        exact_match=float(any(_words(text) == _words(answer) for answer in right)),
        same=own.token_ids == exact[1].token_ids,
    )


def _computed_share(prompts: Prompts, posed: Posed, answers: Answers) -> float:
    """Of the documents' tokens."""
    prompt = prompts.prompt(posed.passages, posed.question.text)
    document_tokens = sum(
        len(segment.token_ids) for segment in prompt.segments if segment.kind is SegmentKind.DOCUMENT
    )
    system_tokens = len(prompt.segments[0].token_ids)
    # the second of two equal requests finds on the device what the first one has loaded and computed
    cached_tokens = min(answer.cached_tokens for answer in answers)
    loaded_tokens = max(0, cached_tokens - system_tokens // prompts.block_tokens * prompts.block_tokens)
    return 1 - loaded_tokens / document_tokens


def kl(exact: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """KL(exact || other) in nats, of log probabilities of one vocabulary."""
    p, q = exact.astype(np.float64), other.astype(np.float64)
    return max(0.0, float(np.sum(np.exp(p) * (p - q))))


def f1(text: str, answer: str) -> float:
    """Of words, without articles, capitals and punctuation: SQuAD's own measure."""
    said, right = _words(text), _words(answer)
    common = (Counter(said) & Counter(right)).total()
    return 2 * common / (len(said) + len(right)) if common else float(said == right)


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
