from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mygo.corpus import Catalog, Library, PageRequest, StoreFileStatus
from mygo.corpus.blobs import Blobs
from mygo.errors import BadRequest, Conflict, MygoError, NotFound, OutOfSpace
from mygo.types import PUBLIC, DocId, DomainTag, Reuse, StoreId, TenantId

ACME, RIVAL = TenantId("acme"), TenantId("rival")


@pytest.fixture
def catalog(library: Library) -> Catalog:
    return library.catalog


def blobs(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "data" / "blobs").iterdir()}


def test_store_round_trips_when_created_and_updated(catalog: Catalog) -> None:
    store = catalog.create_store(ACME, name="docs", metadata={"k": "v"})
    assert store.id.startswith("vs_") and len(store.id) == 27
    assert (store.tenant, store.name, store.domain, store.metadata) == (ACME, "docs", "acme", {"k": "v"})
    assert catalog.get_store(ACME, store.id) == store
    renamed = catalog.update_store(ACME, store.id, name="new")
    assert (renamed.name, renamed.metadata, renamed.created_at) == ("new", {"k": "v"}, store.created_at)
    assert catalog.update_store(ACME, store.id, metadata={}).metadata == {}
    assert store.reuse is None
    assert catalog.update_store(ACME, store.id, reuse=Reuse.EXACT).reuse is Reuse.EXACT
    assert catalog.update_store(ACME, store.id, name="newer").reuse is Reuse.EXACT
    assert catalog.create_store(ACME, reuse=Reuse.BLEND).reuse is Reuse.BLEND
    catalog.delete_store(ACME, store.id)
    with pytest.raises(NotFound):
        catalog.get_store(ACME, store.id)


def test_store_refuses_when_the_domain_is_another_tenants(catalog: Catalog) -> None:
    with pytest.raises(BadRequest, match="domain must be 'acme' or 'public'"):
        catalog.create_store(ACME, domain=DomainTag("rival"))


def test_file_round_trips_when_added(catalog: Catalog) -> None:
    file = catalog.add_file(ACME, "a.txt", b"hello", purpose="user_data")
    assert file.id.startswith("file-") and len(file.id) == 29
    assert (file.filename, file.bytes, file.purpose) == ("a.txt", 5, "user_data")
    assert file.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert catalog.get_file(ACME, file.id) == file
    assert catalog.content(ACME, file.id) == b"hello"


def test_every_method_answers_alike_when_an_id_is_unknown_or_anothers(catalog: Catalog) -> None:
    store, file = catalog.create_store(ACME).id, catalog.add_file(ACME, "a.txt", b"x").id
    catalog.attach(ACME, store, file)
    own_store, own_file = catalog.create_store(RIVAL).id, catalog.add_file(RIVAL, "a.txt", b"x").id
    calls: list[Callable[[StoreId, DocId], object]] = [
        lambda s, f: catalog.get_store(RIVAL, s),
        lambda s, f: catalog.update_store(RIVAL, s, name="x"),
        lambda s, f: catalog.delete_store(RIVAL, s),
        lambda s, f: catalog.list_store_files(RIVAL, s),
        lambda s, f: catalog.attach(RIVAL, s, own_file),
        lambda s, f: catalog.get_store_file(RIVAL, s, own_file),
        lambda s, f: catalog.detach(RIVAL, s, own_file),
        lambda s, f: catalog.set_attributes(RIVAL, s, own_file, {}),
        lambda s, f: catalog.passages(RIVAL, s, own_file),
        lambda s, f: catalog.get_file(RIVAL, f),
        lambda s, f: catalog.content(RIVAL, f),
        lambda s, f: catalog.delete_file(RIVAL, f),
        lambda s, f: catalog.attach(RIVAL, own_store, f),
        lambda s, f: catalog.get_store_file(RIVAL, own_store, f),
        lambda s, f: catalog.detach(RIVAL, own_store, f),
        lambda s, f: catalog.list_stores(RIVAL, PageRequest(after=s)),
        lambda s, f: catalog.list_files(RIVAL, PageRequest(before=f)),
    ]
    unknown_store, unknown_file = StoreId("vs_" + "0" * 24), DocId("file-" + "0" * 24)
    for call in calls:
        messages = []
        for s, f in ((store, file), (unknown_store, unknown_file)):
            with pytest.raises(NotFound) as caught:
                call(s, f)
            messages.append(str(caught.value).replace(s, "STORE").replace(f, "FILE"))
        assert messages[0] == messages[1]
    assert catalog.list_stores(RIVAL)[0] == [catalog.get_store(RIVAL, own_store)]
    assert catalog.store_usages(RIVAL, [store]) == {}
    assert catalog.get_store_file(ACME, store, file).status is StoreFileStatus.IN_PROGRESS


