"""What crosses process borders: errors without any wrapping, tokens without Ray's serializer.

Over gRPC (``transport.py``) a part's error arrives as it was raised, over Ray's own calls inside a
RayTaskError: both are understood here.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from collections.abc import Awaitable
from typing import NoReturn, Protocol, TypeVar

from grpc import StatusCode
from grpc.aio import AioRpcError
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from mygo.errors import MygoError, Unavailable
from mygo.types import TokenDelta

T = TypeVar("T")

REPLY_S = 60.0
"""Longest wait for another part. A call to a deployment that has no replica waits for one to come up,
which may be never."""
DIRECTORY_ANSWER_S = 15.0
"""Longest wait for the directory, which answers at once: another one may be up where its machine is gone."""


class _Cancellable(Protocol):
    def cancel(self) -> None: ...


async def reply(response: Awaitable[T], who: str, limit_s: float | None = None) -> T:
    """Await a handle's response, for ``REPLY_S`` unless told otherwise.

    Raises the MygoError that the deployment raised; Unavailable, naming ``who``, if it is away.
    """
    limit_s = REPLY_S if limit_s is None else limit_s
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            return await outlived(response, who)
    except RayTaskError as error:
        raise_cause(error)
    except (RayError, RayServeException, AioRpcError) as error:
        if not _is_gone(error):
            raise
        raise Unavailable(f"the {who} is being restarted; try again shortly", retry_after_s=5.0) from error
    except TimeoutError as error:
        if not limit.expired():  # the part's own
            raise
        raise Unavailable(
            f"the {who} did not answer within {limit_s:g} s; see `mygo status`", retry_after_s=5.0
        ) from error


async def outlived(work: Awaitable[T], who: str = "other part") -> T:
    """Await calls of other parts. CancelledError means that the current task is being cancelled: where Ray
    raises it because the callee's task was, this raises Unavailable, which what should go on can catch."""
    try:
        return await work
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise Unavailable(f"the {who} cancelled the call; try again shortly", retry_after_s=5.0) from error


def raised_there(error: BaseException) -> BaseException:
    """What the other part raised, if ``error`` is what a call of it raised here."""
    inner: BaseException = error.cause if isinstance(error, RayTaskError) else error
    return inner


def raise_cause(error: BaseException) -> NoReturn:
    """Raise the MygoError inside a Ray error, or the error itself."""
    inner = raised_there(error)
    if inner is error or not isinstance(inner, MygoError):
        raise error
    raise inner from error


def is_loss(error: BaseException) -> bool:
    """True if the callee is gone or cannot serve, rather than having refused the request."""
    if isinstance(error, asyncio.CancelledError):
        return not is_cancelled()
    inner = raised_there(error)
    return isinstance(inner, Unavailable | StopAsyncIteration) or _is_gone(inner)


def _is_gone(error: BaseException) -> bool:
    if isinstance(error, AioRpcError):  # any other code: the call could not be made, wherever it went
        return error.code() in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED, StatusCode.DEADLINE_EXCEEDED)
    return isinstance(error, RayError | RayServeException)


def abandon(response: _Cancellable) -> None:
    """Cancel a call whose answer nobody waits for any more. Ray raises here what sending the call failed
    with."""
    with contextlib.suppress(Exception):
        response.cancel()


def is_cancelled() -> bool:
    """Whether the current task is being cancelled. Ray raises CancelledError, too, when it was the callee's
    task that was: whoever catches that must not end because of it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def pack(delta: TokenDelta) -> bytes:
    """A delta as Ray streams it cheapest.

    Ray passes bytes through and puts any other object through cloudpickle and msgpack, which costs both
    ends about 0.1 ms more per token.
    """
    return pickle.dumps(delta, pickle.HIGHEST_PROTOCOL)


def unpack(packed: bytes) -> TokenDelta:
    """The inverse of ``pack``; only for what our own workers sent."""
    delta: TokenDelta = pickle.loads(packed)
    return delta
