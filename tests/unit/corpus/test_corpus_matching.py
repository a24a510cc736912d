"""The index of attributes finds what ``filters.matches`` says, whatever happened to the files before."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mygo.corpus import Catalog, Library
from mygo.corpus.matching import _Candidates
from mygo.corpus.records import Attributes
from mygo.filters import Comparison, Compound, Filter, Scalar, matches
from mygo.types import PUBLIC, DocId, StoreId, TenantId

ACME, RIVAL = TenantId("acme"), TenantId("rival")
MANY = 10**6
KEYS = st.sampled_from(["a", "b", "é\ud800"])
SCALARS: st.SearchStrategy[Scalar] = st.one_of(
    st.sampled_from(["", "x", "xy", "X", "é", "\U0001f600", "\uffff", "\ud800", "a\x00b", "a", "1", "true"]),
    st.sampled_from([0, 1, -1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**70, 2**70 + 1, -(2**63), 10**400]),
    st.sampled_from([0.0, -0.0, 0.1, 0.30000000000000004, 1.0, 2.0**53, 2.0**63, 1e308, -1e-320]),
    st.booleans(),
)
ATTRIBUTES = st.dictionaries(KEYS, SCALARS, max_size=3)
COMPARISONS = st.one_of(
    st.builds(Comparison, KEYS, st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]), SCALARS),
    st.builds(Comparison, KEYS, st.sampled_from(["in", "nin"]), st.lists(SCALARS, max_size=3).map(tuple)),
)
FILTERS = st.recursive(
    COMPARISONS,
    lambda parts: st.builds(
        Compound, st.sampled_from(["and", "or"]), st.lists(parts, min_size=1, max_size=3).map(tuple)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def catalog() -> Iterator[Catalog]:
    with tempfile.TemporaryDirectory() as folder:
        library = Library(Path(folder), lambda name, data: [data.decode()])
        yield library.catalog
        library.close()


def put(catalog: Catalog, store: StoreId, attributes: Attributes, tenant: TenantId = ACME) -> DocId:
    file = catalog.add_file(tenant, "a.txt", b"text").id
    catalog.attach(tenant, store, file, attributes=attributes)
    return file


def found(
    catalog: Catalog, store: StoreId, condition: Filter, most_files: int = MANY, tenant: TenantId = ACME
) -> set[DocId] | None:
    held = catalog.matching(tenant, [store], condition, most_files, MANY)
    if held is None:
        return None
    assert len(held.get(store, [])) == len(set(held.get(store, [])))
    return set(held.get(store, []))


def narrows(condition: Filter) -> bool:
    if isinstance(condition, Comparison):
        return condition.operator not in ("ne", "nin")
    return (any if condition.operator == "and" else all)(narrows(part) for part in condition.filters)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(ATTRIBUTES, st.one_of(st.none(), ATTRIBUTES), st.booleans()), max_size=8),
    st.lists(FILTERS, min_size=1, max_size=10),
)
def test_found_files_are_those_that_match(
    catalog: Catalog, files: list[tuple[Attributes, Attributes | None, bool]], conditions: list[Filter]
) -> None:
    store, other = catalog.create_store(ACME).id, catalog.create_store(ACME).id
    held: dict[DocId, Attributes] = {}
    for attributes, later, is_detached in files:
        file = put(catalog, store, attributes)
        catalog.attach(ACME, other, file, attributes={"a": 1})
        held[file] = attributes
        if later is not None:
            catalog.set_attributes(ACME, store, file, later)
            held[file] = later
        catalog.attach(ACME, store, file)  # changes nothing
        if is_detached:
            catalog.detach(ACME, store, file)
            del held[file]
    for condition in conditions:
        expected = {file for file, attributes in held.items() if matches(condition, attributes)}
        assert found(catalog, store, condition) == (expected if narrows(condition) else None)
        if expected:
            assert found(catalog, store, condition, most_files=len(expected) - 1) is None


def test_too_many_files_or_passages_are_not_named(catalog: Catalog) -> None:
    store = catalog.create_store(ACME).id
    files = {put(catalog, store, {"user": "x", "lang": "en"}) for _ in range(3)}
    user = Comparison("user", "eq", "x")
    assert found(catalog, store, user, 3) == files
    assert found(catalog, store, user, 2) is None
    with catalog._database.transaction() as connection:
        connection.execute("UPDATE store_files SET chunks = 4 WHERE store_id = ?", (store,))
    assert catalog.matching(ACME, [store], user, 3, 12) is not None
    assert catalog.matching(ACME, [store], user, 3, 11) is None


def test_one_narrow_part_is_enough_for_and(catalog: Catalog) -> None:
    store = catalog.create_store(ACME).id
    broad = [put(catalog, store, {"lang": "en", "user": n}) for n in range(6)]
    lang, user = Comparison("lang", "eq", "en"), Comparison("user", "eq", 4)
    for parts in ((lang, user), (user, lang), (Comparison("lang", "ne", "de"), user)):
        assert found(catalog, store, Compound("and", parts), 2) == {broad[4]}
    assert found(catalog, store, Compound("or", (lang, user)), 2) is None


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Entries of the index that each look-up read."""
    lengths: list[int] = []
    look_up = _Candidates._files

    def counted(*args: Any) -> list[int]:
        files = look_up(*args)
        lengths.append(len(files))
        return files

    monkeypatch.setattr(_Candidates, "_files", counted)
    return lengths


