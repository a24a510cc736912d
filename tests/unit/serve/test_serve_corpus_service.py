"""What the HTTP service asks of the librarian, and with how few calls."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from open_librarian import open_librarian
from ray.exceptions import ActorDiedError
from tokenizers import Tokenizer

from mygo.api.service import Page
from mygo.serve.corpus_service import CorpusService
from mygo.serve.librarian import Librarian
from mygo.types import TenantId

ACME = TenantId("acme")


class Handle:
    """Of a librarian in this process; ``calls`` has the name of each method called."""

    def __init__(self, librarian: Librarian) -> None:
        self._librarian = librarian
        self.calls: list[str] = []

    def __getattr__(self, method: str) -> Any:
        def remote(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(method)
            return getattr(self._librarian, method)(*args, **kwargs)

        return SimpleNamespace(remote=remote)


def test_lists_are_as_the_single_views_when_asked_with_few_calls(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    async def scenario() -> None:
        async with open_librarian(tmp_path, byte_tokenizer) as librarian:
            handle = Handle(librarian)
            service = CorpusService(handle)  # type: ignore[arg-type]
            files = [
                (await service.create_file(ACME, filename="a.txt", purpose="x", content=b"w")).id
                for _ in "abc"
            ]
            stores = [
                await service.create_store(ACME, name=n, metadata={}, public=n == "b", file_ids=[])
                for n in "abcd"
            ]
            for file in files:
                await service.attach_file(ACME, stores[1].id, file, attributes={"file": file})
            singly = [await service.store(ACME, store.id) for store in stores]
            members = [await service.store_file(ACME, stores[1].id, file) for file in files]
            page = Page(descending=False)

            handle.calls.clear()
            assert (await service.stores(ACME, page)).items == tuple(singly)
            assert handle.calls == ["list_stores", "store_usages"]
            handle.calls.clear()
            assert (await service.store_files(ACME, stores[1].id, page, status=None)).items == tuple(members)
            assert handle.calls == ["list_store_files"]

    asyncio.run(scenario())


def test_batches_cost_a_call_each_when_they_have_many_files(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    async def scenario() -> None:
        async with open_librarian(tmp_path, byte_tokenizer) as librarian:
            handle = Handle(librarian)
            service = CorpusService(handle)  # type: ignore[arg-type]
            files = [
                (await service.create_file(ACME, filename="a.txt", purpose="x", content=b"w")).id
                for _ in range(5)
            ]
            handle.calls.clear()
            store = await service.create_store(ACME, name="", metadata={}, public=False, file_ids=files[:3])
            assert store.counts.in_progress == 3
            assert handle.calls == ["create_store", "store_usages"]
            handle.calls.clear()
            batch = await service.create_batch(ACME, store.id, [(file, {"file": file}) for file in files])
            assert await service.batch(ACME, store.id, batch.id) == batch
            listed = await service.batch_files(ACME, store.id, batch.id, Page(descending=False), status=None)
            assert [(each.file_id, each.attributes) for each in listed.items] == [
                (file, {"file": file}) for file in files
            ]
            assert (await service.cancel_batch(ACME, store.id, batch.id)).cancelled
            assert handle.calls == ["create_batch", "get_batch", "list_batch_files", "cancel_batch"]

    asyncio.run(scenario())


def test_response_is_known_to_every_ingress_and_lost_without_an_error_when_the_librarian_is_away(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    async def scenario() -> None:
        async with open_librarian(tmp_path, byte_tokenizer) as librarian:
            one, other = (CorpusService(Handle(librarian)) for _ in range(2))  # type: ignore[arg-type]
            await one.remember_response(ACME, "resp_1", b"text")
            assert await other.recall_response(ACME, "resp_1") == b"text"
            assert await other.recall_response(TenantId("rival"), "resp_1") is None
            assert await other.forget_response(ACME, "resp_1")
            assert not await one.forget_response(ACME, "resp_1")

        async def away(*arguments: Any) -> None:
            raise ActorDiedError

        handle = SimpleNamespace(remember_response=SimpleNamespace(remote=away))
        await CorpusService(handle).remember_response(ACME, "resp_2", b"text")  # type: ignore[arg-type]

    asyncio.run(scenario())


def test_response_that_cannot_be_remembered_costs_its_answer_nothing_whatever_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(*arguments: Any) -> None:
        raise ValueError("unexpected")

    async def hangs(*arguments: Any) -> None:
        await asyncio.sleep(60)

    def service(remember: Any) -> CorpusService:
        handle = SimpleNamespace(remember_response=SimpleNamespace(remote=remember))
        return CorpusService(handle)  # type: ignore[arg-type]

    async def scenario() -> None:
        await service(fails).remember_response(ACME, "resp_1", b"text")
        assert "resp_1 is not remembered: ValueError('unexpected')" in caplog.text
        remembering = asyncio.create_task(service(hangs).remember_response(ACME, "resp_2", b"text"))
        await asyncio.sleep(0)
        remembering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await remembering

    asyncio.run(scenario())
