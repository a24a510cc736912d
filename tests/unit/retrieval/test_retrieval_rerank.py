from __future__ import annotations

from pathlib import Path

import pytest

from mygo.errors import ConfigError
from mygo.retrieval import rerank
from mygo.retrieval.rerank import load_reranker


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder of random weights: what it says means nothing, but is always the same."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("cross-encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lynx", "fox", "owl", "where", "is"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    CrossEncoder(str(folder), device="cpu").save_pretrained(str(folder))
    return folder


def test_scores_are_of_each_pair_whatever_the_batch(folder: Path) -> None:
    texts = ["lynx fox", "owl", "fox fox fox owl", "is", "lynx " * 200]
    scores = load_reranker(str(folder), batch=2).scores("where is lynx", texts)
    assert len(scores) == 5
    assert all(0 <= score <= 1 for score in scores)
    assert len(set(scores)) == 5
    alone = load_reranker(str(folder), batch=8)
    for text, score in zip(texts, scores, strict=True):
        assert alone.scores("where is lynx", [text]) == [pytest.approx(score, abs=1e-5)]
    assert alone.scores("where is lynx", []) == []


def test_reranker_says_what_to_give_when_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"retrieval\.reranker.*cannot be loaded"):
        load_reranker(str(tmp_path), batch=2)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (("model.onnx",), "_Onnx"),
        (("model.onnx", "config.json"), "_Onnx"),
        (("model.onnx", "config.json", "model.safetensors"), "_CrossEncoder"),
        (("config.json", "pytorch_model.bin"), "_CrossEncoder"),
    ],
)
def test_onnx_is_read_where_there_are_no_other_weights(
    files: tuple[str, ...], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in files:
        (tmp_path / name).touch()
    for each in ("_Onnx", "_CrossEncoder"):
        monkeypatch.setattr(rerank, each, lambda *_, each=each: each)
    assert load_reranker(str(tmp_path), 8) == kind


def test_onnx_says_what_is_missing(tmp_path: Path) -> None:
    """With onnxruntime installed, it is the model that cannot be read."""
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"onnxruntime|model"):
        load_reranker(str(tmp_path), batch=2)
