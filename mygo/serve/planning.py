"""From what was asked and found to what a worker is asked: the prompt, its segments, whose they are."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mygo.api.service import AnswerRequest, InlineDocument
from mygo.config import Config
from mygo.filters import matches
from mygo.prompt import (
    CacheOrder,
    Conversations,
    DocumentOrder,
    Earlier,
    Message,
    PromptBuilder,
    retrieval_order,
)
from mygo.serve.dispatch import Dispatcher
from mygo.serve.search import Document, Found
from mygo.tree.keys import domain_salt, narrow, passage_tag
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
    SegmentSpan,
    TenantId,
)

INLINE_CHARS = 50_000
"""Requests up to this size are tokenized on the event loop (about 40 ms)."""
MESSAGE_CHARS = 100
"""What laying out a message costs beyond its text, in characters."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A prompt, and what a worker is asked for it."""

    prompt: Prompt
    asked: GenerateRequest
    text: str
    """The prompt as text, for the baseline routers that look at characters."""
    earlier: Earlier | None = None
    """The turn that it is appended to."""

    def named(self, request_id: RequestId) -> Plan:
        """The same under another id: an engine may still know the one before it."""
        return replace(self, asked=replace(self.asked, request_id=request_id))


class Planner:
    """One per ingress. What it plans rests on what is cached now, so equal questions may be laid out
    differently later; see ``Ingress``."""

    def __init__(
        self,
        config: Config,
        builder: PromptBuilder,
        conversations: Conversations,
        dispatcher: Dispatcher,
        secret: bytes,
    ) -> None:
        self._config = config
        self._builder = builder
        self._conversations = conversations
        self._dispatcher = dispatcher
        self._secret = secret
        self._salts: dict[DomainTag, str] = {}

    async def plan(self, tenant: TenantId, request: AnswerRequest, found: Found) -> Plan:
        """The prompt for what was found. Raises BadRequest if it cannot fit."""
        prompt, earlier = await self._lay_out(tenant, request, found)
        spans = self._spans(prompt)
        has_documents = any(span.tag for span in spans)
        reuse = Reuse.narrowest((request.reuse, *found.reuse)) if has_documents else Reuse.EXACT
        asked = GenerateRequest(
            request_id=request.request_id,
            token_ids=prompt.token_ids,
            spans=spans,
            sampling=self._fitted(request, prompt),
            answer_domain=prompt.segments[-1].domain,
            reuse=reuse,
        )
        return Plan(prompt, asked, _text(request, prompt), earlier)

    def shown_earlier(self, tenant: TenantId, request: AnswerRequest) -> list[Document]:
        """Documents of stores in the turn that this one may be appended to: ``plan`` is to know of them."""
        earlier = self._earlier(tenant, request, _messages(request))
        return list(dict.fromkeys(_stored(earlier))) if earlier is not None else []

    def still_holds(self, tenant: TenantId, request: AnswerRequest, plan: Plan, found: Found) -> bool:
        """False if the turn that it is appended to was forgotten since, as those are that saw a document
        which was deleted, or may not be shown any more."""
        earlier = plan.earlier
        return earlier is None or (
            self._earlier(tenant, request, _messages(request)) is earlier
            and _may_be_shown(earlier, request, found)
        )

    def is_long(self, request: AnswerRequest) -> bool:
        """Whether planning takes long enough to hold up other requests' tokens, so that it is done apart."""
        return _chars(request) >= INLINE_CHARS

    def opening(self, tenant: TenantId, request: AnswerRequest) -> Plan | None:
        """What the prompt will begin with whatever is found; its one token is not for anybody.

        None where that is not known. Raises BadRequest as ``plan``.
        """
        messages = _messages(request)
        if self._earlier(tenant, request, messages) is not None:
            return None
        prompt = self._builder.opening(messages, domain=DomainTag(tenant))
        if not prompt.segments:
            return None
        asked = GenerateRequest(
            request_id=request.request_id,
            token_ids=prompt.token_ids,
            spans=self._spans(prompt),
            sampling=Sampling(max_tokens=1, temperature=0.0, ignore_eos=True),
            answer_domain=prompt.segments[-1].domain,
        )
        return Plan(prompt, asked, request.messages[0].text)

    def remember(
        self,
        tenant: TenantId,
        request: AnswerRequest,
        prompt: Prompt,
        text: str,
        ids: Sequence[int],
        *,
        came_s: float,
    ) -> None:
        """Keep a finished answer to a request that ``came_s`` (monotonic), so that the next turn can be
        appended to it."""
        self._conversations.remember(
            tenant, _messages(request), prompt, text, ids, stores=_searched(request), came_s=came_s
        )

    def salt(self, domain: DomainTag) -> str:
        """What blocks of this domain are hashed with."""
        salt = self._salts.get(domain)
        if salt is None:
            salt = self._salts[domain] = domain_salt(self._secret, domain)
        return salt

    async def _lay_out(
        self, tenant: TenantId, request: AnswerRequest, found: Found
    ) -> tuple[Prompt, Earlier | None]:
        """Documents first, or appended to the conversation so far: whichever drops fewer passages, then
        whichever is predicted to be sooner."""
        messages = _messages(request)
        earlier = self._earlier(tenant, request, messages)
        passages = found.passages
        if earlier is not None and not (
            _sent_again(earlier, passages) and _may_be_shown(earlier, request, found)
        ):
            earlier = None
        if self.is_long(request):
            fresh, appended = await asyncio.to_thread(
                self._layouts, tenant, request, passages, messages, earlier
            )
        else:
            fresh, appended = self._layouts(tenant, request, passages, messages, earlier)
        if appended is None:
            return fresh, None
        # losing a document is worse than losing time; equal prices favour the layout that grows
        best = min(
            (appended, fresh),
            key=lambda prompt: (len(prompt.dropped), self._dispatcher.price_s(prompt)),
        )
        return best, earlier if best is appended else None

    def _earlier(
        self, tenant: TenantId, request: AnswerRequest, messages: Sequence[Message]
    ) -> Earlier | None:
        return self._conversations.recall(tenant, messages[:-1], stores=_searched(request))

    def _layouts(
        self,
        tenant: TenantId,
        request: AnswerRequest,
        passages: list[ScoredPassage],
        messages: Sequence[Message],
        earlier: Earlier | None,
    ) -> tuple[Prompt, Prompt | None]:
        """(documents first, appended to ``earlier``). May run in a thread, so it changes nothing."""
        domain = DomainTag(tenant)
        order = self._order(request)
        # the default is a wish: it shrinks to what the context leaves, in place of refusing the prompt
        asked = request.sampling.max_tokens
        max_tokens = None if asked == self._config.prompt.default_max_tokens else asked
        fresh = self._builder.documents_first(
            messages, passages, domain=domain, max_tokens=max_tokens, order=order
        )
        if earlier is None:
            return fresh, None
        appended = self._builder.appended(
            earlier, messages, passages, domain=domain, max_tokens=max_tokens, order=order
        )
        return fresh, appended

    def _order(self, request: AnswerRequest) -> DocumentOrder:
        if request.document_order == "retrieval":
            return retrieval_order
        return CacheOrder(lambda key: len(self._dispatcher.directory.holders(key)))

    def _spans(self, prompt: Prompt) -> tuple[SegmentSpan, ...]:
        system = prompt.segments[0]
        trunk = PUBLIC if system.passage is not None else system.domain
        return tuple(
            SegmentSpan(
                segment.key, step.end_tokens, self.salt(segment.domain), *self._names(segment.passage, trunk)
            )
            for segment, step in zip(prompt.segments, prompt.path, strict=True)
        )

    def _names(self, passage: Passage | None, trunk: DomainTag) -> tuple[str, str]:
        """A document's tag and own salt, behind a system prompt of this domain."""
        if passage is None:
            return "", ""
        tag = passage_tag(self._secret, passage.domain, passage.content_hash)
        return tag, self.salt(narrow(trunk, passage.domain))

    def _fitted(self, request: AnswerRequest, prompt: Prompt) -> Sampling:
        room = self._builder.remaining_tokens(prompt)
        return replace(request.sampling, max_tokens=max(1, min(request.sampling.max_tokens, room)))


