"""Responses with file_search through the official client."""

from __future__ import annotations

import openai
import pytest

MODEL = "smollm2-135m-instruct"
TEXT = 'Answer "to" 1 mess\nages – done.'


@pytest.fixture
def tool(client):
    store = client.vector_stores.create()
    for name in ("x", "y"):
        client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=(f"{name}.txt", f"{name} text".encode()), poll_interval_ms=1
        )
    return {"type": "file_search", "vector_store_ids": [store.id], "max_num_results": 5}


def test_response_has_search_message_citations_and_usage(client, tool):
    response = client.responses.create(
        model=MODEL,
        input="y",
        instructions="be brief",
        tools=[tool],
        include=["file_search_call.results"],
    )
    assert response.status == "completed" and response.output_text == 'Answer "to" 2 mess\nages – done.'
    search, message = response.output
    assert (search.type, search.status, search.queries) == ("file_search_call", "completed", ["y"])
    assert [each.filename for each in search.results] == ["y.txt", "x.txt"]
    assert search.results[0].text == "y text"
    annotations = message.content[0].annotations
    assert [(each.type, each.filename) for each in annotations] == [
        ("file_citation", "y.txt"),
        ("file_citation", "x.txt"),
    ]
    assert annotations[0].index == len(response.output_text)
    assert response.usage.input_tokens == 100
    assert response.usage.input_tokens_details.cached_tokens == 72
    assert response.mygo["citations"][0]["number"] == 1


def test_results_are_left_out_unless_included(client, tool):
    response = client.responses.create(model=MODEL, input="y", tools=[tool])
    assert response.output[0].results is None


def test_stream_has_the_documented_events_in_order(client, tool):
    events = list(client.responses.create(model=MODEL, input="y", tools=[tool], stream=True))
    types = [event.type for event in events]
    texts = types.count("response.output_text.delta")
    assert texts == 6
    assert types == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * texts,
        "response.output_text.annotation.added",
        "response.output_text.annotation.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == TEXT
    assert {event.output_index for event in deltas} == {1}
    final = events[-1].response
    assert final.output_text == TEXT and final.mygo["worker"] == "w1"
    assert {event.item_id for event in deltas} == {final.output[1].id}


def test_stream_helper_of_the_client_accumulates_the_response(client, tool):
    with client.responses.stream(model=MODEL, input="y", tools=[tool]) as stream:
        stream.until_done()
        assert stream.get_final_response().output_text == TEXT


def test_conversation_goes_on_from_a_previous_response(client, face):
    first = client.responses.create(model=MODEL, input="one", instructions="old")
    second = client.responses.create(
        model=MODEL, input="two", instructions="new", previous_response_id=first.id, stream=True
    )
    second_id = list(second)[-1].response.id
    client.responses.create(model=MODEL, input="three", previous_response_id=second_id)
    _, request = face.service.requests[-1]
    assert [(each.role, each.text) for each in request.messages] == [
        ("user", "one"),
        ("assistant", 'Answer "to" 2 mess\nages – done.'),
        ("user", "two"),
        ("assistant", 'Answer "to" 4 mess\nages – done.'),
        ("user", "three"),
    ]


def test_output_is_accepted_as_the_next_input(client, face, tool):
    first = client.responses.create(model=MODEL, input="one", tools=[tool])
    history = [
        {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
        *[item.model_dump(exclude_none=True) for item in first.output],
        {"role": "user", "content": "two"},
    ]
    client.responses.create(model=MODEL, input=history, tools=[tool])
    _, request = face.service.requests[-1]
    assert [each.role for each in request.messages] == ["user", "assistant", "user"]


def test_response_is_retrieved_and_deleted(client):
    made = client.responses.create(model=MODEL, input="one", metadata={"a": "b"})
    kept = client.responses.retrieve(made.id)
    assert kept.output_text == made.output_text and kept.metadata == {"a": "b"}
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_response_is_not_kept_when_store_is_false(client):
    made = client.responses.create(model=MODEL, input="one", store=False)
    with pytest.raises(openai.NotFoundError) as failure:
        client.responses.create(model=MODEL, input="two", previous_response_id=made.id)
    assert failure.value.param == "previous_response_id"


def test_response_is_incomplete_when_tokens_run_out(client):
    response = client.responses.create(model=MODEL, input="one", max_output_tokens=2)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    events = list(client.responses.create(model=MODEL, input="one", max_output_tokens=2, stream=True))
    assert events[-1].type == "response.incomplete"


def test_stream_fails_in_words_when_the_worker_dies(client):
    seen = []
    with pytest.raises(openai.APIError, match="worker w1 died"):
        seen.extend(client.responses.create(model=MODEL, input="CRASH", stream=True))
    assert seen[-1].type == "response.failed"
    assert seen[-1].response.error.code == "server_error"
    assert seen[-1].response.output[0].content[0].text.startswith('Answer "to"')
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(seen[-1].response.id)


def test_response_is_unknown_to_another_tenant(serve):
    face = serve({"http": {"api_keys": {"key-a": "a", "key-b": "b"}}})
    made = face.client("key-a").responses.create(model=MODEL, input="one")
    other = face.client("key-b")
    for ask in (
        lambda: other.responses.retrieve(made.id),
        lambda: other.responses.delete(made.id),
        lambda: other.responses.create(model=MODEL, input="two", previous_response_id=made.id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    assert face.client("key-a").responses.retrieve(made.id).id == made.id
