"""The official OpenAI client against the real thing, as an application developer would use it."""

from __future__ import annotations

import io
import random
from typing import Any

import openai
import pytest
from conftest import MODEL, Cluster, mygo_of
from openai import OpenAI

pytestmark = pytest.mark.ray

ANIMALS = [
    "otter", "heron", "badger", "lynx", "walrus", "gecko", "falcon", "beaver", "mole", "toad",
    "stork", "weasel", "salmon", "hornet", "newt", "raven", "ibex", "seal", "crane", "vole",
]  # fmt: skip


def _text(animal: str) -> bytes:
    return (f"The {animal} named Rufus-{animal} lives in the {animal} house of the zoo. " * 6).encode()


@pytest.fixture(scope="module")
def zoo(cluster: Cluster) -> dict[str, Any]:
    """A store with twenty files, each about one animal."""
    client = cluster.client()
    store = client.vector_stores.create(name="zoo")
    files = {}
    for animal in ANIMALS:
        file = client.files.create(file=(f"{animal}.txt", io.BytesIO(_text(animal))), purpose="assistants")
        client.vector_stores.files.create(
            vector_store_id=store.id, file_id=file.id, attributes={"animal": animal}
        )
        files[animal] = file.id
    for animal, file_id in files.items():
        done = client.vector_stores.files.poll(file_id, vector_store_id=store.id, poll_interval_ms=100)
        assert done.status == "completed", (animal, done)
    return {"id": store.id, "files": files}


def test_store_counts_its_files_when_all_were_ingested(client: OpenAI, zoo: dict[str, Any]) -> None:
    store = client.vector_stores.retrieve(zoo["id"])
    assert store.file_counts.completed == 20
    assert store.file_counts.in_progress == 0
    assert len(list(client.vector_stores.files.list(zoo["id"], limit=7))) == 20


def test_search_finds_the_document_when_asked_about_it(client: OpenAI, zoo: dict[str, Any]) -> None:
    found = client.vector_stores.search(zoo["id"], query="Where does the walrus live?", max_num_results=3)
    assert found.data[0].filename == "walrus.txt"
    assert "Rufus-walrus" in found.data[0].content[0].text


def test_search_respects_filters_when_the_best_match_is_excluded(client: OpenAI, zoo: dict[str, Any]) -> None:
    only = {"type": "eq", "key": "animal", "value": "vole"}
    found = client.vector_stores.search(zoo["id"], query="Where does the walrus live?", filters=only)
    assert [hit.filename for hit in found.data] == ["vole.txt"]


def test_search_goes_by_new_attributes_when_they_were_updated(client: OpenAI, zoo: dict[str, Any]) -> None:
    file = zoo["files"]["otter"]
    attributes: dict[str, str | float | bool] = {"animal": "otter", "fed": True}
    updated = client.vector_stores.files.update(file, vector_store_id=zoo["id"], attributes=attributes)
    assert updated.attributes == attributes
    only: Any = {"type": "eq", "key": "fed", "value": True}
    found = client.vector_stores.search(zoo["id"], query="Where does the walrus live?", filters=only)
    assert [hit.filename for hit in found.data] == ["otter.txt"]


def test_content_is_the_text_that_was_ingested(client: OpenAI, zoo: dict[str, Any]) -> None:
    parts = client.vector_stores.files.content(zoo["files"]["lynx"], vector_store_id=zoo["id"])
    assert "".join(part.text or "" for part in parts).strip() == _text("lynx").decode().strip()


def test_large_file_comes_back_as_it_was_sent(client: OpenAI) -> None:
    data = random.Random(0).randbytes(9 * 2**20)  # in one message from part to part
    file = client.files.create(file=("archive.bin", io.BytesIO(data)), purpose="assistants")
    assert file.bytes == len(data)
    assert client.files.content(file.id).read() == data
    client.files.delete(file.id)


def test_batch_is_followed_to_its_end(client: OpenAI) -> None:
    store = client.vector_stores.create(name="batch")
    batch = client.vector_stores.file_batches.upload_and_poll(
        store.id,
        files=[
            ("a.txt", b"The harbour opens at nine."),
            ("b.bin", b"\x00\x01"),
            ("c.txt", b"It closes at five."),
        ],
        poll_interval_ms=100,
    )
    assert (batch.status, batch.file_counts.completed, batch.file_counts.failed) == ("completed", 2, 1)
    failed = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id, filter="failed")
    assert len(failed.data) == 1
    assert client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id).status == "cancelled"
    assert len(client.vector_stores.search(store.id, query="When does the harbour open?").data) == 2


