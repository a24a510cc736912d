"""Requests find a worker, leave nothing behind, and survive the loss of one before the first token."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError, RequestCancelledError

from mygo.config import Config, RoutingConfig
from mygo.directory import Directory
from mygo.errors import BadRequest, Misdirected, Unavailable, WorkerLost
from mygo.routing.desk import DEAD_S, SETTLE_S
from mygo.serve import dispatch
from mygo.serve.calls import pack
from mygo.serve.dispatch import Dispatcher
from mygo.types import (
    PUBLIC,
    GenerateRequest,
    ProfileGrid,
    Prompt,
    RequestId,
    Sampling,
    Segment,
    SegmentKey,
    SegmentKind,
    TokenDelta,
    WorkerId,
    WorkerInfo,
)

A, B = WorkerId("a"), WorkerId("b")
PROMPT = Prompt((Segment(SegmentKind.SYSTEM, tuple(range(64)), SegmentKey("0" * 32), PUBLIC),))
TOKENS = [TokenDelta("x", (1,)), TokenDelta("y", (2,), finish_reason="stop")]
Script = list[TokenDelta | BaseException]


class Stream:
    """What a worker streams: deltas, and errors where they come; waits for ever when it is over early."""

    def __init__(self, script: Script) -> None:
        self._script = iter(script)
        self._pending: asyncio.Future[None] | None = None
        self.cancelled = False

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        step = next(self._script, None)
        if step is None and self.cancelled:
            raise RequestCancelledError("r")
        if step is None:
            self._pending = asyncio.get_running_loop().create_future()
            await self._pending
        if isinstance(step, BaseException):
            raise step
        assert isinstance(step, TokenDelta)
        return pack(step)

    def cancel(self) -> None:
        self.cancelled = True
        if self._pending is not None and not self._pending.done():
            self._pending.set_exception(RequestCancelledError("r"))


class Cluster:
    """Two workers that do as ``scripts`` say, and a directory that knows them."""

    def __init__(self, scripts: Callable[[WorkerId], Script], *, retries: int = 3) -> None:
        self.now_s = 100.0
        self.streams: dict[WorkerId, Stream] = {}
        self.forgotten: list[WorkerId] = []
        workers: Any = type("Workers", (), {"options": lambda self, stream: self, "generate": self})()
        directory: Any = type("Directory", (), {"forget": type("M", (), {"remote": self.forgotten.append})})()
        self._scripts = scripts
        config = Config(routing=RoutingConfig(retries=retries))
        self.dispatcher = Dispatcher(
            config, workers, directory, rng=random.Random(0), clock=lambda: self.now_s
        )
        known = Directory("test")
        grid = ProfileGrid((0,), (32, 64), ((0.1, 0.2),))
        for name in (A, B):
            known.join(WorkerInfo(name, "epoch", "m", 32, 4096, 2048, grid))
        self.dispatcher.directory.follow(known.snapshot())

    def remote(self, request: GenerateRequest, *, worker: WorkerId) -> Stream:
        self.streams[worker] = Stream(self._scripts(worker))
        return self.streams[worker]

    async def start(self, name: str = "r") -> Any:
        request = GenerateRequest(RequestId(name), PROMPT.token_ids, (), Sampling(max_tokens=4))
        return await self.dispatcher.start(request, PROMPT, "")

    def open_requests(self) -> int:
        book = self.dispatcher._desk
        return sum(book.open_requests(worker, self.now_s) for worker in (A, B))


def refusal(error: Exception) -> BaseException:
    return RayTaskError("generate", "traceback", error).as_instanceof_cause()


@pytest.mark.parametrize(
    "lost", [ActorDiedError(), refusal(Unavailable("stopping")), Unavailable("stopping")]
)
def test_start_tries_another_worker_when_one_dies_before_the_first_token(lost: BaseException) -> None:
    async def run() -> None:
        first: list[WorkerId] = []

        def scripts(worker: WorkerId) -> Script:
            first.append(worker)
            return [lost] if len(first) == 1 else [*TOKENS, StopAsyncIteration()]

        cluster = Cluster(scripts)
        generation = await cluster.start()
        assert generation.route.worker == first[-1]
        assert [delta.text async for delta in generation] == ["x", "y"]
        assert generation.attempts == 2 and len(set(first)) == 2
        assert cluster.forgotten == first[:1] and cluster.open_requests() == 0

    asyncio.run(run())


@pytest.mark.parametrize("refused", [refusal(Misdirected("not up yet")), Misdirected("not up yet")])
def test_worker_that_serve_does_not_list_yet_is_passed_by_and_costs_no_attempt(
    refused: BaseException,
) -> None:
    async def run() -> None:
        asked: list[WorkerId] = []

        def scripts(worker: WorkerId) -> Script:
            asked.append(worker)
            return [refused] if len(asked) == 1 else [*TOKENS, StopAsyncIteration()]

        cluster = Cluster(scripts, retries=0)
        generation = await cluster.start()
        assert generation.route.worker == asked[1] != asked[0]
        assert [delta.text async for delta in generation] == ["x", "y"]
        assert generation.attempts == 1 and not cluster.forgotten and cluster.open_requests() == 0

    asyncio.run(run())


def test_start_raises_unavailable_when_serve_lists_no_worker() -> None:
    async def run() -> None:
        cluster = Cluster(lambda worker: [refusal(Misdirected("not up yet"))])
        with pytest.raises(Unavailable):
            await cluster.start()
        assert set(cluster.streams) == {A, B} and not cluster.forgotten and cluster.open_requests() == 0

    asyncio.run(run())


@pytest.mark.parametrize("refused", [refusal(BadRequest("too long")), BadRequest("too long")])
def test_start_raises_the_refusal_at_once_when_the_request_is_wrong(refused: BaseException) -> None:
    async def run() -> None:
        cluster = Cluster(lambda worker: [refused])
        with pytest.raises(BadRequest, match="too long"):
            await cluster.start()
        assert len(cluster.streams) == 1 and not cluster.forgotten and cluster.open_requests() == 0

    asyncio.run(run())


@pytest.mark.parametrize("lost", [ActorDiedError(), Unavailable("the engine failed")])
def test_stream_ends_as_lost_when_its_worker_dies_after_the_first_token(lost: BaseException) -> None:
    async def run() -> None:
        cluster = Cluster(lambda worker: [TOKENS[0], lost])
        generation = await cluster.start()
        with pytest.raises(WorkerLost):
            [delta async for delta in generation]
        assert len(cluster.forgotten) == 1 and cluster.open_requests() == 0

    asyncio.run(run())


def test_another_worker_is_tried_when_a_call_can_be_neither_made_nor_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cancel(stream: Stream) -> None:
        raise DeploymentUnavailableError(DeploymentID("worker"))

    async def run() -> None:
        first: list[WorkerId] = []

        def scripts(worker: WorkerId) -> Script:
            first.append(worker)
            return [ActorDiedError()] if len(first) == 1 else [*TOKENS, StopAsyncIteration()]

        monkeypatch.setattr(Stream, "cancel", cancel)
        cluster = Cluster(scripts)
        assert (await cluster.start()).attempts == 2

    asyncio.run(run())


@pytest.mark.parametrize("begun", [False, True])
def test_worker_that_the_directory_has_forgotten_for_long_is_lost(begun: bool) -> None:
    async def run() -> None:
        asked: list[WorkerId] = []

        def scripts(worker: WorkerId) -> Script:
            asked.append(worker)
            return [*TOKENS, StopAsyncIteration()] if len(asked) > 1 else [TOKENS[0]] if begun else []

        cluster = Cluster(scripts)
        starting = asyncio.create_task(cluster.start())
        await asyncio.sleep(0.01)
        streams = cluster.dispatcher._open
        (silent,) = asked
        other = {A, B} - {silent}
        nobody: set[WorkerId] = set()
        for known, later_s in ((nobody, 99.0), (other, 20.0), ({A, B}, 20.0), (other, 20.0), (other, 20.0)):
            streams.give_up_unknown(known)
            cluster.now_s += later_s
            assert not cluster.streams[silent].cancelled, "known again meanwhile, or not long enough"
        streams.give_up_unknown(other)
        assert cluster.streams[silent].cancelled
        generation = await starting
        if begun:
            with pytest.raises(WorkerLost):
                [delta async for delta in generation]
        else:
            assert [delta.text async for delta in generation] == ["x", "y"]
            assert generation.attempts == 2
        assert len(streams) == 0 and cluster.open_requests() == 0

    asyncio.run(run())


def test_lost_worker_is_asked_again_when_the_directory_goes_on_knowing_it() -> None:
    async def run() -> None:
        cluster = Cluster(lambda worker: [ActorDiedError()], retries=1)
        with pytest.raises(Unavailable):
            await cluster.start("first")
        assert set(cluster.streams) == {A, B}
        cluster._scripts = lambda worker: [*TOKENS, StopAsyncIteration()]
        cluster.now_s += DEAD_S
        assert (await cluster.start("second")).attempts == 1

    asyncio.run(run())


@pytest.mark.parametrize("begun", [False, True])
def test_nothing_is_left_when_the_client_goes_away(begun: bool) -> None:
    async def run() -> None:
        cluster = Cluster(lambda worker: [TOKENS[0]] if begun else [])
        if begun:
            generation = await cluster.start()
            await generation.aclose()
        else:
            waiting = asyncio.create_task(cluster.start())
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        (stream,) = cluster.streams.values()
        assert stream.cancelled and not cluster.forgotten and cluster.open_requests() == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    "lost", [ActorDiedError(), asyncio.CancelledError("the directory's task was"), ValueError("its bug")]
)
def test_directory_is_followed_again_when_it_was_away(
    monkeypatch: pytest.MonkeyPatch, lost: BaseException
) -> None:
    monkeypatch.setattr(dispatch, "FOLLOW_RETRY_S", 0.0)

    async def run() -> None:
        known = Directory("test")
        known.join(WorkerInfo(A, "epoch", "m", 32, 4096, 2048, ProfileGrid((0,), (32,), ((0.1,),))))
        followed, answers = asyncio.Event(), iter([lost, known.snapshot()])

        async def sync(*told: Any) -> Any:
            answer = next(answers, None)
            if isinstance(answer, BaseException):
                raise answer
            if answer is None:
                followed.set()
                await asyncio.get_running_loop().create_future()
            return answer

        monkeypatch.setattr(dispatch, "FOLLOW_INTERVAL_S", 0.0)
        cluster = Cluster(lambda worker: [])
        cluster.dispatcher._remote_directory = SimpleNamespace(sync=SimpleNamespace(remote=sync))  # type: ignore[assignment]
        following = asyncio.create_task(cluster.dispatcher.follow())
        await asyncio.wait({following, asyncio.create_task(followed.wait())}, return_when="FIRST_COMPLETED")
        assert followed.is_set()
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following

    asyncio.run(run())


def test_finished_requests_are_let_go_when_the_directory_is_away() -> None:
    async def run() -> None:
        cluster = Cluster(lambda worker: [TOKENS[1], StopAsyncIteration()])
        for number in range(50):  # nobody runs follow()
            generation = await cluster.start(str(number))
            assert [delta.text async for delta in generation] == ["y"]
            cluster.now_s += SETTLE_S
        assert len(cluster.dispatcher.directory._view.dispatches) <= 2

    asyncio.run(run())
