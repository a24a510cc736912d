"""Lays out a prompt as segments that are tokenized apart, within the model's context.

Two layouts. ``documents_first``: ``[system][doc 1]...[doc k][closing][history + question]``. ``appended``:
``[an earlier prompt][its answer][new docs][question]``, which leaves every cached token where it is.
Which one is cheaper depends on what is cached, so the caller prices both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from mygo.errors import BadRequest
from mygo.prompt.conversation import Earlier
from mygo.prompt.encoding import TextEncoder
from mygo.prompt.order import Document, DocumentOrder, Path, retrieval_order
from mygo.prompt.template import ChatTemplate, Layout, Message, Slot, TurnLayout
from mygo.types import (
    PUBLIC,
    DomainTag,
    Passage,
    Prompt,
    ScoredPassage,
    Segment,
    SegmentKey,
    SegmentKind,
)

_GAP = "\n\n"
"""Between documents and a question in the same message."""
_REMEMBERED_CHARS = 20_000
"""Longest document whose ids are remembered: clients may send documents of megabytes, once each."""


class PromptBuilder:
    """Builds prompts for one model. Equal inputs give equal ids and keys, whatever came before.

    ``tokenizer``: the Hugging Face tokenizer that ``template`` was made from. ``root``: the key above
    all paths (``mygo.tree.keys.root_key``). ``system``: the system text of requests that bring none,
    shared by all tenants. ``after_documents``: a fixed text that closes the documents; with at least a
    block of it, the block in which the last document ends is the same for every question, so that it is
    computed once and not by each. ``cached_documents``: how many documents' ids are remembered (about 10 KB
    each at 240 tokens).
    """

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: Any,
        root: SegmentKey,
        *,
        max_context_tokens: int,
        system: str,
        after_documents: str = "",
        default_max_tokens: int = 256,
        cached_documents: int = 4096,
    ) -> None:
        self._template = template
        self._root = root
        self._max_context_tokens = max_context_tokens
        self._default_max_tokens = default_max_tokens
        self._system = system
        self._encoder = TextEncoder(tokenizer, template.text)
        # Keyed by the text itself: nothing rests on a hash that somebody else computed.
        self._document_ids = lru_cache(maxsize=cached_documents)(self._encoder.text)
        self._end_ids = {tokenizer.eos_token_id}
        self._closing = self._encoder.text(f"{_GAP}{after_documents}" if after_documents else "")
        if template.turn is not None:
            self._end_ids.update(self._encoder.literal(template.turn.joiner)[:1])

    def documents_first(
        self,
        messages: Sequence[Message],
        passages: Sequence[ScoredPassage],
        *,
        domain: DomainTag,
        max_tokens: int | None = None,
        order: DocumentOrder = retrieval_order,
    ) -> Prompt:
        """``[system][doc 1]...[doc k][history + question]`` for ``passages``, best first.

        ``domain`` is the tenant's. ``max_tokens`` is kept free for the answer; None keeps the default,
        or what the messages leave if that is less. Passages that do not fit are dropped from the tail
        of the ranking. Raises BadRequest for messages that the template cannot hold, and with code
        ``context_length_exceeded`` if they do not fit even without documents.
        """
        system, dialogue = self._checked(messages)
        layout = self._template.layout(tuple(message.role for message in dialogue))
        system_text, head = self._head(layout, system)
        # The gap follows what was asked for, not what fitted, so that the budget need not be solved twice.
        gap = _GAP if self._template.folds_system and (system_text or passages) else ""
        opening = self._encoder.literal(gap + _opening(layout.after))
        closing = self._closing + opening if passages else ()
        turn = self._fill(layout.after, dialogue, skip_opening=True)
        if not closing:
            turn = opening + turn

        room = self._room(len(head) + len(closing) + len(turn), max_tokens)
        ranked = [self._document(scored) for scored in passages]
        kept, dropped = _fitting(ranked, room)

        trunk = self._trunk(head, system, domain)
        trunk.append_documents(order(kept, trunk.path))
        trunk.append(SegmentKind.TURN, closing, PUBLIC)
        trunk.append(SegmentKind.TURN, turn, domain)
        return trunk.prompt([document.scored for document in kept], dropped)

    def opening(self, messages: Sequence[Message], *, domain: DomainTag) -> Prompt:
        """What ``documents_first`` begins with whatever the documents are: the system text.

        Raises BadRequest as documents_first.
        """
        system, dialogue = self._checked(messages)
        layout = self._template.layout(tuple(message.role for message in dialogue))
        return self._trunk(self._head(layout, system)[1], system, domain).prompt([], [])

    def appended(
        self,
        earlier: Earlier,
        messages: Sequence[Message],
        passages: Sequence[ScoredPassage],
        *,
        domain: DomainTag,
        max_tokens: int | None = None,
        order: DocumentOrder = retrieval_order,
    ) -> Prompt | None:
        """The earlier prompt and answer, token for token, then new documents and the last message.

        ``earlier`` comes from ``Conversations.recall`` for the messages before the last. Passages that
        the earlier prompt holds are cited but not repeated; its other documents are cited behind them.
        None if the template's turns cannot be appended, or if not even the question fits (documents
        first may, because it leaves the earlier documents out). Raises BadRequest as documents_first.
        """
        _, dialogue = self._checked(messages)
        turn = self._template.turn
        if turn is None:
            return None
        answer = earlier.answer_ids
        if answer and answer[-1] in self._end_ids:
            answer = answer[:-1]

        held = {_identity(segment.passage) for segment in earlier.prompt.segments if segment.passage}
        fresh = [scored for scored in passages if _identity(scored.passage) not in held]
        joiner = self._encoder.literal(turn.joiner)
        question = self._question(turn, dialogue[-1], after_documents=bool(fresh))
        try:
            taken = earlier.prompt.tokens + len(answer) + len(joiner) + len(question)
            room = self._room(taken, max_tokens)
        except BadRequest:
            return None
        kept, dropped = _fitting([self._document(scored) for scored in fresh], room)

        trunk = _Trunk.grown(earlier.prompt)
        trunk.append(SegmentKind.ANSWER, answer, domain)
        trunk.append(SegmentKind.TURN, joiner, domain)
        trunk.append_documents(order(kept, trunk.path))
        trunk.append(SegmentKind.TURN, question, domain)
        held.update(_identity(document.scored.passage) for document in kept)
        cited = [scored for scored in passages if _identity(scored.passage) in held]
        now = {_identity(scored.passage) for scored in cited}
        cited += [scored for scored in earlier.prompt.citations if _identity(scored.passage) not in now]
        return trunk.prompt(cited, dropped)

    def remaining_tokens(self, prompt: Prompt) -> int:
        """How many tokens the context has left for an answer to ``prompt``."""
        return self._max_context_tokens - prompt.tokens

    def _head(self, layout: Layout, system: str | None) -> tuple[str, tuple[int, ...]]:
        """(system text, the ids of all before the documents)."""
        text = self._template.trimmed("system", self._system if system is None else system)
        return text, self._encoder.literal(layout.before) + self._encoder.text(text)

    def _trunk(self, head: tuple[int, ...], system: str | None, domain: DomainTag) -> _Trunk:
        trunk = _Trunk(Path(self._root, PUBLIC))
        trunk.append(SegmentKind.SYSTEM, head, PUBLIC if system is None else domain)
        return trunk

    def _document(self, scored: ScoredPassage) -> Document:
        """Without a rank number: its ids must not change when it is ranked elsewhere."""
        passage = scored.passage
        source = f"Source: {passage.filename}\n" if passage.filename else ""
        text = f"{_GAP}{source}{passage.text.strip()}"
        encode = self._document_ids if len(text) <= _REMEMBERED_CHARS else self._encoder.text
        return Document(scored, encode(text))

    def _question(self, turn: TurnLayout, message: Message, *, after_documents: bool) -> tuple[int, ...]:
        gap = self._encoder.literal(_GAP if after_documents else "")
        text = self._encoder.text(self._template.trimmed(message.role, message.content))
        return gap + text + self._encoder.literal(turn.tail)

    def _fill(
        self, pieces: Sequence[str | Slot], messages: Sequence[Message], *, skip_opening: bool = False
    ) -> tuple[int, ...]:
        ids: list[int] = []
        for piece in pieces[1:] if skip_opening and _opening(pieces) else pieces:
            if isinstance(piece, str):
                ids += self._encoder.literal(piece)
            else:
                message = messages[piece.index]
                ids += self._encoder.text(self._template.trimmed(message.role, message.content))
        return tuple(ids)

    def _checked(self, messages: Sequence[Message]) -> tuple[str | None, Sequence[Message]]:
        """The leading system messages as one text (None if there are none), and the dialogue behind."""
        chars = sum(len(message.content) for message in messages)
        least_tokens = self._encoder.least_tokens(chars)
        if least_tokens > self._max_context_tokens:  # seconds of tokenizing would end in the same answer
            raise BadRequest(
                f"this model's context is {self._max_context_tokens} tokens, but the messages have {chars} "
                f"characters, at least {least_tokens} tokens; shorten the messages",
                param="messages",
                code="context_length_exceeded",
            )
        leading = 0
        while leading < len(messages) and messages[leading].role == "system":
            leading += 1
        texts = [message.content for message in messages[:leading]]
        _check(messages[leading:])
        return (_GAP.join(texts) if texts else None), messages[leading:]

    def _room(self, taken: int, max_tokens: int | None) -> int:
        """Tokens left for documents, after the answer's are set aside; raises if there are not enough."""
        left = self._max_context_tokens - taken
        reserved = min(self._default_max_tokens, max(1, left)) if max_tokens is None else max_tokens
        if reserved > left:
            remedy = "shorten the messages" if max_tokens is None else "shorten them or lower max_tokens"
            raise BadRequest(
                f"this model's context is {self._max_context_tokens} tokens, but the messages take {taken} "
                f"and the answer needs {reserved}; {remedy}",
                param="messages",
                code="context_length_exceeded",
            )
        return left - reserved