@pytest.mark.parametrize("operator", ["and", "or"])
def test_many_wide_parts_read_little(
    catalog: Catalog, reads: list[int], operator: Literal["and", "or"]
) -> None:
    store = catalog.create_store(ACME).id
    for number in range(20):
        put(catalog, store, {"a": number})
    wide = Compound(operator, (Comparison("a", "gte", 0),) * 200)
    assert found(catalog, store, wide, 20) is None or operator == "and"
    assert found(catalog, store, wide, 19) is None
    assert sum(reads) <= 2 * (8 * 20 + 1)


def test_narrow_part_behind_many_wide_ones_is_found(catalog: Catalog, reads: list[int]) -> None:
    store = catalog.create_store(ACME).id
    files = [put(catalog, store, {"a": number}) for number in range(200)]
    wide = (Comparison("a", "gte", 0),) * 100
    assert found(catalog, store, Compound("and", (*wide, Comparison("a", "eq", 7))), 128) == {files[7]}
    assert sum(reads) <= 8 * 128 + 1


def test_long_list_of_values_is_not_looked_up(catalog: Catalog) -> None:
    store = catalog.create_store(ACME).id
    file = put(catalog, store, {"user": 1})
    assert found(catalog, store, Comparison("user", "in", tuple(range(100)))) == {file}
    assert found(catalog, store, Comparison("user", "in", tuple(range(1000)))) is None


def test_files_of_stores_that_the_tenant_may_not_search_are_not_found(catalog: Catalog) -> None:
    own, public = catalog.create_store(ACME).id, catalog.create_store(ACME, domain=PUBLIC).id
    files = {store: put(catalog, store, {"user": "x"}) for store in (own, public)}
    asked = [own, public, StoreId("vs_none")]
    user = Comparison("user", "eq", "x")
    assert catalog.matching(ACME, asked, user, 5, 5) == {store: [file] for store, file in files.items()}
    assert catalog.matching(RIVAL, asked, user, 5, 5) == {public: [files[public]]}


def test_deleted_files_and_stores_leave_the_index(catalog: Catalog) -> None:
    store = catalog.create_store(ACME).id
    first, second = (put(catalog, store, {"user": "x"}) for _ in range(2))
    user = Comparison("user", "eq", "x")
    catalog.delete_file(ACME, first)
    assert found(catalog, store, user) == {second}
    catalog.delete_store(ACME, store)
    assert found(catalog, store, user) == set()
    with catalog._database.reading() as connection:
        left = connection.execute("SELECT count(*) FROM file_attributes WHERE store_id = ?", (store,))
        assert left.fetchone()[0] == 0


def test_database_of_an_earlier_version_is_indexed_when_opened(tmp_path: Path) -> None:
    """Scenario: files have attributes from before there was an index of them."""
    library = Library(tmp_path, lambda name, data: [data.decode()])
    store = library.catalog.create_store(ACME).id
    file = put(library.catalog, store, {"user": "x", "share": 0.1})
    put(library.catalog, store, {})
    library.close()
    database = sqlite3.connect(tmp_path / "corpus.sqlite3")
    database.executescript("DROP TABLE file_attributes; PRAGMA user_version = 3")
    database.close()
    library = Library(tmp_path, lambda name, data: [data.decode()])
    assert found(library.catalog, store, Comparison("share", "eq", 0.1)) == {file}
    library.close()
