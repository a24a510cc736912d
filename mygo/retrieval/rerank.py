"""Question and passage read together by a cross-encoder: slower than any index, and more precise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mygo.errors import ConfigError

_MOST_TOKENS = 512
"""Of question and passage together; what BERT-like models were made for."""


class Reranker(Protocol):
    """Calls must not overlap."""

    def scores(self, question: str, texts: Sequence[str]) -> list[float]:
        """How well each text answers the question, in 0..1."""
        ...


def load_reranker(path_or_id: str, batch: int, threads: int = 1) -> Reranker:
    """Load a cross-encoder: a sentence-transformers directory, a directory with an ONNX file and a
    tokenizer.json (and no other weights), or a Hugging Face id.

    ``batch``: pairs per forward pass. ``threads``: CPU threads. Takes seconds. Raises ConfigError if there is
    no such model.
    """
    folder = Path(path_or_id).expanduser()
    onnx = sorted(folder.glob("*.onnx")) if folder.is_dir() else []
    try:
        if onnx and not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
            return _Onnx(onnx[0], folder / "tokenizer.json", batch, threads)
        return _CrossEncoder(str(folder) if folder.is_dir() else path_or_id, batch, threads)
    except ConfigError:
        raise
    except Exception as error:  # of every library its own
        raise ConfigError(
            f"retrieval.reranker: {path_or_id!r} cannot be loaded ({error}); give a directory with a "
            "cross-encoder (sentence-transformers, or ONNX and tokenizer.json), or a Hugging Face id"
        ) from error


class _CrossEncoder:
    def __init__(self, path_or_id: str, batch: int, threads: int) -> None:
        import torch
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(threads)
        self._model: Any = CrossEncoder(
            path_or_id, device="cpu", local_files_only=Path(path_or_id).is_dir(), num_labels=1
        )
        self._sigmoid = torch.nn.Sigmoid()
        self._batch = batch

    def scores(self, question: str, texts: Sequence[str]) -> list[float]:
        if not texts:
            return []
        found = self._model.predict(
            [(question, text) for text in texts],
            batch_size=self._batch,
            activation_fn=self._sigmoid,
            show_progress_bar=False,
        )
        return [float(score) for score in found]


class _Onnx:
    def __init__(self, model: Path, tokenizer: Path, batch: int, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(
                f"retrieval.reranker: {str(model)!r} needs the package onnxruntime; install it, or give a "
                "sentence-transformers directory"
            ) from error
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session: Any = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {each.name for each in self._session.get_inputs()}
        if not tokenizer.is_file():
            raise ValueError(f"there is no {tokenizer.name} beside it")
        self._tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(_MOST_TOKENS, strategy="longest_first")
        self._tokenizer.enable_padding()
        self._batch = batch

    def scores(self, question: str, texts: Sequence[str]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(texts), self._batch):
            pairs = [(question, text) for text in texts[start : start + self._batch]]
            encoded = self._tokenizer.encode_batch(pairs)
            inputs = {
                "input_ids": np.array([each.ids for each in encoded], np.int64),
                "attention_mask": np.array([each.attention_mask for each in encoded], np.int64),
                "token_type_ids": np.array([each.type_ids for each in encoded], np.int64),
            }
            named = {name: array for name, array in inputs.items() if name in self._inputs}
            logits = np.asarray(self._session.run(None, named)[0], np.float64).reshape(len(pairs), -1)[:, 0]
            found.extend((1 / (1 + np.exp(-logits))).tolist())
        return found
