"""What makes two requests the same conversation, as far as the search goes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mygo.api.service import AnswerRequest, Message, Retrieval
from mygo.config import Config
from mygo.filters import Comparison
from mygo.prompt import Conversations
from mygo.prompt import Message as Turn
from mygo.serve.planning import Plan, Planner, _searched
from mygo.serve.search import Found
from mygo.types import (
    ContentHash,
    DocId,
    DomainTag,
    GenerateRequest,
    Passage,
    Prompt,
    RequestId,
    Sampling,
    ScoredPassage,
    Segment,
    SegmentKey,
    SegmentKind,
    StoreId,
    TenantId,
)
from tests.unit.prompt.prompt_models import ROOT, SYSTEM, make_builder


def asked(user: str | None) -> AnswerRequest:
    filters = Comparison("user", "eq", user) if user else None
    return AnswerRequest(
        RequestId("req"),
        (Message("user", "hello"),),
        Sampling(max_tokens=1),
        Retrieval((StoreId("vs_1"),), 4, filters),
    )


def test_conversation_is_another_when_the_filter_differs() -> None:
    conversations = Conversations(10, root=SegmentKey("root"), system="")
    tenant, turns = TenantId("t"), [Turn("user", "hello")]
    conversations.remember(tenant, turns, Prompt(()), "hi", [1], stores=_searched(asked("alice")))
    answered = [*turns, Turn("assistant", "hi")]
    assert conversations.recall(tenant, answered, stores=_searched(asked("alice"))) is not None
    for user in ("bob", None):
        assert conversations.recall(tenant, answered, stores=_searched(asked(user))) is None


def test_plan_no_longer_holds_when_a_document_of_the_turn_before_is_deleted() -> None:
    conversations = Conversations(10, root=SegmentKey("root"), system="")
    planner = Planner(Config(), None, conversations, None, b"")  # type: ignore[arg-type]
    tenant, domain = TenantId("t"), DomainTag("t")
    passage = Passage(DocId("d"), 0, "rain falls", ContentHash("rain"), domain=domain)
    prompt = Prompt((Segment(SegmentKind.DOCUMENT, (1, 2), SegmentKey("k"), domain, passage),))
    conversations.remember(tenant, [Turn("user", "hello")], prompt, "hi", [3], stores=_searched(asked(None)))
    messages = (Message("user", "hello"), Message("assistant", "hi"), Message("user", "and then?"))
    request = replace(asked(None), messages=messages)
    earlier = planner._earlier(tenant, request, [Turn(each.role, each.text) for each in messages])
    assert earlier is not None
    generate = GenerateRequest(RequestId("r"), [1, 2], (), Sampling(max_tokens=1))
    appended, fresh = Plan(prompt, generate, "", earlier), Plan(prompt, generate, "")
    assert planner.still_holds(tenant, request, appended, Found([]))
    conversations.forget_document(domain, passage.content_hash)
    assert not planner.still_holds(tenant, request, appended, Found([]))
    assert planner.still_holds(tenant, request, fresh, Found([]))


@pytest.mark.parametrize(
    ("attributes", "shown"),
    [({"user": "alice"}, True), ({"user": "bob"}, False), (None, False)],
    ids=["as it was", "another's now", "deleted, of which the news is on its way"],
)
def test_turn_is_appended_only_if_its_documents_may_still_be_shown(
    attributes: dict[str, Any] | None, shown: bool
) -> None:
    conversations = Conversations(10, root=ROOT, system=SYSTEM)
    dispatcher = SimpleNamespace(
        directory=SimpleNamespace(holders=lambda key: ()),
        price_s=lambda prompt: -len(prompt.token_ids),
    )
    planner = Planner(Config(), make_builder(), conversations, dispatcher, b"")  # type: ignore[arg-type]
    tenant, store = TenantId("t"), StoreId("vs_1")
    passages = [
        Passage(DocId(name), 0, text, ContentHash(name), store, domain=DomainTag("t"))
        for name, text in (("f", "the salary is 100 " * 9), ("g", "rain falls"))
    ]
    f, g = ((store, passage.doc_id) for passage in passages)
    first = asked("alice")
    found = Found([ScoredPassage(passages[0], 0.9)], {f: {"user": "alice"}})
    second = replace(
        first, messages=(*first.messages, Message("assistant", "100"), Message("user", "and again?"))
    )

    async def plan() -> None:
        turn = await planner.plan(tenant, first, found)
        planner.remember(tenant, first, turn.prompt, "100", [5], came_s=time.monotonic())
        assert planner.shown_earlier(tenant, first) == []
        assert planner.shown_earlier(tenant, second) == [f]
        # what is searched now finds another document
        known = {g: {"user": "alice"}} | ({f: attributes} if attributes is not None else {})
        next_turn = await planner.plan(tenant, second, Found([ScoredPassage(passages[1], 0.9)], known))
        told = [each.passage.doc_id for each in next_turn.prompt.segments if each.passage is not None]
        assert told == (["f", "g"] if shown else ["g"])
        if shown:
            gone = Found([ScoredPassage(passages[1], 0.9)], {g: {"user": "alice"}})
            assert planner.still_holds(tenant, second, next_turn, Found([], known))
            assert not planner.still_holds(tenant, second, next_turn, gone)

    asyncio.run(plan())


def test_document_has_the_salt_of_those_who_may_read_it_and_the_system_prompt_whatever_is_before_it() -> None:
    planner = Planner(Config(), None, None, None, b"secret")  # type: ignore[arg-type]

    def own_salts(system: str, *documents: tuple[str, str]) -> list[str]:
        """``documents``: own domain, and the path's at its end."""
        segments = [Segment(SegmentKind.SYSTEM, (1,), SegmentKey("k"), DomainTag(system))]
        for own, path in documents:
            passage = Passage(DocId("d"), 0, "text", ContentHash("hash"), domain=DomainTag(own))
            segments.append(Segment(SegmentKind.DOCUMENT, (2,), SegmentKey("k"), DomainTag(path), passage))
        first, *spans = planner._spans(Prompt(tuple(segments)))
        assert not first.own_salt
        return [span.own_salt for span in spans]

    def salts(*domains: str) -> list[str]:
        return [planner.salt(DomainTag(each)) for each in domains]

    assert own_salts("public", ("a", "a"), ("public", "a"), ("b", "a+b")) == salts("a", "public", "b")
    assert own_salts("a", ("public", "a"), ("b", "a+b")) == salts("a", "a+b"), "a tenant's own system prompt"
