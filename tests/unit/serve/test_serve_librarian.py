"""The librarian without Ray: searches go on whatever else it is busy with."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mygo.config import ClusterConfig, Config
from mygo.serve.librarian import Librarian
from mygo.types import TenantId

ACME = TenantId("acme")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(cluster=ClusterConfig(data_dir=tmp_path / "data"))


@contextlib.asynccontextmanager
async def opened(config: Config, tokenizer: Tokenizer) -> AsyncIterator[Librarian]:
    config.cluster.data_dir.mkdir(parents=True)
    tokenizer.save(str(config.cluster.data_dir / "tokenizer.json"))
    librarian = Librarian(config, config.cluster.data_dir)
    try:
        yield librarian
    finally:
        librarian._library.close()
        librarian._file_chunks.close()


def test_file_is_in_progress_however_it_is_listed_until_shards_have_it(
    config: Config, byte_tokenizer: Tokenizer
) -> None:
    async def scenario() -> None:
        async with opened(config, byte_tokenizer) as librarian:
            store = (await librarian.catalog("create_store", ACME)).id
            file = (await librarian.catalog("add_file", ACME, "a.txt", b"words")).id
            await librarian.catalog("attach", ACME, store, file)
            async with asyncio.timeout(20):
                while (await librarian.status())["position"] == 0:  # noqa: ASYNC110  bounded
                    await asyncio.sleep(0.02)
            for searchable, status in ((0, "in_progress"), (1, "completed")):
                await librarian.applied(0, searchable)
                (found,) = await librarian.catalog("find_store_files", ACME, store, [file])
                (listed,), _ = await librarian.catalog("list_store_files", ACME, store)
                assert found == listed == await librarian.catalog("get_store_file", ACME, store, file)
                assert found.status == status
                assert (await librarian.catalog("store_usages", ACME, [store]))[store].counts[status] == 1

    asyncio.run(scenario())


def test_search_is_authorized_when_more_writers_wait_than_there_are_threads(
    config: Config, byte_tokenizer: Tokenizer
) -> None:
    async def scenario() -> None:
        async with opened(config, byte_tokenizer) as librarian:
            store = await librarian.catalog("create_store", ACME)
            other_process = sqlite3.connect(config.cluster.data_dir / "corpus.sqlite3", isolation_level=None)
            other_process.execute("BEGIN IMMEDIATE")
            writers = [asyncio.create_task(librarian.catalog("create_store", ACME)) for _ in range(12)]
            await asyncio.sleep(0.05)
            try:
                async with asyncio.timeout(5):
                    await librarian.authorize(ACME, [store.id])
                    assert await librarian.describe([(store.id, "file-none")]) == [None]
                assert not any(writer.done() for writer in writers)
            finally:
                other_process.execute("ROLLBACK")
                other_process.close()
            await asyncio.gather(*writers)

    asyncio.run(scenario())
