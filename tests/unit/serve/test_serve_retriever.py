"""Shards and the client that asks them, staged and in one go, without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mygo.config import Config, parse
from mygo.corpus import Upsert
from mygo.errors import Unavailable
from mygo.retrieval import SearchResult, Shard, Stage, Weights, snapshot
from mygo.retrieval.kinds import IndexBuilder
from mygo.retrieval.texts import PassageTexts
from mygo.serve import retriever
from mygo.serve.retriever import Query, Retriever, ShardServer
from mygo.types import PUBLIC, ContentHash, DocId, Passage, ScoredPassage, StoreId, TenantId

STORE = StoreId("vs_1")
TENANT = TenantId("t")
DIMENSIONS = 8


class Handle:
    """A deployment handle whose methods run here; with ``options(stream=True)`` they give streams."""

    def __init__(self, part: Any, streams: list[Stream] | None = None, *, is_stream: bool = False) -> None:
        self._part = part
        self._streams = [] if streams is None else streams
        self._is_stream = is_stream

    def options(self, *, stream: bool) -> Handle:
        return Handle(self._part, self._streams, is_stream=stream)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._part, name)

        def remote(*args: Any) -> Any:
            if not self._is_stream:
                return asyncio.ensure_future(method(*args))
            self._streams.append(Stream(method(*args)))
            return self._streams[-1]

        return type("Method", (), {"remote": staticmethod(remote)})


class Stream:
    def __init__(self, stages: AsyncIterator[Stage]) -> None:
        self._stages = stages
        self.cancelled = False

    def __aiter__(self) -> AsyncIterator[Stage]:
        return self._stages

    def cancel(self) -> None:
        self.cancelled = True


def vectors(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    drawn = np.random.default_rng(0).standard_normal((count, DIMENSIONS))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


class Librarian:
    """A journal of one file with ``passages``, half of which have the word lynx."""

    def __init__(self, passages: int, cancels: int = 0) -> None:
        """``cancels``: calls of each kind that it answers by cancelling them."""
        self._cancels = {"read": cancels, "applied": cancels}
        texts = [f"{'lynx' if number % 2 else 'fox'} {number}" for number in range(passages)]
        file = DocId("file")
        parts = tuple(
            Passage(file, number, text, ContentHash(text), STORE) for number, text in enumerate(texts)
        )
        entry = Upsert(1, STORE, file, TenantId("t"), PUBLIC, "file.txt", ContentHash("file"), parts, 0.0)
        self._entries = [entry]
        self.position = 0

    async def status(self) -> dict[str, int]:
        return {"position": 1}

    async def read(self, after: int, limit: int, wait_s: float) -> list[Upsert]:
        self._cancel("read")
        if after < 1:
            return self._entries
        await asyncio.sleep(wait_s)
        return []

    async def applied(self, shard: int, replica: int, position: int) -> None:
        self._cancel("applied")
        self.position = position

    def _cancel(self, call: str) -> None:
        self._cancels[call] -= 1
        if self._cancels[call] >= 0:
            raise asyncio.CancelledError


class Embedder:
    async def describe(self) -> tuple[int, str]:
        return DIMENSIONS, "fingerprint"

    async def embed(self, texts: list[str]) -> Any:
        return vectors(len(texts))


async def started(folder: Path, librarian: Librarian, replica: int = 0, replicas: int = 1) -> ShardServer:
    config = parse(
        {
            "cluster": {"data_dir": str(folder)},
            "retrieval": {
                "shards": 1,
                "shard_replicas": replicas,
                "snapshot_every": 1 if replicas > 1 else 2000,
                "approximate_from_vectors": 300,
                "ivf_probes": 40,
                "stage_s": 1e-9,
            },
        }
    )
    server = ShardServer.__new__(ShardServer)
    context = SimpleNamespace(rank=SimpleNamespace(rank=replica))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(retriever.serve, "get_replica_context", lambda: context)
        await server.__init__(0, config, Handle(librarian), Handle(Embedder()))  # type: ignore[misc]
    return server


@contextlib.asynccontextmanager
async def shard_server(folder: Path, passages: int = 400, cancels: int = 0) -> AsyncIterator[ShardServer]:
    """With its index built."""
    librarian = Librarian(passages, cancels)
    server = await started(folder, librarian)
    try:
        while librarian.position < 1 or server._shard.kind(STORE) != "ivf":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        yield server
    finally:
        for task in server._background:
            task.cancel()


def test_replica_of_a_shard_has_files_of_its_own_and_answers_once_it_knows_the_corpus(tmp_path: Path) -> None:
    async def check() -> None:
        librarian = Librarian(100)
        servers = [await started(tmp_path, librarian, 0, replicas=2)]
        assert librarian.position == 0, "nobody counts on a replica that does not answer yet"
        servers.append(await started(tmp_path, librarian, 1, replicas=2))
        try:
            for server in servers:
                assert len((await server.search([STORE], vectors(1)[0], 8)).passages) == 8
            assert len(list((tmp_path / "shards").iterdir())) == 2
            assert len(list((tmp_path / "shards").glob("*/manifest.json"))) == 2
        finally:
            for server in servers:
                for task in server._background:
                    task.cancel()

    asyncio.run(check())


def test_shard_that_has_started_says_so_until_it_knows_what_was_in_the_corpus(tmp_path: Path) -> None:
    async def check() -> None:
        librarian = Librarian(100)
        server = await started(tmp_path, librarian)
        try:
            stage = await server.search([STORE], vectors(1)[0], 8)
            assert stage.is_replaying and not stage.passages
            while librarian.position < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            stages = await collected(server.stages([STORE], vectors(1)[0], 8))
            assert len(stages[-1].passages) == 8 and not any(stage.is_replaying for stage in stages)
        finally:
            for task in server._background:
                task.cancel()

    asyncio.run(check())


def test_shard_server_follows_on_when_the_librarian_cancels_its_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retriever, "RETRY_S", 0.0)
    monkeypatch.setattr(retriever, "HEARTBEAT_S", 0.0)

    async def check() -> None:
        async with asyncio.timeout(60), shard_server(tmp_path, cancels=3) as server:
            assert not any(task.done() for task in server._background)

    asyncio.run(check())


async def collected(stages: AsyncIterator[Any]) -> list[Any]:
    return [stage async for stage in stages]


def test_last_stage_of_a_shard_server_is_its_search(tmp_path: Path) -> None:
    async def check() -> None:
        async with shard_server(tmp_path) as server:
            for question in (None, "lynx"):
                once = await server.search([STORE], vectors(1)[0], 8, question)
                stages = await collected(server.stages([STORE], vectors(1)[0], 8, question))
                assert stages[-1] == once
                assert once.is_final
                assert len(once.passages) == 8
                assert once.position == 1
                assert len(once.by_words) == (8 if question else 0)
                assert len(stages) > 1
                assert not any(stage.is_final for stage in stages[:-1])
                for documents, expected in ({STORE: [DocId("file")]}, 8), ({STORE: [DocId("other")]}, 0):
                    among = await server.search_among(documents, vectors(1)[0], 8, question)
                    assert among.is_final
                    assert among.position == 1
                    assert len(among.passages) == expected
                    assert len(among.by_words) == (expected if question else 0)

    asyncio.run(check())


def test_search_of_a_shard_server_ends_when_its_stages_are_closed(tmp_path: Path) -> None:
    async def check() -> None:
        async with shard_server(tmp_path) as server:
            stages = server.stages([STORE], vectors(1)[0], 8)
            assert not (await anext(stages)).is_final
            await stages.aclose()
            # an update is not held up
            await asyncio.wait_for(asyncio.to_thread(server._shard.delete, STORE, DocId("file")), 5)
            assert (await server.search([STORE], vectors(1)[0], 8)).passages == ()

    asyncio.run(check())


def test_stages_of_a_shard_server_raise_what_the_search_failed_with(tmp_path: Path) -> None:
    async def check() -> None:
        async with shard_server(tmp_path) as server:
            with pytest.raises(AssertionError, match="query"):
                await collected(server.stages([STORE], vectors(1)[0][:3], 8))

    asyncio.run(check())


def test_searches_go_on_while_a_snapshot_is_written_and_an_update_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, written = threading.Event(), threading.Event()

    def save_slowly(shard: Shard, *arguments: Any) -> None:
        with shard.frozen():
            begun.set()
            written.wait(300)

    async def check() -> None:
        async with shard_server(tmp_path) as server:
            monkeypatch.setattr(snapshot, "save", save_slowly)
            saving = asyncio.create_task(server._save())
            await asyncio.to_thread(begun.wait, 60)
            updating = asyncio.create_task(server._updating(server._shard.delete, STORE, DocId("file")))
            await asyncio.sleep(0.05)
            try:
                found = [server.search([STORE], vectors(1)[0], 8) for _ in range(4)]
                assert [
                    len(stage.passages) for stage in await asyncio.wait_for(asyncio.gather(*found), 60)
                ] == [8] * 4
                assert not saving.done()
                assert not updating.done()
            finally:
                written.set()
            await asyncio.gather(saving, updating)
            assert (await server.search([STORE], vectors(1)[0], 8)).passages == ()

    asyncio.run(check())


def test_search_that_has_not_begun_never_runs_when_nobody_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        async with shard_server(tmp_path) as server:
            monkeypatch.setattr(Shard, "search_staged", lambda *arguments: searched.append(arguments))
            busy = threading.Event()
            for _ in range(2):
                server._searches.submit(busy.wait, 10)
            arguments = [STORE], vectors(1)[0], 8
            abandoned = [
                asyncio.create_task(collected(server.stages(*arguments))),
                asyncio.create_task(server.search(*arguments)),  # type: ignore[arg-type]
            ]
            await asyncio.sleep(0.02)
            for task in abandoned:
                task.cancel()
            await asyncio.wait(abandoned)
            busy.set()
            await asyncio.to_thread(server._searches.shutdown)

    searched: list[object] = []
    asyncio.run(check())
    assert searched == []


@pytest.mark.parametrize("method", ["search", "search_among", "stages"])
def test_search_that_has_begun_ends_soon_when_nobody_waits_for_it(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, given_up = threading.Event(), threading.Event()
    read: list[object] = []
    texts = PassageTexts.texts

    def texts_late(*arguments: Any) -> dict[int, str]:
        if threading.current_thread().name.startswith("search"):  # others may write a snapshot meanwhile
            begun.set()
            given_up.wait(60)
            read.append(arguments)
        return texts(*arguments)

    async def check() -> None:
        async with shard_server(tmp_path) as server:
            monkeypatch.setattr(PassageTexts, "texts", texts_late)
            where: Any = {STORE: [DocId("file")]} if method == "search_among" else [STORE]
            asked = getattr(server, method)(where, vectors(1)[0], 400)
            searching = asyncio.create_task(collected(asked) if method == "stages" else asked)
            await asyncio.to_thread(begun.wait, 60)
            searching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await searching
            given_up.set()
            await asyncio.to_thread(server._searches.shutdown)

    asyncio.run(check())
    assert len(read) == 1, "of four times that texts are read"


def has_structure(folder: Path) -> bool:
    return any(folder.rglob("structure-0.npz"))


def test_index_that_was_built_survives_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        async with shard_server(tmp_path) as server:
            async with asyncio.timeout(10):
                while not has_structure(tmp_path) or server._saving.locked():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        monkeypatch.setattr(IndexBuilder, "built", None)
        async with shard_server(tmp_path) as server:
            assert len((await server.search([STORE], vectors(1)[0], 8)).passages) == 8

    asyncio.run(check())


def scored(doc: str, score: float) -> ScoredPassage:
    return ScoredPassage(Passage(DocId(doc), 0, doc, ContentHash(doc), STORE), score)


class Scripted:
    """A shard that gives these stages; None is a long pause, an error is raised."""

    def __init__(self, *script: Stage | BaseException | None) -> None:
        self._script = script
        self.was_cancelled = False

    async def stages(self, *arguments: Any) -> AsyncIterator[Stage]:
        for step in self._script:
            await asyncio.sleep(0)
            if step is None:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    self.was_cancelled = True
                    raise
            elif isinstance(step, BaseException):
                raise step
            else:
                yield step

    async def search(self, *arguments: Any) -> Stage:
        stage = [stage async for stage in self.stages()][-1]
        assert stage.is_final
        return stage


class Refusing(Scripted):
    """A handle raises at once, say, when the application is being deleted."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("stages", "search"):
            raise OSError("gone")
        return super().__getattribute__(name)


