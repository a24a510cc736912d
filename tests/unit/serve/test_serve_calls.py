"""Waiting for another part of the cluster ends, and says who was waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from mygo.errors import NotFound, Unavailable
from mygo.serve import calls
from mygo.serve.calls import is_loss, outlived, raise_cause, reply

Transport = Callable[[BaseException], BaseException]


def test_reply_is_unavailable_when_nobody_ever_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "REPLY_S", 0.01)

    async def ask() -> None:
        await reply(asyncio.get_running_loop().create_future(), "librarian")

    with pytest.raises(Unavailable, match="librarian did not answer"):
        asyncio.run(ask())


def by_ray(error: BaseException) -> BaseException:
    return RayTaskError("catalog", "traceback", error).as_instanceof_cause()


def by_grpc(error: BaseException) -> BaseException:
    return error


TRANSPORTS = pytest.mark.parametrize("transport", [by_ray, by_grpc])


def failed(code: StatusCode) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(), details="of gRPC itself")


GONE = failed(StatusCode.CANCELLED)  # while it was shutting down


@TRANSPORTS
@pytest.mark.parametrize("raised", [NotFound("no such store"), Unavailable("later")])
def test_reply_raises_what_the_part_raised_when_it_refuses(transport: Transport, raised: Exception) -> None:
    async def refuse() -> None:
        raise transport(raised)

    with pytest.raises(type(raised), match=str(raised)):
        asyncio.run(reply(refuse(), "librarian"))


def test_errors_that_hold_no_other_are_raised_without_a_cause() -> None:
    for error in (NotFound("no such store"), RayTaskError("catalog", "traceback", ValueError("a bug"))):
        with pytest.raises(type(error)) as raised:
            raise_cause(error)
        assert raised.value is error
        assert error.__cause__ is not error


def test_work_is_unavailable_when_the_callee_was_cancelled_and_cancelled_when_this_task_is() -> None:
    async def cancelled_there() -> None:
        raise asyncio.CancelledError

    async def run() -> None:
        with pytest.raises(Unavailable, match="librarian cancelled"):
            await outlived(cancelled_there(), "librarian")
        with pytest.raises(Unavailable, match="librarian cancelled"):
            await reply(cancelled_there(), "librarian")
        waiting = asyncio.create_task(outlived(asyncio.Event().wait()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(run())


@TRANSPORTS
def test_reply_is_no_timeout_of_ours_when_the_part_itself_raised_one(transport: Transport) -> None:
    async def fail() -> None:
        raise transport(TimeoutError("its own"))

    with pytest.raises(TimeoutError):
        asyncio.run(reply(fail(), "librarian"))


@pytest.mark.parametrize("error", [GONE, ActorDiedError(), DeploymentUnavailableError(DeploymentID("shard"))])
def test_reply_is_unavailable_when_the_part_is_gone(error: Exception) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(Unavailable, match="librarian is being restarted"):
        asyncio.run(reply(fail(), "librarian"))


@TRANSPORTS
def test_part_is_lost_when_it_is_gone_and_not_when_it_refuses(transport: Transport) -> None:
    async def run() -> None:
        assert is_loss(transport(Unavailable("stopping")))
        assert is_loss(transport(ActorDiedError()))
        assert is_loss(GONE)
        assert is_loss(asyncio.CancelledError())  # its task was cancelled, ours is not
        assert not is_loss(transport(NotFound("no such store")))
        assert not is_loss(transport(ValueError("a bug")))
        assert not is_loss(failed(StatusCode.RESOURCE_EXHAUSTED))  # too long, for any worker

    asyncio.run(run())
