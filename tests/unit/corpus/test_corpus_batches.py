from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from mygo.corpus import Library, PageRequest, StoreFileStatus
from mygo.corpus.database import _JOURNAL_AND_CATALOG, SCHEMA_VERSION
from mygo.errors import ConfigError, NotFound
from mygo.types import PUBLIC, DocId, StoreId, TenantId

ACME, RIVAL = TenantId("acme"), TenantId("rival")


def uploaded(library: Library, *texts: str) -> list[DocId]:
    return [library.catalog.add_file(ACME, f"{n}.txt", text.encode()).id for n, text in enumerate(texts)]


def test_batch_attaches_its_files_and_counts_them_as_they_are(library: Library) -> None:
    store = library.catalog.create_store(ACME).id
    good, bad, late, gone = uploaded(library, "words", "", "words", "words")
    batch = library.batches.create(
        ACME, store, [(good, {"year": 2024}), (bad, None), (late, None), (late, None), (gone, None)]
    )
    assert batch.id.startswith("vsfb_") and not batch.cancelled
    assert batch.counts == {"in_progress": 4, "completed": 0, "failed": 0, "cancelled": 0}
    for file in (good, bad):
        library.process(store, file)
    library.catalog.delete_file(ACME, gone)
    batch = library.batches.get(ACME, store, batch.id)
    assert batch.counts == {"in_progress": 1, "completed": 1, "failed": 1, "cancelled": 1}
    assert library.catalog.get_store_file(ACME, store, good).attributes == {"year": 2024}


def test_batch_attaches_nothing_when_one_file_is_unknown(library: Library) -> None:
    store, (file,) = library.catalog.create_store(ACME).id, uploaded(library, "words")
    with pytest.raises(NotFound, match="file-none"):
        library.batches.create(ACME, store, [(file, None), (DocId("file-none"), None)])
    assert library.pending() == []


def test_batch_lists_its_own_files_page_by_page(library: Library) -> None:
    store = library.catalog.create_store(ACME).id
    files = uploaded(library, "words", "", "words", "words", "words")
    batch = library.batches.create(ACME, store, [(file, None) for file in files[:4]]).id
    library.catalog.attach(ACME, store, files[4])
    while library.process_next():
        pass
    first, more = library.batches.list_files(ACME, store, batch, PageRequest(3, "asc"))
    assert ([each.file_id for each in first], more) == (files[:3], True)
    rest, more = library.batches.list_files(ACME, store, batch, PageRequest(3, "asc", after=files[2]))
    assert ([each.file_id for each in rest], more) == (files[3:4], False)
    failed, _ = library.batches.list_files(ACME, store, batch, status=StoreFileStatus.FAILED)
    assert [each.file_id for each in failed] == [files[1]]
    with pytest.raises(NotFound, match="after"):
        library.batches.list_files(ACME, store, batch, PageRequest(after=files[4]))


def test_cancelling_gives_up_what_is_not_done_and_no_other_files(library: Library) -> None:
    store = library.catalog.create_store(ACME).id
    done, waiting, other = uploaded(library, "words", "words", "words")
    batch = library.batches.create(ACME, store, [(done, None), (waiting, None)]).id
    library.catalog.attach(ACME, store, other)
    library.process(store, done)
    cancelled = library.batches.cancel(ACME, store, batch)
    assert cancelled.cancelled
    assert cancelled.counts == {"in_progress": 0, "completed": 1, "failed": 0, "cancelled": 1}
    assert library.pending() == [(store, other)] and library.process(store, waiting) is None
    assert library.catalog.attach(ACME, store, waiting).status is StoreFileStatus.IN_PROGRESS
    assert library.process(store, waiting) is not None


def test_file_that_is_cancelled_while_it_is_parsed_stays_out_of_the_journal(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (file,) = library.catalog.create_store(ACME).id, uploaded(library, "words")
    batch = library.batches.create(ACME, store, [(file, None)]).id

    def interrupted(filename: str, data: bytes) -> list[str]:
        library.batches.cancel(ACME, store, batch)
        return ["words"]

    monkeypatch.setattr(library, "_file_chunks", interrupted)
    assert library.process_next() is None
    assert library.journal.position() == 0


def test_batch_is_known_to_the_owner_of_its_store_alone(library: Library) -> None:
    store, other = library.catalog.create_store(ACME, domain=PUBLIC).id, library.catalog.create_store(ACME).id
    theirs = library.catalog.create_store(RIVAL).id
    batch = library.batches.create(ACME, store, [(uploaded(library, "words")[0], None)]).id
    asked: list[tuple[TenantId, StoreId, str]] = [
        (RIVAL, store, batch), (RIVAL, theirs, batch), (ACME, other, batch), (ACME, store, "vsfb_none")
    ]  # fmt: skip
    for each in asked:
        for ask in (library.batches.get, library.batches.list_files, library.batches.cancel):
            with pytest.raises(NotFound):
                ask(*each)
    assert not library.batches.get(ACME, store, batch).cancelled


def test_batch_survives_a_restart_and_goes_with_its_store(open_library: Callable[[], Library]) -> None:
    library = open_library()
    store, files = library.catalog.create_store(ACME).id, uploaded(library, "words", "words")
    batch = library.batches.create(ACME, store, [(file, None) for file in files])
    library.close()
    library = open_library()
    assert library.batches.get(ACME, store, batch.id) == batch
    library.catalog.delete_store(ACME, store)
    with pytest.raises(NotFound):
        library.batches.get(ACME, store, batch.id)


def test_corpus_of_the_first_version_gains_batches_when_opened(
    open_library: Callable[[], Library], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    with sqlite3.connect(tmp_path / "data" / "corpus.sqlite3") as old:
        old.executescript(_JOURNAL_AND_CATALOG)
        old.execute("PRAGMA user_version = 1")
        old.execute("INSERT INTO stores VALUES (1, 'vs_old', 'acme', 'kept', 'acme', '{}', 1.0)")
    library = open_library()
    store, (file,) = StoreId("vs_old"), uploaded(library, "words")
    kept = library.catalog.get_store(ACME, store)
    assert (kept.name, kept.reuse) == ("kept", None)
    assert library.batches.create(ACME, store, [(file, None)]).counts["in_progress"] == 1


def test_corpus_of_a_later_version_is_refused(open_library: Callable[[], Library], tmp_path: Path) -> None:
    open_library().close()
    with sqlite3.connect(tmp_path / "data" / "corpus.sqlite3") as later:
        later.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(ConfigError, match=f"schema version {SCHEMA_VERSION + 1}"):
        open_library()


def test_batch_is_looked_up_by_indexes_however_large_the_corpus(library: Library) -> None:
    store = library.catalog.create_store(ACME).id
    batch = library.batches.create(ACME, store, [(uploaded(library, "words")[0], None)]).id
    with library._database.reading() as connection:
        plan = connection.execute(
            f"EXPLAIN QUERY PLAN SELECT * FROM {library.batches._files()} WHERE batch_id = ?", (batch,)
        ).fetchall()
    assert not [row["detail"] for row in plan if row["detail"].startswith("SCAN")]
