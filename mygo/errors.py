"""Errors by what the caller can do about them: fix the request, retry, or report a bug.

Every message names the offending value and says what to do next. The HTTP face maps a class to a
status, the CLI to an exit code; nothing else inspects them.
"""


class MygoError(Exception):
    """Root of all errors that MyGO raises on purpose."""


class BadRequest(MygoError):
    """The caller must change the request. ``param`` names the offending field, if one does."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_bad_request, (type(self), str(self), self.param, self.code))


def _rebuild_bad_request(
    kind: type["BadRequest"], message: str, param: str | None, code: str | None
) -> "BadRequest":
    """Unpickle: exceptions with keyword-only arguments do not survive a process border by themselves."""
    return kind(message, param=param, code=code)


class Unauthorized(BadRequest):
    """The API key is missing or unknown."""


class NotFound(BadRequest):
    """The named thing does not exist for this tenant (or belongs to another: the same answer)."""


class Conflict(BadRequest):
    """The request contradicts the present state (say, a file that is still being processed)."""


class TooLarge(BadRequest):
    """The body, file or prompt exceeds a limit that the message names."""


class UnparsableDocument(BadRequest):
    """A document could not be read as text; the message names the file and the reason."""


class ConfigError(MygoError):
    """The configuration is wrong; the message names the key and the nearest valid one."""


class BadTrace(MygoError):
    """A trace file, or what a trace is to be made from, is wrong; the message names file and line, or the
    parameter, and what is expected."""


class Unavailable(MygoError):
    """Nothing is wrong with the request: retry later. ``retry_after_s`` suggests when."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OutOfSpace(Unavailable):
    """The disk that holds the journal is full: nothing was written, nothing is lost."""


class WorkerLost(Unavailable):
    """The worker died after it had begun to stream; what was sent is all there is."""


class Misdirected(Unavailable):
    """A call came to another worker than the one it was for, which is gone, or so new that Serve does not
    list it yet."""


class UntestedVersion(MygoError):
    """A library whose internals we touch has a version that MyGO was not tested with."""