def provisional(*passages: ScoredPassage) -> Stage:
    return Stage(passages, is_final=False)


def final(*passages: ScoredPassage) -> Stage:
    return Stage(passages, is_final=True)


def retrieve(*shards: Scripted, staged: bool, timeout_s: float = 0.2) -> list[SearchResult]:
    handles = [Handle(shard) for shard in shards]
    retriever = Retriever(Handle(None), handles, timeout_s)  # type: ignore[arg-type]
    query = Query("question", vectors(1)[0], [STORE], Weights())

    async def ask() -> list[SearchResult]:
        if not staged:
            return [await retriever.search(query, 2)]
        return await collected(retriever.stages(query, 2))

    return asyncio.run(ask())


Shards = Callable[[], tuple[Scripted, ...]]
A, B, C = scored("a", 0.9), scored("b", 0.8), scored("c", 0.7)


@pytest.mark.parametrize(
    ("shards", "missing"),
    [
        (lambda: (Scripted(provisional(B), final(A)), Scripted(final(C))), ()),
        (lambda: (Scripted(final(A)), Scripted(provisional(B), OSError("gone"))), (1,)),
        (lambda: (Scripted(final(A)), Scripted(provisional(B), asyncio.CancelledError())), (1,)),
        (lambda: (Scripted(final(A)), Refusing()), (1,)),
        (lambda: (Scripted(final(A)), Scripted(None, final(B))), (1,)),
        (lambda: (Scripted(final(A)), Scripted(provisional(B))), (1,)),
    ],
    ids=[
        "both answer",
        "one dies",
        "one is cancelled",
        "one cannot be called",
        "one is late",
        "one ends too soon",
    ],
)
def test_last_stage_names_the_shards_that_are_missing(shards: Shards, missing: tuple[int, ...]) -> None:
    for staged in (True, False):
        last = retrieve(*shards(), staged=staged)[-1]
        assert last.is_final
        assert last.missing_shards == missing
        assert last.passages == ((A,) if missing else (A, C))


