"""Checkpoints in the cache directory: written whole or not at all, with a manifest of checksums."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mygo.errors import ConfigError

MANIFEST = "mygo-manifest.json"


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def obtain(target: Path, write: Callable[[Path], None]) -> Path:
    """Return ``target``, calling ``write(empty_directory)`` first if it is absent or damaged.

    Safe between processes: one writes while the others wait, and the directory appears under its
    name only when complete, by one rename. Raises ConfigError if the disk refuses.
    """
    if _sizes_match(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(target.parent / f".{target.name}.lock"):
            if not _sizes_match(target):
                _write_whole(target, write)
    except OSError as error:
        raise ConfigError(
            f"{target}: cannot be written ({error}); "
            "free some space or set cluster.cache_dir to another folder"
        ) from error
    return target


def verify(directory: Path) -> None:
    """Compare every file with the manifest, byte for byte (seconds per GB).

    Raises ConfigError that names the first damaged file. ``obtain`` compares only sizes.
    """
    files = _manifest(directory)
    if files is None:
        raise ConfigError(f"{directory}: has no {MANIFEST}, so there is nothing to compare it with")
    for name, (size, digest) in files.items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != size or sha256_file(path) != digest:
            raise ConfigError(f"{path}: differs from its checksum; delete {directory} to make it again")


def _write_whole(target: Path, write: Callable[[Path], None]) -> None:
    for leftover in target.parent.glob(f".{target.name}.partial-*"):
        shutil.rmtree(leftover)  # of a process that was killed: we hold its lock
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        write(partial)
        _write_manifest(partial)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_manifest(directory: Path) -> None:
    entries = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        path.chmod(0o644)
        entries[str(path.relative_to(directory))] = {
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        # The manifest vouches for these bytes after a power cut too.
        with path.open("rb") as file:
            os.fsync(file.fileno())
    directory.chmod(0o755)
    (directory / MANIFEST).write_text(json.dumps({"files": entries}, indent=1) + "\n")


def _manifest(directory: Path) -> dict[str, tuple[int, str]] | None:
    """File name -> (bytes, SHA-256); None if the manifest is missing or unreadable."""
    try:
        files = json.loads((directory / MANIFEST).read_text())["files"]
        return {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sizes_match(directory: Path) -> bool:
    files = _manifest(directory)
    if not files:
        return False
    try:
        return all((directory / name).stat().st_size == size for name, (size, _) in files.items())
    except OSError:
        return False


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold an advisory lock; the kernel releases it if the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