class _Trunk:
    """Segments so far, and the path that they make."""

    def __init__(self, path: Path, segments: Sequence[Segment] = ()) -> None:
        self.path = path
        self._segments = list(segments)

    @classmethod
    def grown(cls, prompt: Prompt) -> _Trunk:
        last = prompt.segments[-1]
        return cls(Path(last.key, last.domain), prompt.segments)

    def append(
        self,
        kind: SegmentKind,
        token_ids: tuple[int, ...],
        domain: DomainTag,
        passage: Passage | None = None,
    ) -> None:
        """Add a segment of ``domain``; nothing for no tokens, as an empty segment could never be held."""
        if token_ids:
            self.path = self.path.then(domain, token_ids)
            self._segments.append(Segment(kind, token_ids, self.path.key, self.path.domain, passage))

    def append_documents(self, documents: Iterable[Document]) -> None:
        for document in documents:
            passage = document.scored.passage
            self.append(SegmentKind.DOCUMENT, document.token_ids, passage.domain, passage)

    def prompt(self, cited: Sequence[ScoredPassage], dropped: Sequence[Document]) -> Prompt:
        return Prompt(
            segments=tuple(self._segments),
            citations=tuple(cited),
            dropped=tuple(document.scored.passage for document in dropped),
        )


def _opening(pieces: Sequence[str | Slot]) -> str:
    """The template's text before the first message."""
    first = pieces[0]
    return first if isinstance(first, str) else ""


def _check(dialogue: Sequence[Message]) -> None:
    for message in dialogue:
        if message.role not in ("system", "user", "assistant"):
            raise BadRequest(
                f"role {message.role!r} is not supported; use system, user or assistant", param="messages"
            )
    if not dialogue or dialogue[-1].role != "user":
        last = dialogue[-1].role if dialogue else "system"
        raise BadRequest(
            f"the last message must be the user's question, but its role is {last!r}", param="messages"
        )


def _fitting(ranked: Sequence[Document], room_tokens: int) -> tuple[Sequence[Document], Sequence[Document]]:
    """The longest head of the ranking that fits, and the tail that does not."""
    for count, document in enumerate(ranked):
        room_tokens -= len(document.token_ids)
        if room_tokens < 0:
            return ranked[:count], ranked[count:]
    return ranked, []


def _identity(passage: Passage) -> tuple[str, str]:
    """What makes two passages the same text in a prompt."""
    return passage.content_hash, passage.filename
