"""The official client against a real server: the session that users have."""

from __future__ import annotations

import io

import openai
import pytest
from openai import OpenAI

MODEL = "smollm2-135m-instruct"


def store_with(client: OpenAI, **texts: str) -> str:
    store = client.vector_stores.create(name="docs")
    for name, text in texts.items():
        client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=(f"{name}.txt", text.encode()), poll_interval_ms=1
        )
    return store.id


def test_store_lives_through_create_update_list_delete(client):
    store = client.vector_stores.create(name="a", metadata={"team": "x"})
    assert store.object == "vector_store" and store.status == "completed"
    assert client.vector_stores.retrieve(store.id).metadata == {"team": "x"}
    renamed = client.vector_stores.update(store.id, name="b")
    assert (renamed.name, renamed.metadata) == ("b", {"team": "x"})
    assert store.id in [each.id for each in client.vector_stores.list(limit=2)]
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.retrieve(store.id)


def test_listing_pages_through_everything_once_when_it_is_longer_than_a_page(client):
    made = [client.vector_stores.create(name=f"page {number}").id for number in range(7)]
    listed = [each.id for each in client.vector_stores.list(limit=3, order="asc")]
    assert [each for each in listed if each in made] == made
    assert len(listed) == len(set(listed))
    page = client.vector_stores.list(limit=2, order="asc", before=made[5])
    assert [each.id for each in page.data] == made[3:5]


def test_file_comes_back_byte_for_byte(client):
    raw = bytes(range(256)) * 10
    file = client.files.create(file=("../../etc/na\u00efve.bin", io.BytesIO(raw)), purpose="assistants")
    assert (file.filename, file.bytes) == ("na\u00efve.bin", len(raw))
    assert client.files.content(file.id).read() == raw
    assert client.files.retrieve(file.id).id == file.id
    assert file.id in [each.id for each in client.files.list(purpose="assistants")]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)


def test_twenty_files_are_found_and_gone_when_deleted(client):
    store_id = store_with(client, **{f"file{number}": f"topic{number} lies here" for number in range(20)})
    assert client.vector_stores.retrieve(store_id).file_counts.completed == 20
    found = client.vector_stores.search(store_id, query="topic7", max_num_results=3).data
    assert found[0].filename == "file7.txt" and found[0].content[0].text == "topic7 lies here"
    assert len(found) == 3
    client.vector_stores.files.delete(found[0].file_id, vector_store_id=store_id)
    after = client.vector_stores.search(store_id, query="topic7", max_num_results=20).data
    assert found[0].file_id not in [each.file_id for each in after]


def test_create_and_poll_tells_why_when_a_file_cannot_be_parsed(client):
    store = client.vector_stores.create()
    file = client.files.create(file=("x.bin", b"a\x00b"), purpose="assistants")
    member = client.vector_stores.files.create_and_poll(file.id, vector_store_id=store.id)
    assert member.status == "failed"
    assert member.last_error is not None and "x.bin" in member.last_error.message
    failed = client.vector_stores.files.list(store.id, filter="failed").data
    assert [each.id for each in failed] == [file.id]
    assert client.vector_stores.files.list(store.id, filter="completed").data == []


def test_polling_helpers_are_told_to_ask_again_soon(client):
    store = client.vector_stores.create()
    file = client.files.create(file=("slow.txt", b"text"), purpose="assistants")
    client.vector_stores.files.create(store.id, file_id=file.id)
    polled = client.vector_stores.files.with_raw_response.retrieve(file.id, vector_store_id=store.id)
    assert polled.headers["openai-poll-after-ms"] == "200"


def test_store_takes_files_when_created_with_them(client):
    file = client.files.create(file=("x.txt", b"hello"), purpose="assistants")
    store = client.vector_stores.create(file_ids=[file.id])
    assert store.file_counts.total == 1
    before = len(client.vector_stores.list(limit=100).data)
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.create(file_ids=[file.id, "file-none"])
    assert len(client.vector_stores.list(limit=100).data) == before


def test_batch_counts_its_files_when_polled(client):
    store = client.vector_stores.create()
    batch = client.vector_stores.file_batches.upload_and_poll(
        store.id,
        files=[("a.txt", b"alpha"), ("b.bin", b"\x00"), ("c.txt", b"gamma")],
        poll_interval_ms=1,
    )
    assert batch.status == "completed"
    assert (batch.file_counts.completed, batch.file_counts.failed, batch.file_counts.total) == (2, 1, 3)
    files = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)
    assert len(list(files)) == 3
    other = client.vector_stores.create()
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=other.id)


