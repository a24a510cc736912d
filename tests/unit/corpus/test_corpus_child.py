from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mygo.corpus import ChildChunks, Chunker, Library, StoreFileStatus, load_file_chunks
from mygo.corpus.child import FileChunks
from mygo.errors import ConfigError, Unavailable, UnparsableDocument
from mygo.types import TenantId

ACME = TenantId("acme")


def load_troubled() -> FileChunks:
    """Made in the child: the file's name says what its parser does."""
    return _troubled


def _troubled(filename: str, data: bytes) -> list[str]:
    match filename:
        case "loop":
            while True:
                pass
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "memory":
            return [str(len(bytearray(2**40)))]
        case "bug":
            raise ZeroDivisionError("oops")
        case "pid":
            return [str(os.getpid())]
    return [data.decode()]


def load_nothing() -> FileChunks:
    raise RuntimeError("cannot be loaded")


@pytest.fixture
def troubled() -> Iterator[ChildChunks]:
    chunks = ChildChunks(load_troubled, timeout_s=0.5)
    yield chunks
    chunks.close()


@pytest.mark.parametrize(
    ("filename", "reason"),
    [
        ("loop", r"'loop' could not be read within 0\.5 s.*corpus\.parse_timeout_s"),
        ("segfault", r"'segfault' crashed the parser \(SIGSEGV\)"),
        ("exit", r"'exit' crashed the parser \(exit status 3\)"),
        ("memory", r"'memory' needs more than \d+ GiB"),
    ],
)
def test_file_fails_alone_when_its_parser_is_in_trouble(
    troubled: ChildChunks, filename: str, reason: str
) -> None:
    with pytest.raises(UnparsableDocument, match=reason):
        troubled(filename, b"")
    assert troubled("fine", b"words") == ["words"]


def test_child_lives_on_when_files_fail_in_ordinary_ways(troubled: ChildChunks) -> None:
    before = troubled("pid", b"")
    assert before != [str(os.getpid())]
    with pytest.raises(Exception, match=r"'bug': ZeroDivisionError: oops; report this"):
        troubled("bug", b"")
    assert troubled("pid", b"") == before


def test_file_is_read_when_the_child_was_killed_before_it_came(troubled: ChildChunks) -> None:
    os.kill(int(troubled("pid", b"")[0]), signal.SIGKILL)
    troubled._process.wait()
    assert troubled("fine", b"words") == ["words"]


def test_child_cannot_start_when_loading_fails() -> None:
    with pytest.raises(Unavailable, match="ended while it started"):
        ChildChunks(load_nothing, timeout_s=1)


def test_child_says_what_is_wrong_with_the_configuration(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"corpus\.overlap_tokens"):
        ChildChunks(partial(load_file_chunks, tmp_path / "tokenizer.json", 16, 16), timeout_s=1)


def test_child_ends_itself_when_its_parent_is_killed_while_it_loops() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    try:  # it inherited the other end of this pipe, which closes when it is gone
        assert select.select([parent.stdout], [], [], 20)[0]
        assert parent.stdout.read() == b""
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise


PARENT = """
import threading
from mygo.corpus import child
from test_corpus_child import load_troubled

child._ORPHAN_S = 0.5
chunks = child.ChildChunks(load_troubled, timeout_s=1)
pid = chunks("pid", b"")[0]
chunks._timeout_s = 60
threading.Timer(0.2, print, [pid], {"flush": True}).start()  # once it loops
chunks("loop", b"")
"""


def test_child_imports_only_what_parsing_and_chunking_need() -> None:
    script = "import sys, mygo.corpus.child; print(*{name.split('.')[0] for name in sys.modules})"
    imported = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names = set(imported.stdout.split())
    assert "pypdf" in names
    assert not names & {"ray", "torch", "transformers", "vllm", "faiss", "fastapi", "pydantic"}


def test_library_completes_other_files_when_one_loops(
    tmp_path: Path, tokenizer: Tokenizer, troubled: ChildChunks
) -> None:
    library = Library(tmp_path / "data", troubled)
    store = library.catalog.create_store(ACME).id
    files = [library.catalog.add_file(ACME, name, b"words").id for name in ("loop", "a.txt")]
    for file in files:
        library.catalog.attach(ACME, store, file)
    done = list(iter(library.process_next, None))
    assert [file.status for file in done] == [StoreFileStatus.FAILED, StoreFileStatus.COMPLETED]
    assert done[0].error is not None and "could not be read within 0.5 s" in done[0].error.message
    library.close()


def test_child_chunks_as_the_chunker_does(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    chunks = ChildChunks(partial(load_file_chunks, tmp_path / "tokenizer.json", 16, 0), timeout_s=20)
    data = b"# One\n\n" + b"the quick brown fox jumps over the lazy dog. " * 5000
    assert chunks("a.md", data) == Chunker(tokenizer, 16).file_chunks("a.md", data)
    with pytest.raises(UnparsableDocument, match=r"'a\.bin' is binary"):
        chunks("a.bin", b"\x00")
    chunks.close()