def test_responses_cite_files_when_searching(client: OpenAI, zoo: dict[str, Any]) -> None:
    tools: Any = [{"type": "file_search", "vector_store_ids": [zoo["id"]], "max_num_results": 3}]
    response = client.responses.create(
        model=MODEL,
        input="What is the name of the gecko?",
        tools=tools,
        include=["file_search_call.results"],
        max_output_tokens=24,
        temperature=0,
    )
    search, message = response.output
    assert search.type == "file_search_call"
    assert search.results
    assert search.results[0].filename == "gecko.txt"
    assert message.type == "message"
    assert response.output_text
    annotations = message.content[0].annotations
    assert any(a.type == "file_citation" and a.filename == "gecko.txt" for a in annotations)
    assert response.usage is not None
    assert response.usage.output_tokens > 0


def test_responses_stream_the_same_answer_when_streamed(client: OpenAI, zoo: dict[str, Any]) -> None:
    tools: Any = [{"type": "file_search", "vector_store_ids": [zoo["id"]]}]
    arguments: dict[str, Any] = {
        "model": MODEL,
        "input": "Where is the ibex?",
        "tools": tools,
        "temperature": 0,
        "max_output_tokens": 16,
    }
    whole = client.responses.create(**arguments)
    events = list(client.responses.create(**arguments, stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    # a length stop makes it incomplete, which is an end like any other
    assert kinds[-1] == f"response.{whole.status}"
    assert "response.file_search_call.completed" in kinds
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text


def test_chat_streams_the_same_answer_when_streamed(client: OpenAI, zoo: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Where is the seal?"}],
        "temperature": 0,
        "max_tokens": 16,
        "extra_body": {"vector_store_ids": [zoo["id"]], "top_k": 4},
    }
    whole = client.chat.completions.create(**arguments)
    chunks = list(client.chat.completions.create(**arguments, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    account = mygo_of(chunks[-1])
    assert [citation["number"] for citation in account["citations"]] == [1, 2, 3, 4]
    assert account["citations"][0]["filename"] == "seal.txt"
    # asked before: the same prompt is now cached but for its last block
    assert sum(account["usage"]["cached_tokens"].values()) > 0
    assert account["usage"]["prompt_tokens"] == mygo_of(whole)["usage"]["prompt_tokens"]


def test_chat_with_inline_documents_grows_when_a_conversation_goes_on(client: OpenAI) -> None:
    documents = [{"id": "a", "text": "The bridge was built by Ada in 1843. " * 20, "title": "bridge"}]
    messages: list[Any] = []
    previous: list[int] = []
    for turn, question in enumerate(["Who built the bridge?", "And when?", "Is it old?"]):
        messages.append({"role": "user", "content": question})
        answer = client.chat.completions.create(
            model=MODEL,
            messages=messages,
            temperature=0,
            max_tokens=12,
            extra_body={"documents": documents, "return_token_ids": True},
        )
        messages.append({"role": "assistant", "content": answer.choices[0].message.content})
        ids: list[int] = answer.model_dump()["prompt_token_ids"]
        assert ids[: len(previous)] == previous, "a later turn extends the earlier prompt token for token"
        previous = ids
        cached = sum(mygo_of(answer)["usage"]["cached_tokens"].values())
        if turn > 0:
            assert cached >= len(previous) // 2


def test_search_misses_a_file_when_it_was_deleted(client: OpenAI, zoo: dict[str, Any]) -> None:
    client.vector_stores.files.delete(zoo["files"]["toad"], vector_store_id=zoo["id"])
    found = client.vector_stores.search(zoo["id"], query="Where does the toad live?", max_num_results=20)
    assert "toad.txt" not in [hit.filename for hit in found.data]
    client.files.delete(zoo["files"]["newt"])
    found = client.vector_stores.search(zoo["id"], query="Where does the newt live?", max_num_results=20)
    assert "newt.txt" not in [hit.filename for hit in found.data]
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(zoo["files"]["newt"])


def test_tenants_see_nothing_of_each_other(cluster: Cluster, zoo: dict[str, Any]) -> None:
    bob = cluster.client("sk-bob")
    assert list(bob.vector_stores.list()) == []
    with pytest.raises(openai.NotFoundError):
        bob.vector_stores.retrieve(zoo["id"])
    with pytest.raises(openai.NotFoundError):
        bob.vector_stores.search(zoo["id"], query="walrus")
    with pytest.raises(openai.NotFoundError):
        bob.files.content(zoo["files"]["walrus"])


def test_tenants_share_no_cache_when_they_send_the_same_documents(cluster: Cluster) -> None:
    body = {"documents": [{"id": "x", "text": "A secret that both tenants happen to hold. " * 40}]}

    def cached_tokens(key: str) -> int:
        answer = cluster.client(key).chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What is it?"}],
            max_tokens=1,
            extra_body=body,
        )
        return sum(mygo_of(answer)["usage"]["cached_tokens"].values())

    cached_tokens("sk-alice")
    assert cached_tokens("sk-alice") > 200
    # the deployment's own system prompt is public; everything behind it is not
    assert cached_tokens("sk-bob") <= 64
