"""Synthesised texts have exactly the tokens that the trace says when they are tokenized by themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks.synthesis import DOCUMENT_LEAD, Synthesizer
from mygo.prompt.encoding import TextEncoder
from mygo.workloads import Text, TextId, Trace, preset


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer, of the kind that most models have, trained on this file."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    sources = [Path(__file__), *sorted(Path(__file__).parent.glob("*.py"))]
    tokenizer.train_from_iterator([path.read_text() for path in sources], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def synthesizer(model_path: Path) -> Synthesizer:
    return Synthesizer(model_path)


@pytest.fixture(scope="module")
def encoder(model_path: Path) -> TextEncoder:
    """What the prompt room tokenizes texts from outside with."""
    file = str(model_path / "tokenizer.json")
    return TextEncoder(PreTrainedTokenizerFast(tokenizer_file=file, eos_token="<|end|>"), "<|end|>")


@given(st.integers(0, 10**9), st.integers(0, 600))
def test_text_has_exactly_the_tokens_asked_for(
    synthesizer: Synthesizer, encoder: TextEncoder, number: int, tokens: int
) -> None:
    text = synthesizer.text(f"d{number}", tokens)
    assert len(encoder.text(text)) == tokens
    assert text == text.strip()


@given(st.integers(0, 10**9), st.integers(0, 400))
def test_document_has_them_with_its_lead(
    synthesizer: Synthesizer, encoder: TextEncoder, number: int, tokens: int
) -> None:
    name = TextId(f"d{number}")
    text = synthesizer.document(Trace("one", {name: Text(tokens)}, ()), name)
    least = len(encoder.text(f"{DOCUMENT_LEAD}A"))
    assert len(encoder.text(DOCUMENT_LEAD + text)) == max(tokens, least)
    assert text == text.strip()


def test_text_longer_than_one_stretch_is_exact(synthesizer: Synthesizer, encoder: TextEncoder) -> None:
    assert len(encoder.text(synthesizer.text("long", 60_000))) == 60_000


def test_requests_words_have_the_tokens_of_the_trace(synthesizer: Synthesizer, encoder: TextEncoder) -> None:
    trace = preset("ragpulse").trace(2, requests=30, token_scale=0.2)
    for request in trace.requests:
        words = synthesizer.words(trace, request)
        with_lead = [DOCUMENT_LEAD + text for text in words.documents]
        parts = [words.system, *with_lead, *words.history, words.question]
        assert sum(len(encoder.text(part)) for part in parts) == trace.prompt_tokens(request)


def test_texts_differ_from_their_first_block_on(synthesizer: Synthesizer, encoder: TextEncoder) -> None:
    heads = {encoder.text(synthesizer.text(f"d{number}", 40))[:16] for number in range(2_000)}
    assert len(heads) == 2_000


def test_words_depend_on_id_seed_and_length_alone(model_path: Path, synthesizer: Synthesizer) -> None:
    again, other = Synthesizer(model_path), Synthesizer(model_path, seed=1)
    assert again.text("b", 50) == synthesizer.text("b", 50)
    assert other.text("b", 50) != synthesizer.text("b", 50)


def test_copy_has_the_words_of_its_original(synthesizer: Synthesizer) -> None:
    original, copy = TextId("tenant-1/d3"), TextId("prober/tenant-1/d3")
    texts = {original: Text(80)}
    texts[copy] = replace(texts[original], copy_of=original)
    trace = Trace("copies", texts, ())
    assert synthesizer.document(trace, copy) == synthesizer.document(trace, original)
