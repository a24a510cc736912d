from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mygo.corpus import Chunker, Delete, Library, StoreFileStatus, Upsert
from mygo.errors import ConfigError, NotFound, OutOfSpace, Unavailable
from mygo.types import PUBLIC, DocId, StoreId, TenantId

ACME = TenantId("acme")


def attached(library: Library, store: StoreId, text: str, filename: str = "a.txt") -> DocId:
    file = library.catalog.add_file(ACME, filename, text.encode()).id
    library.catalog.attach(ACME, store, file)
    return file


def drain(library: Library) -> list[StoreFileStatus]:
    return [file.status for file in iter(library.process_next, None)]


def live(library: Library, store: StoreId) -> list[DocId]:
    return [document.doc_id for document in library.journal.documents(store)]


def test_process_puts_a_document_into_the_journal(library: Library) -> None:
    store = library.catalog.create_store(ACME, domain=PUBLIC).id
    file = attached(library, store, "# One\n\nthe quick brown fox\n\n# Two\n\nthe lazy dog", "a.md")
    assert library.pending() == [(store, file)]
    done = library.process_next()
    assert done is not None and (done.status, done.chunks) == (StoreFileStatus.COMPLETED, 2)
    (entry,) = library.journal.read()
    assert isinstance(entry, Upsert)
    assert (entry.store_id, entry.doc_id, entry.tenant) == (store, file, ACME)
    assert (entry.domain, entry.filename) == (PUBLIC, "a.md")
    assert entry.content_hash == library.catalog.get_file(ACME, file).sha256
    assert [p.text for p in entry.passages] == ["# One\n\nthe quick brown fox", "# Two\n\nthe lazy dog"]
    assert library.pending() == [] and library.process_next() is None


def test_process_next_goes_on_when_a_file_cannot_be_parsed(library: Library) -> None:
    store = library.catalog.create_store(ACME).id
    bad = attached(library, store, "\x00\x01", "photo.bin")
    good = attached(library, store, "words")
    assert drain(library) == [StoreFileStatus.FAILED, StoreFileStatus.COMPLETED]
    failed = library.catalog.get_store_file(ACME, store, bad)
    assert failed.error is not None and failed.error.code == "unsupported_file"
    assert "'photo.bin' is binary" in failed.error.message
    assert live(library, store) == [good]
    assert library.catalog.attach(ACME, store, bad).error is None  # a second chance


def test_process_fails_the_file_when_its_bytes_are_lost(library: Library, tmp_path: Path) -> None:
    store = library.catalog.create_store(ACME).id
    file = attached(library, store, "words")
    (tmp_path / "data" / "blobs" / library.catalog.get_file(ACME, file).sha256).unlink()
    done = library.process(store, file)
    assert done is not None and done.error is not None
    assert done.error.code == "server_error" and "is missing" in done.error.message