def test_messages_stay_short_when_an_id_is_very_long(catalog: Catalog) -> None:
    store, long = catalog.create_store(ACME).id, "x" * 10_000
    for ask in (
        lambda: catalog.get_store(ACME, StoreId(long)),
        lambda: catalog.get_file(ACME, DocId(long)),
        lambda: catalog.get_store_file(ACME, store, DocId(long)),
        lambda: catalog.list_files(ACME, PageRequest(after=long)),
    ):
        with pytest.raises(NotFound) as caught:
            ask()
        assert len(str(caught.value)) < 250


def test_public_store_is_readable_by_all_but_changed_by_its_owner_only(catalog: Catalog) -> None:
    store = catalog.create_store(ACME, domain=PUBLIC)
    file = catalog.add_file(RIVAL, "a.txt", b"x").id
    assert catalog.get_store(RIVAL, store.id) == store
    assert catalog.list_stores(RIVAL) == ([], False)
    for change in (
        lambda: catalog.update_store(RIVAL, store.id, name="mine"),
        lambda: catalog.delete_store(RIVAL, store.id),
        lambda: catalog.attach(RIVAL, store.id, file),
        lambda: catalog.list_store_files(RIVAL, store.id),
    ):
        with pytest.raises(NotFound):
            change()


def test_lists_page_through_everything_in_both_orders(catalog: Catalog) -> None:
    ids: list[str] = [catalog.create_store(ACME, name=str(i)).id for i in range(7)]
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        seen: list[str] = []
        more = True
        while more:
            page, more = catalog.list_stores(
                ACME,
                PageRequest(limit=3, order=order, after=seen[-1] if seen else None),  # type: ignore[arg-type]
            )
            seen += [store.id for store in page]
        assert seen == expected
        page, more = catalog.list_stores(ACME, PageRequest(2, order, before=expected[4]))  # type: ignore[arg-type]
        assert [store.id for store in page] == expected[2:4] and more
        page, more = catalog.list_stores(ACME, PageRequest(2, order, before=expected[2]))  # type: ignore[arg-type]
        assert [store.id for store in page] == expected[:2] and not more
        page, more = catalog.list_stores(
            ACME,
            PageRequest(9, order, after=expected[1], before=expected[5]),  # type: ignore[arg-type]
        )
        assert [store.id for store in page] == expected[2:5] and not more


def test_lists_break_ties_by_insertion_when_times_are_equal(library: Library) -> None:
    catalog = Catalog(
        library._database, library.journal, library._blobs, clock=lambda: 1.0,
        new_id=map("{:024x}".format, [9, 3, 7, 1]).__next__,
    )  # fmt: skip
    ids: list[str] = [catalog.create_store(ACME).id for _ in range(4)]
    assert ids[0] == "vs_000000000000000000000009"
    first, _ = catalog.list_stores(ACME, PageRequest(2, "asc"))
    second, more = catalog.list_stores(ACME, PageRequest(2, "asc", after=first[-1].id))
    assert [store.id for store in first + second] == ids and not more


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"limit": -1}, {"order": "random"}])
def test_page_refuses_when_it_cannot_be_had(arguments: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match=next(iter(arguments))):
        PageRequest(**arguments)  # type: ignore[arg-type]


def test_lists_filter_by_purpose_and_status(library: Library) -> None:
    catalog = library.catalog
    good = catalog.add_file(ACME, "a.txt", b"words", purpose="user_data")
    bad = catalog.add_file(ACME, "b.txt", b"")
    store = catalog.create_store(ACME).id
    assert catalog.list_files(ACME, purpose="user_data") == ([good], False)
    for file in (good, bad):
        catalog.attach(ACME, store, file.id)
        library.process(store, file.id)
    assert [f.file_id for f in catalog.list_store_files(ACME, store)[0]] == [bad.id, good.id]
    failed, _ = catalog.list_store_files(ACME, store, status=StoreFileStatus.FAILED)
    assert [f.file_id for f in failed] == [bad.id]
    # a cursor stays valid when the filter no longer matches it
    page = PageRequest(order="desc", after=bad.id)
    assert [
        f.file_id for f in catalog.list_store_files(ACME, store, page, status=StoreFileStatus.COMPLETED)[0]
    ] == [good.id]
    usage = catalog.store_usages(ACME, [store])[store]
    assert usage.bytes == 5
    assert usage.counts == {"in_progress": 0, "completed": 1, "failed": 1, "cancelled": 0}


