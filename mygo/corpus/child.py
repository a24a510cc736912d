"""Parsing and chunking in a child process: a file that hangs, crashes or bloats it fails alone.

A parser that meets hostile input may loop for ever inside a C library or eat all memory, and no thread
can be stopped from outside. The child is one process that lives as long as all goes well.

Why not ``multiprocessing.Process``: its start methods run the parent's ``__main__`` again in the
child, which in a Ray worker imports Ray. This child imports this room and what ``load`` names.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from mygo.errors import MygoError, Unavailable, UnparsableDocument

_log = logging.getLogger(__name__)

FileChunks = Callable[[str, bytes], list[str]]
"""(file name, bytes) -> chunks in reading order; raises UnparsableDocument."""

_START_S = 60.0
"""Imports and a tokenizer take a second; longer on a machine that is short of everything."""
_ORPHAN_S = 10.0
"""How much later than its parent would, the child ends itself: then the parent is gone."""
_MEMORY_BYTES = 4 * 2**30
"""Most data that the child may hold: many times the largest file that is sensible."""


class ChildChunks:
    """``load()`` made in a child process, and called there; several threads may call, in turn.

    ``load`` must be picklable. Whatever goes wrong in the child, the next call finds a new one.
    """

    def __init__(self, load: Callable[[], FileChunks], timeout_s: float) -> None:
        """Raises what ``load`` raises if that is a MygoError, else Unavailable if the child cannot start."""
        self._load = load
        self._timeout_s = timeout_s
        self._turn = threading.Lock()
        self._process, self._connection = self._started()

    def __call__(self, filename: str, data: bytes) -> list[str]:
        """The chunks of a file.

        Raises what the child raised, UnparsableDocument if it took longer than ``timeout_s`` or died
        over the file, Unavailable if it cannot be started (which no file is to blame for).
        """
        with self._turn:
            if self._process.poll() is not None:
                self._connection.close()
                self._process, self._connection = self._started()
            try:
                self._connection.send((filename, data))
                if not self._connection.poll(self._timeout_s):
                    raise _unparsable(
                        f"{filename!r} could not be read within {self._timeout_s:g} s."
                        " Upload it as plain text, or raise corpus.parse_timeout_s."
                    )
                answer: list[str] | MygoError = self._connection.recv()
            except (EOFError, OSError) as error:
                self._kill()
                raise _unparsable(
                    f"{filename!r} crashed the parser ({_how_it_ended(self._process)})."
                    " Open it in a viewer and save it again, or upload it as plain text."
                ) from error
            except BaseException:  # its answer, if it comes, would be taken for that to the next file
                self._kill()
                raise
        if isinstance(answer, MygoError):
            raise answer
        return answer

    def close(self) -> None:
        with self._turn:
            self._kill()
            self._connection.close()

    def _started(self) -> tuple[subprocess.Popen[bytes], Connection]:
        connection, its_end = Pipe()
        with its_end:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from {__name__} import serve; serve({its_end.fileno()})"],
                pass_fds=[its_end.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C that ends the cluster must not fail the file at hand
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        try:
            connection.send((self._load, self._timeout_s + _ORPHAN_S))
            ready: MygoError | None = connection.recv() if connection.poll(_START_S) else _too_slow()
        except (EOFError, OSError):
            ready = Unavailable(
                "the process that parses files ended while it started; see the log of the librarian"
            )
        if ready is not None:
            process.kill()
            process.wait()
            connection.close()
            raise ready
        return process, connection

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()


def serve(descriptor: int) -> None:
    """The child: answer until the parent hangs up."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, OSError):
        load, deadline_s = connection.recv()
        try:
            file_chunks: FileChunks = load()
        except MygoError as error:
            connection.send(error)
            return
        connection.send(None)
        while True:
            filename, data = connection.recv()
            # the default action of SIGALRM ends the process wherever it is, C libraries included
            signal.setitimer(signal.ITIMER_REAL, deadline_s)
            answer = _answer(file_chunks, filename, data)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(answer)


def _answer(file_chunks: FileChunks, filename: str, data: bytes) -> list[str] | MygoError:
    try:
        return file_chunks(filename, data)
    except MygoError as error:
        return error
    except MemoryError:
        return _unparsable(
            f"{filename!r} needs more than {_MEMORY_BYTES // 2**30} GiB to be read."
            " Split it, or upload it as plain text."
        )
    except Exception as error:  # a bug; what is sent must be picklable, so its traceback stays here
        _log.exception("%r could not be parsed", filename)
        return MygoError(f"{filename!r}: {type(error).__name__}: {error}; report this")


def _unparsable(message: str) -> UnparsableDocument:
    return UnparsableDocument(message, param="file", code="unsupported_file")


def _too_slow() -> Unavailable:
    return Unavailable(f"the process that parses files did not start within {_START_S:g} s; retry")


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"
