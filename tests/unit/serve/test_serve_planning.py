"""What makes two requests the same conversation, as far as the search goes."""

from __future__ import annotations

from mygo.api.service import AnswerRequest, Message, Retrieval
from mygo.filters import Comparison
from mygo.prompt import Conversations
from mygo.prompt import Message as Turn
from mygo.serve.planning import _searched
from mygo.types import Prompt, RequestId, Sampling, SegmentKey, StoreId, TenantId


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
