"""Chat completions through the official client."""

from __future__ import annotations

import time

import openai
import pytest

MODEL = "smollm2-135m-instruct"
TEXT = 'Answer "to" 1 mess\nages – done.'


def ask(client, content="where?", **extra):
    return client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": content}], **extra
    )


def test_completion_carries_text_usage_and_the_mygo_block(client):
    completion = ask(client, extra_body={"documents": [{"id": "d1", "text": "Paris", "title": "T"}]})
    choice = completion.choices[0]
    assert (choice.message.content, choice.finish_reason) == (TEXT, "stop")
    assert completion.usage.prompt_tokens == 100 and completion.usage.completion_tokens == 6
    assert completion.usage.prompt_tokens_details.cached_tokens == 72
    mygo = completion.mygo
    assert mygo["citations"][0]["document_id"] == "d1" and "text" not in mygo["citations"][0]
    assert mygo["usage"]["cached_tokens"] == {"device": 64, "host": 8, "disk": 0}
    assert mygo["usage"]["computed_tokens"] == 28
    assert 0 < mygo["usage"]["ttft_s"] <= mygo["usage"]["total_s"]
    assert (mygo["reuse"], mygo["worker"], mygo["document_order"]) == ("exact", "w1", "retrieval")
    assert mygo["route"] == {"predicted_s": 0.03, "predicted_load_s": 0.0, "predicted_cached_tokens": 72}


def test_stream_has_role_text_finish_and_mygo_last(client):
    chunks = list(ask(client, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert chunks[-1].mygo["usage"]["prompt_tokens"] == 100
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_ends_with_usage_when_asked(client):
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 106
    assert chunks[-1].mygo["worker"] == "w1"
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_answer_ends_by_length_when_max_tokens_is_small(client):
    assert ask(client, max_tokens=2).choices[0].finish_reason == "length"
    assert ask(client, max_completion_tokens=2).usage.completion_tokens == 2


def test_logprobs_are_given_streamed_or_not(client):
    content = ask(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert content[0].token == "Answer"
    assert bytes(content[0].bytes) == b"Answer"
    assert content[0].top_logprobs[1].logprob == -9999.0
    streamed = [
        token
        for chunk in ask(client, logprobs=True, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert [each.token for each in streamed] == [each.token for each in content]


def test_token_ids_are_returned_when_asked(client):
    completion = ask(client, extra_body={"return_token_ids": True})
    assert completion.prompt_token_ids == list(range(100))
    assert completion.choices[0].token_ids == list(range(1000, 1006))
    chunks = list(ask(client, stream=True, extra_body={"return_token_ids": True}))
    assert chunks[0].prompt_token_ids == list(range(100))
    streamed = [token for chunk in chunks for token in chunk.choices[0].token_ids]
    assert streamed == list(range(1000, 1006))


def test_request_reaches_the_service_whole(client, face):
    client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c"},
            {"role": "user", "content": "d"},
        ],
        temperature=0,
        top_p=0.5,
        stop="END",
        seed=7,
        max_tokens=5,
        user="ignored",
        extra_body={
            "documents": [{"id": str(number), "text": "t"} for number in range(5)],
            "top_k": 2,
            "document_order": "cache",
            "reuse": "exact",
        },
    )
    _, request = face.service.requests[-1]
    assert [(each.role, each.text) for each in request.messages] == [
        ("system", "be brief"),
        ("user", "a\nb"),
        ("assistant", "c"),
        ("user", "d"),
    ]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.max_tokens) == (0, 0.5, 7, 5)
    assert sampling.stop == ("END",) and sampling.logprobs is None
    assert [each.id for each in request.documents] == ["0", "1"]
    assert request.document_order == "cache" and request.retrieval is None


def test_defaults_come_from_the_configuration(client, face):
    store = client.vector_stores.create()
    ask(client, extra_body={"vector_store_ids": [store.id, store.id]})
    _, request = face.service.requests[-1]
    assert request.sampling.max_tokens == 256 and request.sampling.temperature == 1.0
    assert request.retrieval.top_k == 8 and request.retrieval.store_ids == (store.id,)


def test_degraded_retrieval_and_dropped_documents_are_said(client):
    store = client.vector_stores.create()
    for number in range(5):
        client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=(f"{number}.txt", b"SHARD text"), poll_interval_ms=1
        )
    completion = ask(client, "SHARD", extra_body={"vector_store_ids": [store.id], "citation_text": True})
    assert completion.mygo["degraded"] == ["retrieval shard 1 did not answer"]
    assert [each["number"] for each in completion.mygo["citations"]] == [1, 2, 3]
    assert completion.mygo["citations"][0]["text"] == "SHARD text"
    assert len(completion.mygo["dropped_documents"]) == 2


def test_failure_before_the_first_token_is_a_status_even_when_streaming(client, face):
    with pytest.raises(openai.InternalServerError) as failure:
        ask(client, "BUSY", stream=True)
    assert failure.value.status_code == 503
    assert failure.value.response.headers["retry-after"] == "3"
    with pytest.raises(openai.InternalServerError) as failure:
        ask(client, "BUG")
    assert failure.value.status_code == 500 and "secret" not in str(failure.value)
    assert failure.value.response.headers["x-request-id"] in str(failure.value)


def test_stream_ends_with_an_error_when_the_worker_dies(client):
    got = []
    with pytest.raises(openai.APIError, match="worker w1 died"):
        got.extend(ask(client, "CRASH", stream=True))
    assert "".join(chunk.choices[0].delta.content for chunk in got) == 'Answer "to" 1'
    with pytest.raises(openai.InternalServerError):
        ask(client, "CRASH")


def test_stream_ends_with_an_error_when_it_stops_without_a_reason(client):
    with pytest.raises(openai.APIError, match="before the answer was complete"):
        list(ask(client, "TRUNCATED", stream=True))


def _wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "did not happen within 20 s"
        time.sleep(0.005)


def test_generation_is_closed_when_the_client_leaves_the_stream(client, face):
    stream = ask(client, "FOREVER", stream=True)
    next(iter(stream))
    generation = face.service.streams[-1]
    assert not generation.closed
    stream.close()
    _wait_for(lambda: generation.closed)


def test_request_is_cancelled_when_the_client_leaves_before_the_first_token(face):
    face.service.cancelled.clear()
    with pytest.raises(openai.APITimeoutError):
        ask(face.client().with_options(timeout=0.5), "HANG")
    _wait_for(face.service.cancelled.is_set)


def test_generation_is_closed_when_the_client_leaves_a_plain_request(face):
    with pytest.raises(openai.APITimeoutError):
        ask(face.client().with_options(timeout=0.2), "FOREVER")
    generation = face.service.streams[-1]
    _wait_for(lambda: generation.closed)


def test_deadline_is_an_error_before_and_amid_the_stream(serve):
    face = serve({"http": {"request_timeout_s": 0.2}})
    with pytest.raises(openai.InternalServerError, match="request_timeout_s"):
        ask(face.client(), "HANG", stream=True)
    with pytest.raises(openai.APIError, match="request_timeout_s"):
        list(ask(face.client(), "FOREVER", stream=True))
    _wait_for(lambda: face.service.streams[-1].closed)
