"""Words for a trace: texts of exactly the token lengths that a trace names, made of real documentation.

A trace has ids and lengths. The text of an id depends on the id, the seed and the length alone, so every
system under test, in every process and run, gets the same words for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from benchmarks.texts import Docstrings
from mygo.models import tokenizer_path
from mygo.workloads import TextId, Trace, TraceRequest

DOCUMENT_LEAD = "\n\n"
"""What ``mygo.prompt`` puts before a document's text, in the document's own segment."""

_CHARS_PER_TOKEN = 5
"""A little more than these texts have, so that one cut is mostly enough."""
_STRETCH_CHARS = 100_000
_VOCABULARY_CHARS = 200_000
_TITLE_WORDS = 5
_TRIES = 200


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of one request, in the order of a prompt."""

    system: str
    documents: tuple[str, ...]
    history: tuple[str, ...]
    question: str


class Synthesizer:
    """Makes texts for one tokenizer.

    A text of n tokens has exactly n when it is tokenized by itself without special tokens; a document has
    them together with ``document_lead`` before it, as the segment of a prompt is tokenized. A document that
    would be no longer than its lead is one letter long. No text begins or ends with white space, so nothing
    that strips texts changes a length.

    The first words of a text are five out of some thousand, drawn by its id, so two ids differ from their
    first block on, even where a large corpus cuts the same stretch twice.
    """

    def __init__(self, model_path: Path, *, seed: int = 0, document_lead: str = DOCUMENT_LEAD) -> None:
        """``model_path``: the served model's folder. Raises ConfigError if it has no tokenizer.json."""
        self._tokenizer = Tokenizer.from_file(str(tokenizer_path(model_path)))
        self._docstrings = Docstrings(model_path)
        self._seed = seed
        self._lead = document_lead
        # Not the lead's own length: white space before a word is cut in another way than by itself.
        self._least_tokens = self._tokens(f"{document_lead}A")
        sample = self._docstrings.stretch(Random(0), _VOCABULARY_CHARS)
        self._vocabulary = sorted(set(re.findall(r"\b[a-z]{4,10}\b", sample)))
        self._remembered = lru_cache(maxsize=16_384)(self._made)

    def words(self, trace: Trace, request: TraceRequest) -> Words:
        """The texts of ``request``."""
        return Words(
            system=self._named(trace, request.system),
            documents=tuple(self.document(trace, name) for name in request.documents),
            history=tuple(self._named(trace, name) for name in request.history),
            question=self.text(f"question {request.number}", request.question_tokens),
        )

    def document(self, trace: Trace, name: TextId) -> str:
        """The document ``name``; a copy has the words of its original."""
        text = trace.texts[name]
        return self._remembered(text.copy_of or name, max(text.tokens, self._least_tokens), self._lead)

    def text(self, name: str, tokens: int) -> str:
        """A text of exactly ``tokens`` tokens for the id ``name``; empty for 0.

        Raises ValueError if the tokenizer has no such text, which no length above 0 has been seen to do.
        """
        return self._remembered(name, tokens, "")

    def _named(self, trace: Trace, name: TextId) -> str:
        text = trace.texts[name]
        return self.text(text.copy_of or name, text.tokens)

    def _made(self, name: str, tokens: int, lead: str) -> str:
        if not tokens:
            return ""
        for words in self._drafts(name, tokens):
            draft = f"{lead}{words}"
            offsets = self._tokenizer.encode(draft, add_special_tokens=False).offsets
            if len(offsets) < tokens:
                continue
            text = draft[len(lead) : offsets[tokens - 1][1]]
            if text and text == text.strip() and self._tokens(f"{lead}{text}") == tokens:
                return text
        raise ValueError(
            f"{name}: found no text of {tokens} tokens in {_TRIES} tries; use another token_scale"
        )

    def _drafts(self, name: str, tokens: int) -> Iterator[str]:
        """Texts that are long enough, one after the other: a cut may fall where it changes the last tokens,
        because half a word is tokenized in another way than the beginning of the whole."""
        rng = Random(f"{self._seed}/{name}")
        chars = (tokens + 16) * _CHARS_PER_TOKEN
        for _ in range(_TRIES):
            title = " ".join(rng.choice(self._vocabulary) for _ in range(_TITLE_WORDS)).capitalize()
            stretches = [
                self._docstrings.stretch(rng, min(_STRETCH_CHARS, chars - begin))
                for begin in range(0, chars, _STRETCH_CHARS)
            ]
            yield f"{title}.\n{' '.join(stretches)}"

    def _tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)