def test_shard_is_missing_when_its_call_can_be_neither_made_nor_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cancel(stream: Stream) -> None:
        raise RuntimeError("Unexpected error (StatusCode.INTERNAL)")

    monkeypatch.setattr(Stream, "cancel", cancel)

    async def ask() -> SearchResult:
        shards = [Handle(Scripted(final(A))), Handle(Scripted(RuntimeError("Unexpected error")))]
        retriever = Retriever(Handle(None), shards, 0.2)  # type: ignore[arg-type]
        async with asyncio.timeout(10):
            stages = retriever.stages(Query("question", vectors(1)[0], [STORE], Weights()), 2)
            return (await collected(stages))[-1]

    assert asyncio.run(ask()) == SearchResult((A,), missing_shards=(1,), lost_shards=(1,))


def test_search_of_a_late_shard_is_cancelled() -> None:
    late = Scripted(None, final(B))
    assert retrieve(Scripted(final(A)), late, staged=False)[-1].missing_shards == (1,)
    assert late.was_cancelled


def test_stages_come_when_every_shard_has_come_further() -> None:
    results = retrieve(
        Scripted(provisional(B), provisional(B, C), final(A, B)),
        Scripted(provisional(C), final(C)),
        staged=True,
    )
    assert results[-1] == SearchResult((A, B))
    assert len(results) > 1
    assert all(not result.is_final and result.passages[0] == B for result in results[:-1])


