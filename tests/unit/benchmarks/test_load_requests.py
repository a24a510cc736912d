"""A trace's requests as bodies."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

from benchmarks.load.requests import Bodies
from benchmarks.synthesis import Synthesizer, Words
from mygo.workloads import Text, TextId, Trace, TraceRequest

TRACE = Trace(
    name="small",
    texts={TextId(name): Text(4) for name in ("system", "d1", "d2", "q", "a")},
    requests=(
        TraceRequest(0, 0.0, TextId("system"), (TextId("d2"), TextId("d1")), 3, output_tokens=50),
        TraceRequest(1, 1.0, TextId("system"), (), 3, output_tokens=0, history=(TextId("q"), TextId("a"))),
    ),
)


def _words(_: Trace, request: TraceRequest) -> Words:
    return Words(
        system="be brief",
        documents=tuple(f"text of {name}" for name in request.documents),
        history=tuple(request.history),
        question=f"question {request.number}",
    )


def _body(number: int, output_tokens: int | None = 16, questions_from: int = 0) -> dict[str, Any]:
    texts = cast(Synthesizer, SimpleNamespace(words=_words))
    found: dict[str, Any] = json.loads(
        Bodies(TRACE, texts, model="m", output_tokens=output_tokens, questions_from=questions_from).body(
            number
        )
    )
    return found


def test_body_has_the_documents_as_ranked_and_a_bounded_answer() -> None:
    body = _body(0)
    assert body["documents"] == [{"id": "d2", "text": "text of d2"}, {"id": "d1", "text": "text of d1"}]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert (body["model"], body["max_tokens"], body["stream"]) == ("m", 16, True)
    assert _body(0, None)["max_tokens"] == 50


def test_body_alternates_the_turns_of_a_conversation() -> None:
    body = _body(1)
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["max_tokens"] == 1


def test_trace_begins_again_with_new_questions() -> None:
    first, again = _body(0), _body(2)
    assert first["documents"] == again["documents"]
    assert again["messages"][-1]["content"] == "question 2"


def test_another_test_asks_other_questions_about_the_same_documents() -> None:
    first, other = _body(0), _body(0, questions_from=1000)
    assert first["documents"] == other["documents"]
    assert other["messages"][-1]["content"] == "question 1000"
