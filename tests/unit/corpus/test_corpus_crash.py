"""What a call acknowledged is there after ``kill -9``, exactly once."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mygo.corpus import Chunker, Library, Upsert
from mygo.errors import NotFound
from mygo.types import DocId, StoreId, TenantId

ACME = TenantId("acme")

# Uploads, attaches and processes without end, deletes every third file, and says each thing that a
# call has acknowledged; ``deleting`` is said before, since the deletion may or may not be done then.
WRITER = """
import sys
from pathlib import Path
from tokenizers import Tokenizer
from mygo.corpus import Chunker, Library

data_dir, tokenizer, store, round_ = sys.argv[1:]
library = Library(Path(data_dir), Chunker(Tokenizer.from_file(tokenizer), 16).file_chunks)
i = 0
while True:
    text = f"document {i} of round {round_}. " * 30
    file = library.catalog.add_file("acme", f"{i}.txt", text.encode()).id
    library.catalog.attach("acme", store, file)
    print("attached", file, flush=True)
    done = library.process_next()
    print("completed", done.file_id, flush=True)
    if i % 3 == 0:
        print("deleting", file, flush=True)
        library.catalog.delete_file("acme", file)
        print("deleted", file, flush=True)
    i += 1
"""


def said_until_killed(data_dir: Path, tokenizer: Path, store: StoreId, round_: int, lines: int) -> list[str]:
    """What the writer said before SIGKILL hit it, some time after it had said ``lines`` things."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(data_dir), str(tokenizer), store, str(round_)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    said = [writer.stdout.readline() for _ in range(lines)]
    writer.kill()
    rest, _ = writer.communicate()
    return [line.strip() for line in said + rest.splitlines(keepends=True) if line.endswith("\n")]


def test_acknowledged_work_survives_exactly_once_when_killed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    data_dir, tokenizer_file = tmp_path / "data", tmp_path / "tokenizer.json"
    tokenizer.save(str(tokenizer_file))
    library = Library(data_dir, Chunker(tokenizer, 16).file_chunks)
    store = library.catalog.create_store(ACME).id
    library.close()
    rng = random.Random(7)
    acknowledged: dict[str, set[DocId]] = {
        verb: set() for verb in ("attached", "completed", "deleting", "deleted")
    }
    for round_ in range(5):
        for line in said_until_killed(data_dir, tokenizer_file, store, round_, rng.randint(1, 25)):
            verb, file = line.split()
            acknowledged[verb].add(DocId(file))

        library = Library(data_dir, Chunker(tokenizer, 16).file_chunks)
        upserted = {entry.doc_id for entry in library.journal.read(limit=10**6)}
        assert acknowledged["completed"] <= upserted
        while library.process_next() is not None:
            pass
        entries = library.journal.read(limit=10**6)
        assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
        upserts = Counter(entry.doc_id for entry in entries if isinstance(entry, Upsert))
        assert set(upserts.values()) == {1}
        live = {document.doc_id for document in library.journal.documents(store)}
        assert acknowledged["attached"] - acknowledged["deleting"] <= live
        assert not live & acknowledged["deleted"]
        for file in live:
            assert b"document" in library.catalog.content(ACME, file)
            text = " ".join(passage.text for passage in library.journal.passages(store, file))
            assert text.count("document") == 30
        for file in acknowledged["deleted"]:
            with pytest.raises(NotFound):
                library.catalog.get_file(ACME, file)
        library.close()
    assert acknowledged["deleted"] and acknowledged["completed"]
