from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mygo.corpus import Chunker, Library


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE, as served models have, but tiny."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog. "] * 20, trainer)
    return tokenizer


@pytest.fixture
def open_library(tmp_path: Path, tokenizer: Tokenizer) -> Iterator[Callable[[], Library]]:
    """Opens the same data directory each time; the clock ticks one second per look."""
    opened: list[Library] = []
    ticks = iter(range(1, 10**9))

    def open_() -> Library:
        library = Library(
            tmp_path / "data", Chunker(tokenizer, 16).file_chunks, clock=lambda: float(next(ticks))
        )
        opened.append(library)
        return library

    yield open_
    for library in opened:
        library.close()


@pytest.fixture
def library(open_library: Callable[[], Library]) -> Library:
    return open_library()
