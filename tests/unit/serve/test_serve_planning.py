"""What makes two requests the same conversation, as far as the search goes."""

from __future__ import annotations

from dataclasses import replace

from mygo.api.service import AnswerRequest, Message, Retrieval
from mygo.config import Config
from mygo.filters import Comparison
from mygo.prompt import Conversations
from mygo.prompt import Message as Turn
from mygo.serve.planning import Plan, Planner, _searched
from mygo.types import (
    ContentHash,
    DocId,
    DomainTag,
    GenerateRequest,
    Passage,
    Prompt,
    RequestId,
    Sampling,
    Segment,
    SegmentKey,
    SegmentKind,
    StoreId,
    TenantId,
)


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
    assert planner.still_holds(tenant, request, appended)
    conversations.forget_document(domain, passage.content_hash)
    assert not planner.still_holds(tenant, request, appended)
    assert planner.still_holds(tenant, request, fresh)


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