def inline(documents: Sequence[InlineDocument], domain: DomainTag) -> Found:
    """Documents that came with the request, as if they had been found."""
    return Found([_inline(document, domain) for document in documents])


def _inline(document: InlineDocument, domain: DomainTag) -> ScoredPassage:
    digest = hashlib.sha256(document.text.encode(errors="surrogatepass")).hexdigest()
    passage = Passage(
        doc_id=DocId(document.id),
        index=0,
        text=document.text,
        content_hash=ContentHash(digest),
        filename=document.title,
        domain=domain,
    )
    return ScoredPassage(passage, 0.0)


def _messages(request: AnswerRequest) -> list[Message]:
    return [Message(message.role, message.text) for message in request.messages]


def _searched(request: AnswerRequest) -> tuple[Any, ...]:
    """Where a request looks. The same words with another filter are another conversation too: filters
    keep the documents of one user from another, and an appended turn repeats the earlier documents."""
    if request.retrieval is None:
        return ()
    filters = request.retrieval.filters
    return (*request.retrieval.store_ids, *([f"filter {filters!r}"] if filters else []))


def _sent_again(earlier: Earlier, passages: Sequence[ScoredPassage]) -> bool:
    """True if all inline documents of an earlier turn came with this one too.

    Equal words do not make an equal conversation: two users of a tenant may begin alike over documents
    of their own, and an appended turn shows the earlier ones to the model again.
    """
    now = {scored.passage.content_hash for scored in passages}
    before = (segment.passage for segment in earlier.prompt.segments)
    return all(
        passage.content_hash in now for passage in before if passage is not None and passage.store_id is None
    )


def _may_be_shown(earlier: Earlier, request: AnswerRequest, found: Found) -> bool:
    """True if all documents of stores in an earlier turn are still there, and pass the filters as they are
    now: attributes change, and news of a deletion may be on its way to this process."""
    filters = request.retrieval.filters if request.retrieval is not None else None
    attributes = [found.attributes.get(document) for document in _stored(earlier)]
    return all(each is not None and (filters is None or matches(filters, each)) for each in attributes)


def _stored(earlier: Earlier) -> list[Document]:
    passages = (segment.passage for segment in earlier.prompt.segments)
    return [
        (each.store_id, each.doc_id) for each in passages if each is not None and each.store_id is not None
    ]


def _chars(request: AnswerRequest) -> int:
    texts = [message.text for message in request.messages] + [each.text for each in request.documents]
    return sum(len(text) + MESSAGE_CHARS for text in texts)


def _text(request: AnswerRequest, prompt: Prompt) -> str:
    documents = [segment.passage.text for segment in prompt.segments if segment.passage is not None]
    return "\n".join([*documents, *(message.text for message in request.messages)])
