"""The bytes of uploaded files, one file on disk per SHA-256."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from mygo.corpus.database import is_out_of_space, out_of_space
from mygo.errors import MygoError


class Blobs:
    """Content-addressed files in one directory. A blob is there wholly or not at all.

    Which blobs are needed is the catalog's knowledge: it calls ``publish``, ``remove`` and
    ``keep_only`` inside a transaction, so that they never race with each other.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    @contextmanager
    def staged(self, data: bytes) -> Iterator[Path]:
        """A durable temporary copy of ``data`` for ``publish``; gone at the end if not published.

        Raises OutOfSpace.
        """
        path = self._directory / f".incoming-{secrets.token_hex(8)}"
        try:
            try:
                with path.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                if is_out_of_space(error):
                    raise out_of_space(self._directory) from error
                raise
            yield path
        finally:
            path.unlink(missing_ok=True)

    def publish(self, staged: Path, sha256: str) -> None:
        """Give a staged copy its name; durable on return. Replaces an equal blob."""
        staged.replace(self._directory / sha256)
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        except OSError as error:
            if is_out_of_space(error):
                raise out_of_space(self._directory) from error
            raise
        finally:
            os.close(directory)

    def read(self, sha256: str) -> bytes:
        """Raises MygoError if the blob is missing or damaged: both mean that the disk lost it."""
        path = self._directory / sha256
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = None
        if data is None or hashlib.sha256(data).hexdigest() != sha256:
            raise MygoError(
                f"{path}: is {'missing' if data is None else 'damaged'};"
                " restore a backup, or delete the file and upload it again"
            )
        return data

    def remove(self, sha256: str) -> None:
        (self._directory / sha256).unlink(missing_ok=True)

    def keep_only(self, wanted: Collection[str]) -> None:
        """Remove all but these, and what interrupted uploads left."""
        for path in self._directory.iterdir():
            if path.name not in wanted:
                path.unlink(missing_ok=True)