def test_batch_counts_a_file_as_cancelled_when_it_left_the_store(client):
    store = client.vector_stores.create()
    ids = [client.files.create(file=(f"{n}.txt", b"x"), purpose="assistants").id for n in range(5)]
    batch = client.vector_stores.file_batches.create(store.id, file_ids=ids)
    client.vector_stores.files.delete(ids[0], vector_store_id=store.id)
    batch = client.vector_stores.file_batches.poll(batch.id, vector_store_id=store.id, poll_interval_ms=1)
    assert (batch.file_counts.completed, batch.file_counts.cancelled) == (4, 1)
    files = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id, order="asc")
    assert [file.id for file in files.data] == ids[1:]


def test_batch_attaches_nothing_when_one_file_is_unknown(client):
    store = client.vector_stores.create()
    known = client.files.create(file=("a.txt", b"x"), purpose="assistants").id
    with pytest.raises(openai.NotFoundError, match="file-none"):
        client.vector_stores.file_batches.create(store.id, file_ids=[known, "file-none"])
    assert client.vector_stores.files.list(store.id).data == []


def test_batch_gives_up_unfinished_files_when_cancelled(client, face):
    store = client.vector_stores.create()
    ids = [client.files.create(file=(f"{n}.txt", b"x"), purpose="assistants").id for n in range(3)]
    face.service.polls_until_done = 100
    try:
        batch = client.vector_stores.file_batches.create(store.id, file_ids=ids)
        assert batch.status == "in_progress"
        batch = client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id)
    finally:
        face.service.polls_until_done = 1
    assert (batch.status, batch.file_counts.cancelled) == ("cancelled", 3)
    assert {file.status for file in client.vector_stores.files.list(store.id)} == {"cancelled"}


def test_filters_choose_by_attributes(client):
    store = client.vector_stores.create()
    for year in (2020, 2024):
        file = client.files.create(file=(f"{year}.txt", b"report"), purpose="assistants")
        client.vector_stores.files.create_and_poll(
            file.id, vector_store_id=store.id, attributes={"year": year, "open": True}, poll_interval_ms=1
        )
    both = {"type": "and", "filters": [{"type": "gte", "key": "year", "value": 2021}]}
    found = client.vector_stores.search(store.id, query="report", filters=both).data
    assert [each.filename for each in found] == ["2024.txt"]
    assert found[0].attributes == {"year": 2024, "open": True}


def test_attributes_are_replaced_when_updated(client):
    store = client.vector_stores.create()
    file = client.files.create(file=("a.txt", b"report"), purpose="assistants")
    client.vector_stores.files.create(store.id, file_id=file.id, attributes={"year": 2020, "draft": True})
    updated = client.vector_stores.files.update(file.id, vector_store_id=store.id, attributes={"year": 2024})
    assert updated.id == file.id and updated.attributes == {"year": 2024}
    assert (
        client.vector_stores.files.update(file.id, vector_store_id=store.id, attributes=None).attributes == {}
    )
    for attributes, names in ({"list": [1]}, "list"), ({"k" * 65: 1}, "attributes"):
        with pytest.raises(openai.BadRequestError, match=names):
            client.vector_stores.files.update(file.id, vector_store_id=store.id, attributes=attributes)
    with pytest.raises(openai.BadRequestError, match="attributes"):
        client.post(f"/vector_stores/{store.id}/files/{file.id}", cast_to=object, body={"name": "x"})


def test_text_of_a_file_comes_in_its_passages(client):
    store_id = store_with(client, notes="first part\n\nsecond part")
    (file,) = client.vector_stores.files.list(store_id).data
    parts = list(client.vector_stores.files.content(file.id, vector_store_id=store_id))
    assert [(part.type, part.text) for part in parts] == [("text", "first part"), ("text", "second part")]
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.files.content("file-none", vector_store_id=store_id)


def test_models_are_listed_and_retrieved(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "mygo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_async_client_streams(face):
    import asyncio

    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{face.base_url}/v1", api_key="none") as client:
            stream = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(ask()) == 'Answer "to" 1 mess\nages – done.'
