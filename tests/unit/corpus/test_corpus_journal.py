from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mygo.corpus import Delete, Document, Journal, Upsert, passage_hash
from mygo.corpus.database import Database
from mygo.errors import BadRequest, ConfigError, OutOfSpace
from mygo.types import PUBLIC, ContentHash, DocId, DomainTag, Passage, StoreId, TenantId

S1, S2 = StoreId("vs_1"), StoreId("vs_2")
A, B = DocId("file-a"), DocId("file-b")
ACME = DomainTag("acme")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "corpus.sqlite3")
    yield database
    database.close()


@pytest.fixture
def journal(database: Database) -> Journal:
    return Journal(database)


def put(journal: Journal, store: StoreId, doc: DocId, *chunks: str, **changes: Any) -> int:
    document = {
        "tenant": TenantId("acme"),
        "domain": ACME,
        "filename": "a.txt",
        "content_hash": passage_hash("".join(chunks)),
        "now": 5.0,
    }
    return journal.upsert(store_id=store, doc_id=doc, chunks=chunks, **(document | changes))


def test_read_returns_what_was_appended_when_asked_from_a_position_on(journal: Journal) -> None:
    assert journal.position() == 0 and journal.read() == []
    assert put(journal, S1, A, "one", "two") == 1
    assert put(journal, S2, A, "one", domain=PUBLIC, filename="p.md") == 2
    assert journal.delete(S1, A, now=9.0) == 3
    assert journal.position() == 3

    first, second, third = journal.read()
    passages = tuple(
        Passage(A, i, text, passage_hash(text), S1, "a.txt", ACME) for i, text in enumerate(["one", "two"])
    )
    common = (S1, A, "acme", ACME, "a.txt", passage_hash("onetwo"), passages)
    assert first == Upsert(1, *common, 5.0)
    assert third == Delete(3, *common, 9.0)
    assert [(p.text, p.domain, p.filename) for p in second.passages] == [("one", PUBLIC, "p.md")]
    assert journal.read(1) == [second, third]
    assert journal.read(1, 1) == [second]
    assert journal.read(3) == [] == journal.read(0, 0)


def test_upsert_appends_nothing_when_the_same_is_live(journal: Journal) -> None:
    position = put(journal, S1, A, "one")
    put(journal, S1, B, "other")
    assert put(journal, S1, A, "one", now=77.0) == position
    assert journal.position() == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"content_hash": ContentHash("0" * 64)},
        {"chunks": ["on", "e"]},
        {"chunks": []},
        {"filename": "b.txt"},
        {"domain": PUBLIC},
        {"tenant": TenantId("other")},
    ],
)
def test_upsert_deletes_and_appends_when_anything_differs(journal: Journal, changes: dict[str, Any]) -> None:
    document = {
        "store_id": S1, "doc_id": A, "tenant": TenantId("acme"), "domain": ACME, "filename": "a.txt",
        "content_hash": passage_hash("one"), "chunks": ["one"], "now": 1.0,
    }  # fmt: skip
    journal.upsert(**document)  # type: ignore[arg-type]
    assert journal.upsert(**(document | changes)) == 3  # type: ignore[arg-type]
    assert [type(entry) for entry in journal.read()] == [Upsert, Delete, Upsert]
    assert [d.position for d in journal.documents(S1)] == [3]


def test_delete_appends_nothing_when_the_document_is_not_live(journal: Journal) -> None:
    assert journal.delete(S1, A, now=1.0) is None
    put(journal, S1, A, "one")
    journal.delete(S1, A, now=2.0)
    assert journal.delete(S1, A, now=3.0) is None
    assert journal.delete(S2, A, now=3.0) is None
    assert journal.position() == 2


def test_upsert_appends_anew_when_the_document_was_deleted(journal: Journal) -> None:
    put(journal, S1, A, "one")
    journal.delete(S1, A, now=2.0)
    assert put(journal, S1, A, "one") == 3


def test_live_view_holds_what_was_not_deleted(journal: Journal) -> None:
    put(journal, S1, A, "one", "two")
    put(journal, S1, B)
    put(journal, S2, A, "three")
    journal.delete(S1, B, now=6.0)
    assert journal.documents(S1) == [
        Document(1, S1, A, TenantId("acme"), ACME, "a.txt", passage_hash("onetwo"), 2, 5.0)
    ]
    assert [p.text for p in journal.passages(S1, A)] == ["one", "two"]
    assert journal.passages(S1, B) == () == journal.passages(S2, B)


def test_references_count_live_passages_per_domain(journal: Journal) -> None:
    put(journal, S1, A, "same", "same", "own")
    put(journal, S2, B, "same")
    put(journal, S1, B, "same", domain=PUBLIC)
    same, own, never = passage_hash("same"), passage_hash("own"), passage_hash("never")
    assert journal.references(ACME, [same, own, never]) == {same: 3, own: 1, never: 0}
    assert journal.references(PUBLIC, [same, own]) == {same: 1, own: 0}
    journal.delete(S1, A, now=6.0)
    assert journal.references(ACME, [same, own]) == {same: 1, own: 0}
    put(journal, S2, B, "changed")
    assert journal.references(ACME, [same]) == {same: 0}


