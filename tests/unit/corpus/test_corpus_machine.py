"""Random histories of a library, crashes included, against dicts."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tokenizers import Tokenizer

from mygo.corpus import Chunker, Library, StoreFileStatus, Upsert, passage_hash
from mygo.types import PUBLIC, DocId, DomainTag, Passage, StoreId, TenantId

TENANTS = (TenantId("acme"), TenantId("rival"))
TEXTS = ("alpha", "beta", "the quick brown fox jumps over the lazy dog. " * 3, "", "\x00binary")
PICK = st.integers(0, 10**6)


class LibraryMachine(RuleBasedStateMachine):
    tokenizer: Tokenizer

    @initialize()
    def begin(self) -> None:
        self.data_dir = Path(tempfile.mkdtemp(prefix="corpus-machine-"))
        self.ticks = itertools.count(1)
        self.chunker = Chunker(self.tokenizer, 16)
        self.library = self.opened()
        self.stores: dict[StoreId, tuple[TenantId, DomainTag]] = {}
        self.files: dict[DocId, tuple[TenantId, str]] = {}
        self.attached: dict[tuple[StoreId, DocId], StoreFileStatus] = {}
        self.create_store(TENANTS[0], False)  # so that no history spends itself on waiting for one

    def teardown(self) -> None:
        self.library.close()
        shutil.rmtree(self.data_dir)

    def opened(self) -> Library:
        return Library(self.data_dir, self.chunker.file_chunks, clock=lambda: float(next(self.ticks)))

    @rule(tenant=st.sampled_from(TENANTS), public=st.booleans())
    def create_store(self, tenant: TenantId, public: bool) -> None:
        store = self.library.catalog.create_store(tenant, domain=PUBLIC if public else None)
        self.stores[store.id] = (tenant, store.domain)

    @rule(tenant=st.sampled_from(TENANTS), text=st.sampled_from(TEXTS))
    def add_file(self, tenant: TenantId, text: str) -> None:
        file = self.library.catalog.add_file(tenant, "a.txt", text.encode())
        self.files[file.id] = (tenant, text)

    @precondition(lambda self: self.stores and self.files)
    @rule(store=PICK, file=PICK)
    def attach(self, store: int, file: int) -> None:
        store_id = list(self.stores)[store % len(self.stores)]
        tenant = self.stores[store_id][0]
        own = [f for f, (owner, _) in self.files.items() if owner == tenant]
        if own:
            pair = (store_id, own[file % len(own)])
            self.library.catalog.attach(tenant, *pair)
            if self.attached.get(pair) is not StoreFileStatus.COMPLETED:
                self.attached[pair] = StoreFileStatus.IN_PROGRESS

    @rule(tenant=st.sampled_from(TENANTS), text=st.sampled_from(TEXTS))
    def add_document(self, tenant: TenantId, text: str) -> None:
        self.add_file(tenant, text)
        for store, (owner, _) in self.stores.items():
            if owner == tenant:
                file = list(self.files)[-1]
                self.library.catalog.attach(tenant, store, file)
                self.attached[store, file] = StoreFileStatus.IN_PROGRESS

    @rule()
    def process_next(self) -> None:
        done = self.library.process_next()
        waiting = [p for p, status in self.attached.items() if status is StoreFileStatus.IN_PROGRESS]
        assert (done is None) == (not waiting)
        if done is not None:
            pair = (done.store_id, done.file_id)
            assert pair in waiting
            self.attached[pair] = self.outcome(done.file_id)
            assert done.status is self.attached[pair]

    @rule()
    def crash_while_processing(self) -> None:
        """The transaction is cut off after the journal was appended to, before the status is set."""
        upsert = self.library.journal.upsert

        def dies(**document: object) -> int:
            upsert(**document)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.library.journal, "upsert", dies)
            with contextlib.suppress(KeyboardInterrupt):
                done = self.library.process_next()  # returns only for a file that cannot be read
                if done is not None:
                    self.attached[done.store_id, done.file_id] = StoreFileStatus.FAILED
        self.reopen()

    @rule()
    def reopen(self) -> None:
        self.library.close()
        self.library = self.opened()

    @precondition(lambda self: self.attached)
    @rule(pick=PICK)
    def detach(self, pick: int) -> None:
        pair = list(self.attached)[pick % len(self.attached)]
        self.library.catalog.detach(self.stores[pair[0]][0], *pair)
        del self.attached[pair]

    @precondition(lambda self: self.files)
    @rule(pick=PICK)
    def delete_file(self, pick: int) -> None:
        file = list(self.files)[pick % len(self.files)]
        self.library.catalog.delete_file(self.files.pop(file)[0], file)
        self.attached = {pair: status for pair, status in self.attached.items() if pair[1] != file}

    @precondition(lambda self: self.stores)
    @rule(pick=PICK)
    def delete_store(self, pick: int) -> None:
        store = list(self.stores)[pick % len(self.stores)]
        self.library.catalog.delete_store(self.stores.pop(store)[0], store)
        self.attached = {pair: status for pair, status in self.attached.items() if pair[0] != store}

    @invariant()
    def journal_replayed_is_the_live_view_and_the_model(self) -> None:
        replayed: dict[tuple[StoreId, DocId], tuple[Passage, ...]] = {}
        for entry in self.library.journal.read(limit=10**6):
            pair = (entry.store_id, entry.doc_id)
            if isinstance(entry, Upsert):
                assert pair not in replayed
                replayed[pair] = entry.passages
            else:
                assert replayed.pop(pair) == entry.passages
        expected = {
            pair: [passage_hash(chunk) for chunk in self.chunker.chunks(self.files[pair[1]][1])]
            for pair, status in self.attached.items()
            if status is StoreFileStatus.COMPLETED
        }
        assert {p: [x.content_hash for x in passages] for p, passages in replayed.items()} == expected
        live = {
            (store, document.doc_id): self.library.journal.passages(store, document.doc_id)
            for store in {pair[0] for pair in replayed} | set(self.stores)
            for document in self.library.journal.documents(store)
        }
        assert live == replayed

    @invariant()
    def references_count_what_is_live(self) -> None:
        counted: Counter[tuple[DomainTag, str]] = Counter()
        for (store, file), status in self.attached.items():
            if status is StoreFileStatus.COMPLETED:
                for chunk in self.chunker.chunks(self.files[file][1]):
                    counted[self.stores[store][1], passage_hash(chunk)] += 1
        hashes = {passage_hash(chunk) for text in TEXTS[:3] for chunk in self.chunker.chunks(text)}
        for domain in (PUBLIC, *map(DomainTag, TENANTS)):
            assert self.library.journal.references(domain, hashes) == {h: counted[domain, h] for h in hashes}

    @invariant()
    def catalog_is_the_model(self) -> None:
        pending = set(self.library.pending())
        assert pending == {p for p, s in self.attached.items() if s is StoreFileStatus.IN_PROGRESS}
        blobs = {path.read_bytes().decode() for path in (self.data_dir / "blobs").iterdir()}
        assert blobs == {text for _, text in self.files.values()}
        for (store, file), status in self.attached.items():
            assert self.library.catalog.get_store_file(self.stores[store][0], store, file).status is status

    def outcome(self, file: DocId) -> StoreFileStatus:
        readable = self.files[file][1] in TEXTS[:3]
        return StoreFileStatus.COMPLETED if readable else StoreFileStatus.FAILED


def test_library_agrees_with_its_model_over_random_histories(tokenizer: Tokenizer) -> None:
    LibraryMachine.tokenizer = tokenizer
    machine = LibraryMachine.TestCase
    machine.settings = settings(
        max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    machine("runTest").runTest()
