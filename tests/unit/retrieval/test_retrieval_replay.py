from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_cases import DIMENSIONS, embed, passages, shard_config

from mygo.retrieval import Applied, Entry, Replayer, Shard
from mygo.types import DocId, Passage, StoreId

A = StoreId("vs_a")


@dataclass(frozen=True)
class Upsert:
    position: int
    store_id: StoreId
    doc_id: DocId
    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class Delete:
    position: int
    store_id: StoreId
    doc_id: DocId
    passages: tuple[Passage, ...]
    """Those that the document had: a delete looks just like an upsert."""


def upsert(position: int, doc: str, *texts: str, store: StoreId = A) -> Upsert:
    return Upsert(position, store, DocId(doc), tuple(passages(doc, texts, store)))


def delete(position: int, doc: str) -> Delete:
    return Delete(position, A, DocId(doc), tuple(passages(doc, ["text of the deleted"])))


def make_shard(index: int = 0, shards: int = 1) -> Shard:
    return Shard(DIMENSIONS, index=index, config=shard_config(shards))


def step(replayer: Replayer, entries: list[Entry]) -> Applied:
    texts = replayer.texts_to_embed(entries)
    return replayer.apply(entries, embed(texts) if texts else None)


def held(*shards: Shard) -> set[tuple[str, str, int, str]]:
    return {
        (s.passage.store_id or "", s.passage.doc_id, s.passage.index, s.passage.text)
        for shard in shards
        for store in (A, StoreId("vs_b"))
        for s in shard.search({store}, embed(["query"])[0], 10**6)
    }


@st.composite
def journals(draw: st.DrawFn) -> list[Entry]:
    entries: list[Entry] = []
    for position in range(1, draw(st.integers(1, 25)) + 1):
        doc = f"file-{draw(st.integers(0, 5))}"
        if draw(st.booleans()):
            # distinct texts per document: the shard's answer names each text once
            texts = [f"{doc} {n}" for n in draw(st.lists(st.integers(0, 6), max_size=4, unique=True))]
            entries.append(upsert(position, doc, *texts, store=draw(st.sampled_from([A, StoreId("vs_b")]))))
        else:
            entries.append(delete(position, doc))
    return entries


@settings(max_examples=60, deadline=None)
@given(journals(), st.integers(1, 3), st.randoms())
def test_replay_equals_the_last_entries_when_cut_and_repeated_anyhow(journal, shards, random) -> None:
    all_shards = [make_shard(index, shards) for index in range(shards)]
    for shard in all_shards:
        replayer = Replayer(shard, delete_type=Delete)
        at = 0
        while at < len(journal):
            end = random.randint(at + 1, len(journal))
            start = random.randint(0, at)  # some entries are delivered again
            step(replayer, random.sample(journal[start:end], end - start))
            at = end
        assert replayer.position == len(journal)

    last = {(entry.store_id, entry.doc_id): entry for entry in journal}
    expected = {
        (entry.store_id, entry.doc_id, p.index, p.text)
        for entry in last.values()
        if isinstance(entry, Upsert)
        for p in entry.passages
    }
    assert held(*all_shards) == expected
    assert sum(map(len, all_shards)) == len(expected)


def test_texts_to_embed_leaves_out_what_the_batch_itself_replaces_or_deletes() -> None:
    replayer = Replayer(make_shard(), delete_type=Delete)
    batch = [
        upsert(1, "replaced", "old"),
        upsert(2, "deleted", "gone"),
        upsert(3, "replaced", "new"),
        delete(4, "deleted"),
    ]
    assert replayer.texts_to_embed(batch) == ["new"]
    assert step(replayer, batch) == Applied(upserted=1, deleted=1, embedded_texts=1, reused_texts=0)


def test_texts_to_embed_names_a_text_once_when_it_is_in_many_documents_or_already_known() -> None:
    shard = make_shard()
    replayer = Replayer(shard, delete_type=Delete)
    first = [upsert(1, "a", "shared", "only a"), upsert(2, "b", "shared")]
    assert replayer.texts_to_embed(first) == ["shared", "only a"]
    step(replayer, first)
    # an update that keeps one chunk embeds the other alone
    second = [upsert(3, "a", "changed", "only a"), upsert(4, "c", "shared")]
    assert replayer.texts_to_embed(second) == ["changed"]
    assert step(replayer, second) == Applied(upserted=2, deleted=0, embedded_texts=1, reused_texts=2)
    best = shard.search({A}, embed(["only a"])[0], 1)[0]
    assert best.passage.text == "only a"
    assert best.score == pytest.approx(1.0)


def test_apply_changes_nothing_when_entries_are_old_or_of_other_shards() -> None:
    doc_of_other = next(f"file-{n}" for n in range(99) if not make_shard(0, 2).owns(A, DocId(f"file-{n}")))
    shard = make_shard(0, 2)
    replayer = Replayer(shard, position=5, delete_type=Delete)
    batch = [upsert(5, "already applied", "x"), upsert(6, doc_of_other, "y")]
    assert replayer.texts_to_embed(batch) == []
    assert step(replayer, batch) == Applied(upserted=0, deleted=0, embedded_texts=0, reused_texts=0)
    assert (len(shard), replayer.position) == (0, 6)
    replayer.apply([])
    assert replayer.position == 6


def test_apply_refuses_and_keeps_its_position_when_vectors_are_missing() -> None:
    shard = make_shard()
    replayer = Replayer(shard, delete_type=Delete)
    with pytest.raises(AssertionError, match="0 vectors for 1 texts"):
        replayer.apply([upsert(1, "a", "text")])
    assert (len(shard), replayer.position) == (0, 0)


def test_upsert_without_passages_takes_the_document_away() -> None:
    shard = make_shard()
    replayer = Replayer(shard, delete_type=Delete)
    step(replayer, [upsert(1, "a", "text")])
    step(replayer, [upsert(2, "a")])
    assert len(shard) == 0