def test_process_fails_the_file_when_we_have_a_bug(
    library: Library, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = library.catalog.create_store(ACME).id
    file = attached(library, store, "words")

    def broken(filename: str, data: bytes) -> list[str]:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(library, "_file_chunks", broken)
    done = library.process(store, file)
    assert done is not None and done.error is not None
    assert done.error.code == "server_error" and "ZeroDivisionError: oops" in done.error.message
    assert "Traceback" in caplog.text


def test_process_leaves_the_file_pending_when_nothing_can_parse(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = library.catalog.create_store(ACME).id
    attached(library, store, "words")

    def away(filename: str, data: bytes) -> list[str]:
        raise Unavailable("no process to parse in")

    with monkeypatch.context() as patch:
        patch.setattr(library, "_file_chunks", away)
        with pytest.raises(Unavailable):
            library.process_next()
    assert drain(library) == [StoreFileStatus.COMPLETED]


def test_process_leaves_the_file_pending_when_the_disk_is_full(library: Library) -> None:
    store = library.catalog.create_store(ACME).id
    file = attached(library, store, "the quick brown fox jumps over the lazy dog. " * 200)
    with library._database.transaction() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OutOfSpace):
        library.process_next()
    assert library.journal.position() == 0 and library.pending() == [(store, file)]
    with library._database.transaction() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    assert drain(library) == [StoreFileStatus.COMPLETED]
    assert library.journal.position() == 1


@pytest.mark.parametrize("interruption", ["detach", "delete_file", "delete_store"])
def test_process_changes_nothing_when_the_file_goes_away_meanwhile(
    library: Library, monkeypatch: pytest.MonkeyPatch, interruption: str
) -> None:
    catalog = library.catalog
    store = catalog.create_store(ACME).id
    file = attached(library, store, "words")
    chunks = library._file_chunks
    interrupt = {
        "detach": lambda: catalog.detach(ACME, store, file),
        "delete_file": lambda: catalog.delete_file(ACME, file),
        "delete_store": lambda: catalog.delete_store(ACME, store),
    }[interruption]

    def interrupted(filename: str, data: bytes) -> list[str]:
        interrupt()
        return chunks(filename, data)

    monkeypatch.setattr(library, "_file_chunks", interrupted)
    assert library.process_next() is None
    assert library.journal.position() == 0


def test_process_next_takes_another_file_when_the_first_goes_away_meanwhile(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = library.catalog.create_store(ACME).id
    first, second = attached(library, store, "first"), attached(library, store, "second")
    chunks = library._file_chunks

    def interrupted(filename: str, data: bytes) -> list[str]:
        if data == b"first":
            library.catalog.detach(ACME, store, first)
        return chunks(filename, data)

    monkeypatch.setattr(library, "_file_chunks", interrupted)
    done = library.process_next()
    assert done is not None and done.file_id == second


def test_process_leaves_nothing_behind_when_it_dies_before_its_commit(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = library.catalog.create_store(ACME).id
    file = attached(library, store, "words")
    upsert = library.journal.upsert

    def dies(**document: object) -> int:
        upsert(**document)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(library.journal, "upsert", dies)
        with pytest.raises(KeyboardInterrupt):
            library.process_next()
    assert library.journal.position() == 0 and live(library, store) == []
    assert library.pending() == [(store, file)]
    assert drain(library) == [StoreFileStatus.COMPLETED]


def test_same_filename_is_another_document(library: Library) -> None:
    store = library.catalog.create_store(ACME).id
    files = [attached(library, store, text) for text in ("one", "two", "two")]
    drain(library)
    assert live(library, store) == files


def test_detach_appends_a_delete_for_that_store_only(library: Library) -> None:
    catalog = library.catalog
    one, two = catalog.create_store(ACME).id, catalog.create_store(ACME).id
    file = attached(library, one, "words")
    catalog.attach(ACME, two, file)
    drain(library)
    catalog.detach(ACME, one, file)
    assert (live(library, one), live(library, two)) == ([], [file])
    last = library.journal.read()[-1]
    assert isinstance(last, Delete) and [p.text for p in last.passages] == ["words"]
    with pytest.raises(NotFound):
        catalog.get_store_file(ACME, one, file)
    catalog.attach(ACME, one, file)
    drain(library)
    assert live(library, one) == [file]


def test_deleting_a_file_takes_it_out_of_every_store(library: Library) -> None:
    catalog = library.catalog
    stores = [catalog.create_store(ACME).id for _ in range(3)]
    file = attached(library, stores[0], "words")
    catalog.attach(ACME, stores[1], file)
    drain(library)
    catalog.attach(ACME, stores[2], file)  # still pending
    catalog.delete_file(ACME, file)
    entries = library.journal.read(2)
    assert [(type(e), e.store_id) for e in entries] == [(Delete, stores[0]), (Delete, stores[1])]
    assert library.pending() == []


def test_deleting_a_store_deletes_its_documents_but_not_the_files(library: Library) -> None:
    catalog = library.catalog
    store, other = catalog.create_store(ACME).id, catalog.create_store(ACME).id
    files = [attached(library, store, text) for text in ("one", "two")]
    catalog.attach(ACME, other, files[0])
    drain(library)
    attached(library, store, "pending")
    catalog.delete_store(ACME, store)
    assert [(type(e), e.doc_id) for e in library.journal.read(3)] == [(Delete, f) for f in files]
    assert library.pending() == [] and live(library, other) == [files[0]]
    assert catalog.content(ACME, files[1]) == b"two"


def test_reopened_library_completes_what_was_pending(open_library: Callable[[], Library]) -> None:
    library = open_library()
    store = library.catalog.create_store(ACME).id
    files = [attached(library, store, text) for text in ("one", "two")]
    library.process_next()
    library.close()
    library = open_library()
    assert drain(library) == [StoreFileStatus.COMPLETED]
    assert live(library, store) == files and library.journal.position() == 2


def test_library_opens_when_nothing_can_be_written_any_more(
    open_library: Callable[[], Library], tmp_path: Path
) -> None:
    library = open_library()
    store = library.catalog.create_store(ACME).id
    library.close()
    before = (tmp_path / "data" / "corpus.sqlite3").read_bytes()
    library = open_library()
    assert library.catalog.get_store(ACME, store).id == store
    wal = tmp_path / "data" / "corpus.sqlite3-wal"
    assert not wal.exists() or wal.stat().st_size == 0, "opening wrote something"
    library.close()
    assert (tmp_path / "data" / "corpus.sqlite3").read_bytes() == before


def test_library_refuses_when_the_data_directory_is_a_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cluster\.data_dir: .*cannot be used"):
        Library(tmp_path / "file", Chunker(tokenizer, 16).file_chunks)
