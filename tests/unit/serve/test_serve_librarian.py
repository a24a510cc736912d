"""The librarian without Ray: searches go on whatever else it is busy with."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from open_librarian import open_librarian
from tokenizers import Tokenizer

from mygo.serve.librarian import Librarian
from mygo.types import DocId, StoreId, TenantId

ACME = TenantId("acme")


async def store_of(librarian: Librarian, tenant: TenantId = ACME) -> StoreId:
    return (await librarian.create_store(tenant, name="", domain=None, metadata={}, file_ids=[])).id


@contextlib.contextmanager
def another_writer(data_dir: Path) -> Iterator[None]:
    """Another process is writing: whoever wants to write waits."""
    with contextlib.closing(sqlite3.connect(data_dir / "corpus.sqlite3", isolation_level=None)) as corpus:
        corpus.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            corpus.execute("ROLLBACK")


@pytest.mark.parametrize("other", [(1, 0), (0, 1)], ids=["shard", "replica"])
def test_file_is_in_progress_until_every_live_shard_has_it(
    tmp_path: Path, byte_tokenizer: Tokenizer, other: tuple[int, int]
) -> None:
    async def scenario() -> None:
        async with open_librarian(tmp_path, byte_tokenizer) as librarian:
            store = await store_of(librarian)
            file = (await librarian.add_file(ACME, "a.txt", b"words", purpose="assistants")).id
            await librarian.attach(ACME, store, file, attributes=None)
            async with asyncio.timeout(20):
                while (await librarian.status())["position"] == 0:  # noqa: ASYNC110  bounded
                    await asyncio.sleep(0.02)
            one = (0, 0)
            reports = (((one, 0),), ((one, 1), (other, 0)), ((other, 1),))
            for applied, status in zip(reports, ("in_progress", "in_progress", "completed"), strict=True):
                for (shard, replica), position in applied:
                    await librarian.applied(shard, replica, position)
                assert (await librarian.get_store_file(ACME, store, file)).status == status
                assert (await librarian.store_usages(ACME, [store]))[store].counts[status] == 1

    asyncio.run(scenario())


def test_deletion_returns_when_the_shards_have_it(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    async def scenario() -> None:
        async with open_librarian(tmp_path, byte_tokenizer) as librarian:
            store = await store_of(librarian)
            file = (await librarian.add_file(ACME, "a.txt", b"words", purpose="assistants")).id
            await librarian.attach(ACME, store, file, attributes=None)
            async with asyncio.timeout(20):
                (upsert,) = await librarian.read(0, 10, wait_s=20)
                await librarian.applied(0, 0, upsert.position)
                deletion = asyncio.create_task(librarian.detach(ACME, store, file))
                (delete,) = await librarian.read(upsert.position, 10, wait_s=20)
                assert not deletion.done()
                await librarian.applied(0, 0, delete.position)
                await deletion

    asyncio.run(scenario())


def test_file_is_read_when_whoever_attached_it_went_away_meanwhile(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    async def scenario() -> None:
        async with open_librarian(tmp_path, byte_tokenizer) as librarian:
            store = await store_of(librarian)
            file = (await librarian.add_file(ACME, "a.txt", b"words", purpose="assistants")).id
            await asyncio.sleep(0.1)  # the parser has seen that there is nothing to do
            with another_writer(tmp_path):
                attaching = asyncio.create_task(librarian.attach(ACME, store, file, attributes=None))
                await asyncio.sleep(0.05)
                attaching.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await attaching
            async with asyncio.timeout(20):
                assert await librarian.read(0, 10, wait_s=20)

    asyncio.run(scenario())


def test_search_is_authorized_when_more_writers_wait_than_there_are_threads(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    async def scenario() -> None:
        async with open_librarian(tmp_path, byte_tokenizer) as librarian:
            store = await store_of(librarian)
            with another_writer(tmp_path):
                writers = [asyncio.create_task(store_of(librarian)) for _ in range(12)]
                await asyncio.sleep(0.05)
                async with asyncio.timeout(5):
                    await librarian.authorize(ACME, [store])
                    assert await librarian.describe([(store, DocId("file-none"))]) == [None]
                assert not any(writer.done() for writer in writers)
            await asyncio.gather(*writers)

    asyncio.run(scenario())
