"""A librarian without Ray, and without shards: nobody reads its journal."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tokenizers import Tokenizer

from mygo.config import ClusterConfig, Config
from mygo.serve.librarian import Librarian


@contextlib.asynccontextmanager
async def open_librarian(data_dir: Path, tokenizer: Tokenizer) -> AsyncIterator[Librarian]:
    tokenizer.save(str(data_dir / "tokenizer.json"))
    librarian = Librarian(Config(cluster=ClusterConfig(data_dir=data_dir)), data_dir)
    try:
        yield librarian
    finally:
        librarian._parsing.cancel()
        librarian._library.close()
        librarian._file_chunks.close()
