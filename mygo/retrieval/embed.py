"""Texts to unit vectors, by a sentence-transformers model on the CPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mygo.errors import ConfigError
from mygo.retrieval.index import Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor


class Embedder:
    """A loaded model. Calls must not overlap: its tokenizer is not thread-safe."""

    def __init__(self, path_or_id: str, batch: int, threads: int = 1) -> None:
        """Load a sentence-transformers directory, without any network, or a Hugging Face id.

        ``batch``: texts per forward pass. ``threads``: CPU threads of PyTorch; the bound holds for
        the whole process. Takes seconds (the libraries are imported here, not with this module).
        Raises ConfigError if there is no such model.
        """
        import torch  # deferred: these take seconds to import, and only the embedding process needs them
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self._batch = batch
        is_local = Path(path_or_id).is_dir()
        try:
            with _no_progress_bars():
                self._model: SentenceTransformer = SentenceTransformer(
                    path_or_id, device="cpu", local_files_only=is_local
                )
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"embedder.source: {path_or_id!r} cannot be loaded ({error}); "
                "give a sentence-transformers directory, or a Hugging Face id that can be reached"
            ) from error
        dimensions = self._model.get_embedding_dimension()
        if dimensions is None:
            raise ConfigError(
                f"embedder.source: {path_or_id!r} does not say how long its vectors are; "
                "choose a sentence-transformers model with a pooling layer"
            )
        self.dimensions: int = dimensions
        self.max_tokens: int = self._model.max_seq_length or self._model.tokenizer.model_max_length
        """Tokens of the embedder's own tokenizer, special ones included; the rest is cut off."""
        self.fingerprint: str = _fingerprint(self._model)
        """32 hex digits over weights, pooling, tokenizer and prompts; equal for equal vectors."""

    def __repr__(self) -> str:
        return f"Embedder({self.fingerprint[:8]}, dimensions={self.dimensions}, max_tokens={self.max_tokens})"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Passages to float32 [len(texts), dimensions], L2-normalised."""
        if not texts:
            return self._none()
        return _unit(
            self._model.encode_document(list(texts), batch_size=self._batch, show_progress_bar=False)
        )

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Questions to float32 [len(texts), dimensions], L2-normalised.

        Differs from ``embed`` for models that are trained with another prompt for questions (E5, BGE).
        """
        if not texts:
            return self._none()
        return _unit(self._model.encode_query(list(texts), batch_size=self._batch, show_progress_bar=False))

    def _none(self) -> Vectors:
        return np.empty((0, self.dimensions), np.float32)


def _unit(encoded: npt.ArrayLike) -> Vectors:
    """Normalise in float32: what a half-precision model normalises is off by up to 1e-3."""
    vectors = np.asarray(encoded, np.float32)
    norms: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit


def _fingerprint(model: SentenceTransformer) -> str:
    """Hash what decides a vector. The weights themselves: a fine-tuned model has equal sizes and names.

    Must be taken before the first encoding, which changes the tokenizer's padding settings.
    """
    digest = hashlib.blake2b(digest_size=16)
    settings = {
        "modules": [[type(module).__name__, module.get_config_dict()] for module in model],
        "max_seq_length": model.max_seq_length,
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(_tokenizer_state(model))
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(_tensor_bytes(tensor))
    return digest.hexdigest()


def _tokenizer_state(model: SentenceTransformer) -> bytes:
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    state = backend.to_str() if backend else json.dumps(model.tokenizer.get_vocab(), sort_keys=True)
    return str(state).encode()


def _tensor_bytes(tensor: Tensor) -> memoryview:
    import torch

    # as bytes: numpy has no bfloat16
    return memoryview(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    were_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_enabled:
            logging.enable_progress_bar()
