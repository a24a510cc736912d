"""Lists cost the librarian the same few calls however long they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from mygo.api.service import Page
from mygo.corpus import Chunker, Library
from mygo.serve.corpus_service import CorpusService
from mygo.types import TenantId

ACME = TenantId("acme")


class Librarian:
    """A handle to a library in this process; ``calls`` has the name of each catalog method called."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.calls: list[str] = []

    @property
    def catalog(self) -> Librarian:
        return self

    async def remote(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(method)
        return getattr(self.library.catalog, method)(*args, **kwargs)


@pytest.fixture
def librarian(tmp_path: Path, byte_tokenizer: Tokenizer) -> Iterator[Librarian]:
    library = Library(tmp_path / "data", Chunker(byte_tokenizer, 16).file_chunks)
    yield Librarian(library)
    library.close()


def test_lists_are_as_the_single_views_when_asked_with_few_calls(librarian: Librarian) -> None:
    async def scenario() -> None:
        service = CorpusService(librarian)  # type: ignore[arg-type]
        files = [
            (await service.create_file(ACME, filename="a.txt", purpose="x", content=b"w")).id for _ in "abc"
        ]
        stores = [await service.create_store(ACME, name=n, metadata={}, public=n == "b") for n in "abcd"]
        for file in files:
            await service.attach_file(ACME, stores[1].id, file, attributes={"file": file})
        singly = [await service.store(ACME, store.id) for store in stores]
        members = [await service.store_file(ACME, stores[1].id, file) for file in files]
        page = Page(descending=False)

        librarian.calls.clear()
        assert (await service.stores(ACME, page)).items == tuple(singly)
        assert librarian.calls == ["list_stores", "store_usages"]
        librarian.calls.clear()
        assert (await service.store_files(ACME, stores[1].id, page, status=None)).items == tuple(members)
        assert await service.find_store_files(ACME, stores[1].id, [*files[1:], "file-none"]) == tuple(
            members[1:]
        )
        assert librarian.calls == ["list_store_files", "find_store_files"]

    asyncio.run(scenario())
