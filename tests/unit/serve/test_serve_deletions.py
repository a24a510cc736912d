"""Deletions reach every worker, and the one who deletes waits for it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from open_librarian import open_librarian
from tokenizers import Tokenizer

from mygo.corpus import passage_hash
from mygo.errors import Unavailable
from mygo.serve import deletions
from mygo.serve.deletions import DeletionFollower
from mygo.serve.librarian import Deletions, Librarian
from mygo.tree.keys import passage_tag
from mygo.types import DocId, DomainTag, StoreId, TenantId, WorkerId

ACME = TenantId("acme")
WORKER = WorkerId("w")


class Method:
    def __init__(self, method: Any) -> None:
        self._method = method

    def remote(self, *args: Any) -> Any:
        return self._method(*args)


class Handle:
    """A deployment handle, as far as ``remote`` goes."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self._target, name))


async def _stored(librarian: Librarian, text: bytes) -> tuple[StoreId, DocId]:
    """A file of one passage in a store, journalled."""
    store = await librarian.create_store(ACME, name="", domain=None, metadata={}, file_ids=[])
    file = await librarian.add_file(ACME, "a.txt", text, purpose="assistants")
    position = (await librarian.status())["position"]
    await librarian.attach(ACME, store.id, file.id, attributes=None)
    async with asyncio.timeout(20):
        while (await librarian.status())["position"] == position:  # noqa: ASYNC110  bounded
            await asyncio.sleep(0.02)
    return store.id, file.id


def _tag(librarian: Librarian, text: str) -> str:
    return passage_tag(librarian._secret, DomainTag(ACME), passage_hash(text))


def _follower(librarian: Any, purge: Any, *, from_start: bool = False) -> DeletionFollower:
    handle: Any = Handle(librarian)
    return DeletionFollower(handle, WORKER, purge, from_start=from_start)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions, "WAIT_S", 0.05)
    monkeypatch.setattr(deletions, "RETRY_S", 0.01)


def test_deletion_returns_when_every_worker_has_purged_it(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    async def scenario() -> None:
        async with open_librarian(tmp_path, byte_tokenizer) as librarian:
            store, file = await _stored(librarian, b"words")
            may_purge, purged = asyncio.Event(), []

            async def purge(tags: tuple[str, ...]) -> None:
                await may_purge.wait()
                purged.extend(tags)

            follower = _follower(librarian, purge)
            await follower.catch_up()
            following = asyncio.create_task(follower.follow())
            await asyncio.sleep(0.15)  # it says that it lives
            deletion = asyncio.create_task(librarian.detach(ACME, store, file))
            await librarian.applied(0, 0, 10)  # the shards are done
            await asyncio.sleep(0.2)
            assert not deletion.done()
            may_purge.set()
            await asyncio.wait_for(deletion, 5)
            assert purged == [_tag(librarian, "words")]
            following.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "lost", [Unavailable("the engine did not answer"), asyncio.CancelledError("the engine's task was")]
)
def test_purge_is_tried_again_until_it_succeeds(
    tmp_path: Path, byte_tokenizer: Tokenizer, lost: BaseException
) -> None:
    async def scenario() -> None:
        async with open_librarian(tmp_path, byte_tokenizer) as librarian:
            store, file = await _stored(librarian, b"words")
            tries: list[tuple[str, ...]] = []

            async def purge(tags: tuple[str, ...]) -> None:
                tries.append(tags)
                if len(tries) < 3:
                    raise lost

            follower = _follower(librarian, purge)
            await follower.catch_up()
            following = asyncio.create_task(follower.follow())
            await librarian.applied(0, 0, 10)
            await librarian.detach(ACME, store, file)
            async with asyncio.timeout(5):
                while not librarian._purged_everywhere(2) or len(tries) < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert tries == [(_tag(librarian, "words"),)] * 3
            following.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("from_start", [True, False])
def test_worker_with_a_disk_begins_with_all_that_was_ever_deleted(
    tmp_path: Path, byte_tokenizer: Tokenizer, from_start: bool
) -> None:
    async def scenario() -> None:
        async with open_librarian(tmp_path, byte_tokenizer) as librarian:
            await librarian.applied(0, 0, 100)
            for text in (b"one", b"two", b"three"):
                await librarian.detach(ACME, *await _stored(librarian, text))
            await _stored(librarian, b"two")  # it is back
            purged: list[str] = []

            async def purge(tags: tuple[str, ...]) -> None:
                purged.extend(tags)

            await _follower(librarian, purge, from_start=from_start).catch_up()
            expected = {_tag(librarian, "one"), _tag(librarian, "three")} if from_start else set()
            assert set(purged) == expected

    asyncio.run(scenario())


def test_dead_worker_holds_up_no_deletion(
    tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with open_librarian(tmp_path, byte_tokenizer) as librarian:
            await librarian.purged(WORKER, 0)
            assert not librarian._purged_everywhere(1)
            monkeypatch.setattr("mygo.serve.librarian.WORKER_SILENCE_S", 0.0)
            assert librarian._purged_everywhere(1)

    asyncio.run(scenario())


def test_many_tags_are_purged_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy:
        async def status(self) -> dict[str, int]:
            return {"position": 5}

        async def deletions(self, after: int, limit: int, wait_s: float) -> Deletions:
            return Deletions(5, tuple("abcde"))

        async def purged(self, worker: WorkerId, position: int) -> None:
            told.append(position)

    async def purge(tags: tuple[str, ...]) -> None:
        pieces.append(tags)

    told: list[int] = []
    pieces: list[tuple[str, ...]] = []
    monkeypatch.setattr(deletions, "TAGS_PER_PURGE", 2)
    asyncio.run(_follower(Busy(), purge, from_start=True).catch_up())
    assert pieces == [("a", "b"), ("c", "d"), ("e",)]
    assert told == [5]


def test_passages_are_named_for_their_own_tenant_only(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    async def scenario() -> None:
        async with open_librarian(tmp_path, byte_tokenizer) as librarian:
            _, file = await _stored(librarian, b"words")
            tags = {_tag(librarian, "words"), "f" * 32}
            assert await librarian.name_passages(ACME, tags) == {
                _tag(librarian, "words"): {"document_id": file, "filename": "a.txt", "chunk": 0}
            }
            assert await librarian.name_passages(TenantId("other"), tags) == {}

    asyncio.run(scenario())
