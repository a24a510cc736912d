"""Waiting for another part of the cluster ends, and says who was waited for."""

from __future__ import annotations

import asyncio

import pytest
from ray.exceptions import RayTaskError

from mygo.errors import NotFound, Unavailable
from mygo.serve import calls
from mygo.serve.calls import outlived, raise_cause, reply


def test_reply_is_unavailable_when_nobody_ever_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "REPLY_S", 0.01)

    async def ask() -> None:
        await reply(asyncio.get_running_loop().create_future(), "librarian")

    with pytest.raises(Unavailable, match="librarian did not answer"):
        asyncio.run(ask())


@pytest.mark.parametrize("raised", [NotFound("no such store"), Unavailable("later")])
def test_reply_raises_what_the_part_raised_when_it_refuses(raised: Exception) -> None:
    async def refuse() -> None:
        raise RayTaskError("catalog", "traceback", raised).as_instanceof_cause()

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


def test_reply_is_no_timeout_of_ours_when_the_part_itself_raised_one() -> None:
    async def fail() -> None:
        raise RayTaskError("catalog", "traceback", TimeoutError("its own")).as_instanceof_cause()

    with pytest.raises(RayTaskError):
        asyncio.run(reply(fail(), "librarian"))
