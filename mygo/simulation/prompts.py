"""A trace's requests as prompts: token ids drawn from each text's name, laid out as the prompt room does.

``[system][document 1]...[document k][history and question]``. Equal texts have equal ids, different
ones differ from their first token on, and keys narrow with domains as in production; so a cache sees
the same prefixes as it would with the real texts.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

from mygo.prompt.order import CacheOrder, Document, Path
from mygo.tree.keys import narrow, passage_tag, root_key
from mygo.types import (
    PUBLIC,
    ContentHash,
    DocId,
    DomainTag,
    GenerateRequest,
    Passage,
    Prompt,
    RequestId,
    Reuse,
    Sampling,
    ScoredPassage,
    Segment,
    SegmentKey,
    SegmentKind,
    SegmentSpan,
)
from mygo.workloads.trace import TextId, Trace, TraceRequest

NEUTRAL_TOKENS = 85
CHARS_PER_TOKEN = 4
"""Of the text that routers see which know no tokens."""


class Prompts:
    """Prompts of one trace; texts are drawn once each."""

    def __init__(self, trace: Trace, vocabulary: int) -> None:
        """``vocabulary``: number of token ids of the engine that will serve them."""
        self._trace = trace
        self._vocabulary = vocabulary
        self._ids: dict[TextId, tuple[int, ...]] = {}
        self._root = Path(root_key(model=f"emulated {trace.name}", kv_dtype="none"), PUBLIC)

    def prompt(self, request: TraceRequest, cached: Callable[[SegmentKey], float] | None = None) -> Prompt:
        """``cached`` tells how much a segment is cached, for the document order ``cache``; without it,
        documents stand as retrieved."""
        path, segments = self._root, []

        def append(
            kind: SegmentKind, ids: tuple[int, ...], domain: DomainTag, passage: Passage | None = None
        ) -> None:
            nonlocal path
            path = path.then(domain, ids)
            segments.append(Segment(kind, ids, path.key, path.domain, passage))

        append(SegmentKind.SYSTEM, self._text(request.system), self._domain(request.system))
        for document in self._documents(request, path, cached):
            append(SegmentKind.DOCUMENT, document.token_ids, document.domain, document.scored.passage)
        tenant = narrow(path.domain, DomainTag(request.tenant))
        for text in request.history:
            append(SegmentKind.TURN, self._text(text), tenant)
        # an empty question would leave an engine nothing to compute
        question = self._draw(
            f"{self._trace.name} question {request.number}", max(1, request.question_tokens)
        )
        append(SegmentKind.TURN, question, tenant)
        return Prompt(tuple(segments))

    def neutral(self) -> list[tuple[int, ...]]:
        """Neutral documents, as long as ``mygo/prompt/neutral.py``'s."""
        return [self._draw(f"{self._trace.name} neutral {number}", NEUTRAL_TOKENS) for number in range(2)]

    def routing_text(self, prompt: Prompt) -> str:
        """The prompt for routers that compare characters: equal prefixes exactly where ids are equal."""
        return "".join(
            (f"<{segment.key[:12]}>" + "." * CHARS_PER_TOKEN * len(segment.token_ids))[
                : CHARS_PER_TOKEN * len(segment.token_ids)
            ]
            for segment in prompt.segments
        )

    def generate_request(
        self, request: TraceRequest, prompt: Prompt, reuse: Reuse = Reuse.EXACT
    ) -> GenerateRequest:
        trunk = prompt.segments[0].domain  # the system prompt's
        spans = tuple(
            SegmentSpan(segment.key, step.end_tokens, segment.domain, *_names(segment.passage, trunk))
            for segment, step in zip(prompt.segments, prompt.path, strict=True)
        )
        return GenerateRequest(
            RequestId(f"r{request.number}"),
            prompt.token_ids,
            spans,
            Sampling(max_tokens=max(1, request.output_tokens), ignore_eos=True),
            answer_domain=prompt.segments[-1].domain,
            reuse=reuse,
        )

    def _documents(
        self, request: TraceRequest, start: Path, cached: Callable[[SegmentKey], float] | None
    ) -> list[Document]:
        ranked = [
            Document(ScoredPassage(self._passage(text), 0.0), self._text(text)) for text in request.documents
        ]
        return ranked if cached is None else CacheOrder(cached)(ranked, start)

    def _passage(self, text: TextId) -> Passage:
        content = self._trace.texts[text].copy_of or text
        return Passage(DocId(text), 0, "", ContentHash(content), domain=self._domain(text))

    def _domain(self, text: TextId) -> DomainTag:
        return self._trace.texts[text].domain

    def _text(self, text: TextId) -> tuple[int, ...]:
        ids = self._ids.get(text)
        if ids is None:
            described = self._trace.texts[text]
            name = described.copy_of or text
            ids = self._ids[text] = self._draw(f"{self._trace.name} {name}", described.tokens)
        return ids

    def _draw(self, name: str, tokens: int) -> tuple[int, ...]:
        rng = random.Random(zlib.crc32(name.encode()))
        return tuple(rng.choices(range(self._vocabulary), k=tokens))


def _names(passage: Passage | None, trunk: DomainTag) -> tuple[str, str]:
    """A document's tag, and its salt behind the system prompt alone."""
    if passage is None:
        return "", ""
    return passage_tag(b"", passage.domain, passage.content_hash), narrow(trunk, passage.domain)