def test_retriever_raises_when_no_shard_answers() -> None:
    for staged in (True, False):
        with pytest.raises(Unavailable, match="no retrieval shard answers"):
            retrieve(Scripted(OSError("gone")), Scripted(None), staged=staged)


def test_searches_are_cancelled_when_the_stages_are_closed() -> None:
    streams: list[Stream] = []

    async def check() -> None:
        shards = [Handle(Scripted(provisional(each), None), streams) for each in (A, B)]
        retriever = Retriever(Handle(None), shards, 60.0)  # type: ignore[arg-type]
        stages = retriever.stages(Query("question", vectors(1)[0], [STORE], Weights()), 2)
        assert (await anext(stages)).passages == (A, B)
        await stages.aclose()
        await asyncio.sleep(0.01)
        assert [stream.cancelled for stream in streams] == [True, True]

    asyncio.run(check())


def test_vectors_of_recent_questions_are_kept_for_the_tenant_that_asked() -> None:
    embedded: list[str] = []

    class Counting:
        async def embed_query(self, text: str) -> Any:
            embedded.append(text)
            return vectors(len(embedded))[-1]

    async def check() -> None:
        retriever = Retriever(Handle(Counting()), [], 1.0, recent_vectors=2)  # type: ignore[arg-type]
        first = await retriever.embed(TENANT, "a")
        assert np.array_equal(await retriever.embed(TENANT, "a"), first)
        for text in ("b", "a", "c", "a", "b"):
            await retriever.embed(TENANT, text)
        assert embedded == ["a", "b", "c", "b"]
        await retriever.embed(TENANT, "x" * 10_000)
        await retriever.embed(TENANT, "x" * 10_000)
        assert len(embedded) == 6
        await retriever.embed(TenantId("another"), "b")
        assert len(embedded) == 7

    asyncio.run(check())


def test_query_asks_for_words_only_when_they_count() -> None:
    vector = vectors(1)[0]
    assert Query("lynx", vector, [STORE], Weights()).arguments(8)[2:] == (8, None)
    assert Query("lynx", vector, [STORE], Weights(1.0, 0.5)).arguments(8)[2:] == (50, "lynx")


def test_shipped_settings_search_by_vectors() -> None:
    assert Config().retrieval.text_weight == 0.0