def test_append_leaves_no_trace_when_the_disk_is_full(tmp_path: Path) -> None:
    database = Database(tmp_path / "corpus.sqlite3")
    journal = Journal(database)
    put(journal, S1, A, "kept")
    with database.transaction() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite's own SQLITE_FULL
    before = journal.read()
    with pytest.raises(OutOfSpace, match=r"corpus\.sqlite3: the disk is full"):
        put(journal, S1, A, "x" * 100_000)
    assert journal.read() == before
    with database.transaction() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    assert put(journal, S1, A, "x" * 100_000) == 3
    database.close()
    with_reopened = Journal(reopened := Database(tmp_path / "corpus.sqlite3"))
    assert [type(entry) for entry in with_reopened.read()] == [Upsert, Delete, Upsert]
    reopened.close()


def test_append_rolls_back_wholly_when_an_outer_transaction_fails(
    database: Database, journal: Journal
) -> None:
    with pytest.raises(RuntimeError), database.transaction():
        put(journal, S1, A, "one")
        journal.delete(S1, A, now=2.0)
        raise RuntimeError
    assert journal.position() == 0
    assert put(journal, S1, A, "one") == 1


def test_append_names_the_text_when_it_is_not_unicode(journal: Journal) -> None:
    with pytest.raises(BadRequest, match="lone surrogate"):
        put(journal, S1, A, "one", filename="bad\udcff.txt")
    assert journal.position() == 0


def test_database_refuses_when_the_file_is_not_one(tmp_path: Path) -> None:
    path = tmp_path / "corpus.sqlite3"
    path.write_bytes(b"certainly not a database" * 100)
    with pytest.raises(ConfigError, match=r"corpus\.sqlite3: is not a MyGO corpus"):
        Database(path)
    assert path.read_bytes() == b"certainly not a database" * 100


@pytest.mark.parametrize("statement", ["PRAGMA user_version = 99", "CREATE TABLE other (x)"])
def test_database_refuses_when_the_schema_is_unknown(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "corpus.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(ConfigError, match="schema version"):
        Database(path)


def test_database_refuses_when_its_directory_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        Database(tmp_path / "nowhere" / "corpus.sqlite3")


def test_database_is_durable_on_commit(database: Database) -> None:
    with database.transaction() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_reading_does_not_wait_when_another_process_or_thread_writes(
    tmp_path: Path, database: Database, journal: Journal
) -> None:
    put(journal, S1, A, "one")
    other_process = sqlite3.connect(tmp_path / "corpus.sqlite3", isolation_level=None)
    other_process.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(2) as pool:
        waits_for_the_other_process = pool.submit(put, journal, S1, B, "two")
        try:
            assert pool.submit(journal.position).result(timeout=5) == 1
            assert not waits_for_the_other_process.done()
        finally:
            other_process.execute("ROLLBACK")
            other_process.close()
        assert waits_for_the_other_process.result(timeout=20) == 2
        with database.transaction():
            put(journal, S2, A, "three")
            assert pool.submit(journal.position).result(timeout=5) == 2
            assert journal.position() == 3  # its own
        assert pool.submit(journal.position).result(timeout=5) == 3


def test_reading_sees_one_state_when_a_commit_falls_into_it(database: Database, journal: Journal) -> None:
    put(journal, S1, A, "one")
    with ThreadPoolExecutor(1) as pool, database.reading():
        assert journal.position() == 1
        assert pool.submit(put, journal, S1, B, "two").result(timeout=20) == 2
        assert journal.position() == 1
    assert journal.position() == 2


def test_reading_cannot_write(database: Database) -> None:
    with pytest.raises(ConfigError, match="cannot be written"), database.reading() as connection:
        connection.execute("DELETE FROM live")


def test_read_ends_early_when_the_texts_are_long(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mygo.corpus.journal._READ_CHARS", 10)
    positions = [put(journal, S1, DocId(f"file-{n}"), text) for n, text in enumerate(("x" * 99, "abc", "d"))]
    assert [entry.position for entry in journal.read()] == positions[:1]
    assert [entry.position for entry in journal.read(after=positions[0])] == positions[1:]


def test_deletions_are_passages_that_no_live_document_of_the_domain_has(journal: Journal) -> None:
    one, two, three = (passage_hash(text) for text in ("one", "two", "three"))
    put(journal, S1, A, "one", "two", "three")
    put(journal, S2, B, "two")
    put(journal, S2, A, "three", domain=PUBLIC)
    assert journal.deletions(0, 10) == (3, [])
    assert journal.delete(S1, A, now=9.0) == 4
    assert journal.deletions(0, 10) == (4, sorted([(ACME, one), (ACME, three)]))
    assert journal.deletions(4, 10) == (4, [])
    journal.delete(S2, B, now=9.0)
    # a document that comes back takes its passages off the list
    put(journal, S1, A, "one")
    assert journal.deletions(4, 10) == (6, [(ACME, two)])
    assert journal.deletions(0, 10) == (6, sorted([(ACME, two), (ACME, three)]))
    position, gone = journal.deletions(0, 1)
    assert position == 4, "up to where it has looked, and no further"
    assert (ACME, three) in gone


def test_update_deletes_only_what_the_new_version_lacks(journal: Journal) -> None:
    put(journal, S1, A, "same", "old")
    put(journal, S1, A, "same", "new")
    assert journal.deletions(0, 10)[1] == [(ACME, passage_hash("old"))]


def test_live_passages_are_the_tenants_own(journal: Journal) -> None:
    put(journal, S1, A, "mine", domain=PUBLIC)
    put(journal, S2, B, "theirs", tenant=TenantId("other"))
    put(journal, S2, A, "gone")
    journal.delete(S2, A, now=9.0)
    (passage,) = journal.live_passages(TenantId("acme"))
    assert passage == Passage(A, 0, "", passage_hash("mine"), S1, "a.txt", PUBLIC)