def test_store_usages_are_of_the_stores_that_may_be_seen(library: Library) -> None:
    catalog = library.catalog
    stores = [catalog.create_store(ACME).id for _ in range(3)]
    public, hidden = catalog.create_store(RIVAL, domain=PUBLIC).id, catalog.create_store(RIVAL).id
    good, bad = catalog.add_file(ACME, "a.txt", b"words").id, catalog.add_file(ACME, "b.txt", b"").id
    for store, file in ((stores[0], good), (stores[0], bad), (stores[1], good)):
        catalog.attach(ACME, store, file)
        library.process(store, file)
    catalog.attach(ACME, stores[1], bad)
    usages = catalog.store_usages(ACME, [*stores, public, hidden, StoreId("vs_none")])
    counted = {"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0}
    assert {store: (usage.counts, usage.bytes) for store, usage in usages.items()} == {
        stores[0]: (counted | {"completed": 1, "failed": 1}, 5),
        stores[1]: (counted | {"completed": 1, "in_progress": 1}, 5),
        stores[2]: (counted, 0),
        public: (counted, 0),
    }
    assert catalog.store_usages(ACME, []) == {}


def test_file_is_in_progress_however_it_is_asked_for_until_searches_find_it(library: Library) -> None:
    searchable = 0
    catalog = Catalog(
        library._database, library.journal, library._blobs, clock=lambda: 1.0, searchable=lambda: searchable
    )
    store = catalog.create_store(ACME).id
    early, late = (catalog.add_file(ACME, name, b"words").id for name in ("a.txt", "b.txt"))
    for file in (early, late):
        catalog.attach(ACME, store, file)
        library.process(store, file)
    for searchable in (0, 1, 2):
        found = {file: n <= searchable for n, file in enumerate((early, late), 1)}
        for file, status in ((f, "completed" if there else "in_progress") for f, there in found.items()):
            assert catalog.get_store_file(ACME, store, file).status == status
            assert catalog.attach(ACME, store, file).status == status
        listed, _ = catalog.list_store_files(ACME, store, status=StoreFileStatus.COMPLETED)
        assert {file.file_id for file in listed} == {file for file, there in found.items() if there}
        usage = catalog.store_usages(ACME, [store])[store]
        assert (usage.counts["completed"], usage.counts["in_progress"]) == (searchable, 2 - searchable)
        assert usage.bytes == 5 * searchable


def test_store_is_made_with_all_of_its_files_or_not_at_all(library: Library) -> None:
    catalog = library.catalog
    files = [catalog.add_file(ACME, name, b"words").id for name in ("a.txt", "b.txt")]
    store = catalog.create_store(ACME, file_ids=files).id
    assert library.pending() == [(store, file) for file in files]
    with pytest.raises(NotFound, match="file-none"):
        catalog.create_store(ACME, file_ids=[files[0], DocId("file-none")])
    assert [each.id for each in catalog.list_stores(ACME)[0]] == [store]


def test_blob_lives_as_long_as_any_file_refers_to_it(catalog: Catalog, tmp_path: Path) -> None:
    first, second = catalog.add_file(ACME, "a", b"same"), catalog.add_file(RIVAL, "b", b"same")
    assert first.id != second.id and blobs(tmp_path) == {first.sha256}
    catalog.delete_file(ACME, first.id)
    assert catalog.content(RIVAL, second.id) == b"same"
    catalog.delete_file(RIVAL, second.id)
    assert blobs(tmp_path) == set()


def test_content_says_so_when_the_disk_lost_it(catalog: Catalog, tmp_path: Path) -> None:
    file = catalog.add_file(ACME, "a", b"text")
    path = tmp_path / "data" / "blobs" / file.sha256
    path.write_bytes(b"tex")
    with pytest.raises(MygoError, match="is damaged; restore a backup"):
        catalog.content(ACME, file.id)
    path.unlink()
    with pytest.raises(MygoError, match="is missing; restore a backup"):
        catalog.content(ACME, file.id)


def test_content_is_not_found_when_its_file_is_deleted_meanwhile(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = catalog.add_file(ACME, "a", b"text")
    read = Blobs.read

    def read_late(blobs: Blobs, sha256: str) -> bytes:
        catalog.delete_file(ACME, file.id)
        return read(blobs, sha256)

    monkeypatch.setattr(Blobs, "read", read_late)
    with pytest.raises(NotFound, match="no file"):
        catalog.content(ACME, file.id)


def test_add_file_leaves_no_trace_when_the_disk_is_full(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutOfSpace, match="the disk is full"):
        catalog.add_file(ACME, "a", b"text")
    assert blobs(tmp_path) == set() and catalog.list_files(ACME) == ([], False)


def test_add_file_leaves_no_trace_when_its_row_cannot_be_written(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="lone surrogate"):
        catalog.add_file(ACME, "\udcff", b"text")
    assert blobs(tmp_path) == set()
    with pytest.raises(BadRequest, match="no name"):
        catalog.add_file(ACME, "", b"text")


def test_opening_sweeps_when_a_crash_left_blobs_behind(
    open_library: Callable[[], Library], tmp_path: Path
) -> None:
    library = open_library()
    file = library.catalog.add_file(ACME, "a", b"kept")
    for leftover in (".incoming-0123", "f" * 64):
        (tmp_path / "data" / "blobs" / leftover).write_bytes(b"x")
    library.close()
    assert open_library().catalog.content(ACME, file.id) == b"kept"
    assert blobs(tmp_path) == {file.sha256}


def test_attach_keeps_state_when_repeated(library: Library) -> None:
    catalog = library.catalog
    store, file = catalog.create_store(ACME).id, catalog.add_file(ACME, "a.txt", b"words").id
    first = catalog.attach(ACME, store, file, attributes={"year": 2024.0, "draft": True})
    assert (first.status, first.bytes, first.chunks) == (StoreFileStatus.IN_PROGRESS, 5, 0)
    assert first.error is None
    assert catalog.attach(ACME, store, file) == first
    done = library.process(store, file)
    assert done is not None and done.status is StoreFileStatus.COMPLETED and done.chunks == 1
    assert catalog.attach(ACME, store, file) == done
    assert catalog.attach(ACME, store, file, attributes={}).attributes == {}
    assert library.pending() == [] and library.journal.position() == 1


def test_attach_begins_anew_when_it_had_failed(library: Library) -> None:
    catalog = library.catalog
    store, file = catalog.create_store(ACME).id, catalog.add_file(ACME, "a.txt", b"").id
    catalog.attach(ACME, store, file)
    failed = library.process(store, file)
    assert failed is not None and failed.status is StoreFileStatus.FAILED
    assert library.process_next() is None
    again = catalog.attach(ACME, store, file)
    assert (again.status, again.error) == (StoreFileStatus.IN_PROGRESS, None)
    assert library.pending() == [(store, file)]


def test_attributes_are_given_for_what_is_attached(catalog: Catalog) -> None:
    store, file = catalog.create_store(ACME).id, catalog.add_file(ACME, "a.txt", b"words").id
    catalog.attach(ACME, store, file, attributes={"year": 2024})
    assert catalog.attributes_of([(store, DocId("file-x")), (store, file)]) == [None, {"year": 2024}]
    catalog.detach(ACME, store, file)
    assert catalog.attributes_of([(store, file)]) == [None]


def test_attributes_are_replaced_whatever_the_files_status(library: Library) -> None:
    catalog = library.catalog
    store, file = catalog.create_store(ACME).id, catalog.add_file(ACME, "a.txt", b"words").id
    catalog.attach(ACME, store, file, attributes={"year": 2024, "draft": True})
    assert catalog.set_attributes(ACME, store, file, {"year": 2025}).attributes == {"year": 2025}
    done = library.process(store, file)
    assert done is not None and done.attributes == {"year": 2025}
    assert catalog.set_attributes(ACME, store, file, {}).attributes == {}
    assert catalog.attributes_of([(store, file)]) == [{}] and library.journal.position() == 1


def test_passages_are_the_text_of_a_file_once_it_is_completed(library: Library) -> None:
    catalog = library.catalog
    store = catalog.create_store(ACME).id
    good = catalog.add_file(ACME, "a.md", b"# One\n\nthe quick brown fox\n\n# Two\n\nthe lazy dog").id
    bad = catalog.add_file(ACME, "b.txt", b"").id
    for file, status in ((good, "in_progress"), (bad, "failed")):
        catalog.attach(ACME, store, file)
        if status == "failed":
            library.process(store, file)
        with pytest.raises(Conflict, match=f"is {status}: its text"):
            catalog.passages(ACME, store, file)
    library.process(store, good)
    assert catalog.passages(ACME, store, good) == ["# One\n\nthe quick brown fox", "# Two\n\nthe lazy dog"]
