"""The librarian without Ray: searches go on whatever else it is busy with."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from mygo.config import ClusterConfig, Config
from mygo.serve.librarian import Librarian
from mygo.types import TenantId

ACME = TenantId("acme")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(cluster=ClusterConfig(data_dir=tmp_path / "data"))


@contextlib.asynccontextmanager
async def librarian(config: Config) -> AsyncIterator[Librarian]:
    tokenizer = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    config.cluster.data_dir.mkdir(parents=True)
    tokenizer.save(str(config.cluster.data_dir / "tokenizer.json"))
    librarian = Librarian(config, config.cluster.data_dir)
    try:
        yield librarian
    finally:
        librarian._library.close()


def test_search_is_authorized_when_more_writers_wait_than_there_are_threads(config: Config) -> None:
    async def scenario() -> None:
        async with librarian(config) as part:
            store = await part.catalog("create_store", ACME)
            other_process = sqlite3.connect(config.cluster.data_dir / "corpus.sqlite3", isolation_level=None)
            other_process.execute("BEGIN IMMEDIATE")
            writers = [asyncio.create_task(part.catalog("create_store", ACME)) for _ in range(12)]
            await asyncio.sleep(0.05)
            try:
                async with asyncio.timeout(5):
                    await part.authorize(ACME, [store.id])
                    assert await part.describe([(store.id, "file-none")]) == [None]
                assert not any(writer.done() for writer in writers)
            finally:
                other_process.execute("ROLLBACK")
                other_process.close()
            await asyncio.gather(*writers)

    asyncio.run(scenario())
