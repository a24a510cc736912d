"""Which kind of index a store of some size has, and how one is built, trained or restored."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mygo.config_retrieval import RetrievalConfig
from mygo.errors import ConfigError
from mygo.retrieval.flat import FlatIndex
from mygo.retrieval.gpu import GpuIndex
from mygo.retrieval.hnsw import HnswIndex
from mygo.retrieval.index import IndexKind, Rows, Structure, VectorIndex, Vectors
from mygo.retrieval.ivf import IvfIndex, IvfSettings

_LISTS_PER_SQRT = 4
"""IVF lists = 4 * sqrt(vectors), the low end of what FAISS's guidelines advise below 10^6 vectors."""
_TRAINING_VECTORS_PER_LIST = 64
"""k-means needs about 39 per list; FAISS's default of 256 makes training several times slower."""
_CODE_BITS = 8
_DIMENSIONS_PER_BYTE = 4
"""FAISS has vector instructions for 4 and 8. At 10^6 vectors, re-ranking cannot keep the recall of 8."""
_MOST_DIMENSIONS_PER_BYTE = 8
_CODE_ITERATIONS = 10
"""Of k-means, per part of a code: FAISS's 25 take minutes and find no more."""
_TRAINING_VECTORS_PER_CODE = 64
_LINKS_BUILD_CANDIDATES = 80
"""HNSW's efConstruction: FAISS's default of 40 costs recall at 10^6 vectors, more costs hours."""


class IndexBuilder:
    """Makes the indexes of one shard's stores."""

    def __init__(self, dimensions: int, config: RetrievalConfig, folder: Path | None = None) -> None:
        """``folder``: for memory-mapped files; None for the system's temporary folder.

        Raises ConfigError if the embedder's vectors cannot be coded as configured.
        """
        self._code_bytes = config.pq_bytes or _code_bytes(dimensions)
        if config.index == "ivfpq" and (self._code_bytes == 0 or dimensions % self._code_bytes):
            fitting = ", ".join(str(size) for size in range(8, dimensions + 1) if dimensions % size == 0)
            problem = (
                f"{self._code_bytes} does not divide the {dimensions} dimensions of the embedder"
                if config.pq_bytes
                else f"nothing divides the {dimensions} dimensions of the embedder into parts of "
                f"{_DIMENSIONS_PER_BYTE} to {_MOST_DIMENSIONS_PER_BYTE}, each to become a byte"
            )
            raise ConfigError(
                f"retrieval.pq_bytes: {problem}; take one of {fitting}, or retrieval.index: ivf"
            )
        self._dimensions = dimensions
        self._config = config
        self._kind = IndexKind(config.index)
        self._folder = folder

    def kind_for(self, vectors: int) -> IndexKind:
        return self._kind if vectors >= self._config.approximate_from_vectors else IndexKind.FLAT

    def flat(self) -> FlatIndex:
        never = self._kind is IndexKind.FLAT
        return FlatIndex(
            self._dimensions, outgrown_from=None if never else self._config.approximate_from_vectors
        )

    def training_vectors(self, vectors: int) -> int:
        """How many of a store's vectors ``built`` wants as a sample."""
        match self.kind_for(vectors):
            case IndexKind.IVF | IndexKind.IVFPQ:
                wanted: int = max(self._lists(vectors), 2**_CODE_BITS) * _TRAINING_VECTORS_PER_LIST
                return min(vectors, wanted)
            case _:
                return 0

    def built(self, sample: Vectors, vectors: int) -> VectorIndex:
        """An empty index for about ``vectors``, trained on ``sample``. Takes seconds to minutes."""
        match self.kind_for(vectors):
            case IndexKind.FLAT:
                return self.flat()
            case IndexKind.HNSW:
                graph: Any = faiss.IndexHNSWFlat(
                    self._dimensions, self._config.hnsw_links, faiss.METRIC_INNER_PRODUCT
                )
                graph.hnsw.efConstruction = _LINKS_BUILD_CANDIDATES
                return HnswIndex(
                    graph, ef_search=self._config.hnsw_ef_search, outgrown_below=self._outgrown_below
                )
            case IndexKind.GPU:
                return GpuIndex(self._dimensions, outgrown_below=self._outgrown_below)
            case kind:
                return IvfIndex(
                    self._trained(kind, sample, self._lists(vectors)), self._ivf(), trained_on=vectors
                )

    def saved(self, index: VectorIndex) -> dict[str, Any] | None:
        """The index's structure, and what it takes to know it again; None if there is nothing to save."""
        structure = index.structure()
        return None if structure is None else {**structure, "made_by": np.array([self._maker()])}

    def restored(self, structure: Structure, rows: Rows, vectors: Iterable[Vectors]) -> VectorIndex | None:
        """The index that was saved, over the same vectors, some at a time, under new ids; None, with no
        vectors taken, if it is of no use here: made with other settings or by another FAISS."""
        if str(structure["made_by"][0]) != self._maker():
            return None
        if self._kind is IndexKind.HNSW:
            return HnswIndex.restored(
                structure,
                rows,
                ef_search=self._config.hnsw_ef_search,
                outgrown_below=self._outgrown_below,
            )
        trained = faiss.deserialize_index(structure["trained"])
        index = IvfIndex(trained, self._ivf(), trained_on=int(structure["trained_on"][0]))
        for part in vectors:
            end = len(index) + len(part)
            these = slice(end - len(part), end)
            index.add_to_lists(rows[these], part, structure["lists"][these])
        return index

    @property
    def _outgrown_below(self) -> int:
        return self._config.approximate_from_vectors

    def _maker(self) -> str:
        config = self._config
        shape = {
            IndexKind.IVF: config.ivf_lists,
            IndexKind.IVFPQ: (config.ivf_lists, self._code_bytes),
            IndexKind.HNSW: config.hnsw_links,
        }.get(self._kind)
        return f"{self._kind} {shape} faiss {faiss.__version__}"

    def _lists(self, vectors: int) -> int:
        return min(vectors, self._config.ivf_lists or round(_LISTS_PER_SQRT * math.sqrt(vectors)))

    def _ivf(self) -> IvfSettings:
        return IvfSettings(
            probes=self._config.ivf_probes,
            outgrown_below=self._outgrown_below,
            rerank_factor=self._config.rerank_factor,
            on_disk=self._config.ivf_on_disk,
            folder=self._folder,
        )

    def _trained(self, kind: IndexKind, sample: Vectors, lists: int) -> Any:
        lists = min(lists, len(sample))
        coarse = faiss.IndexFlatIP(self._dimensions)
        index: Any
        if kind is IndexKind.IVF:
            index = faiss.IndexIVFFlat(coarse, self._dimensions, lists, faiss.METRIC_INNER_PRODUCT)
        else:
            index = faiss.IndexIVFPQ(
                coarse,
                self._dimensions,
                lists,
                self._code_bytes,
                _CODE_BITS,
                faiss.METRIC_INNER_PRODUCT,
            )
            index.pq.cp.max_points_per_centroid = _TRAINING_VECTORS_PER_CODE
            index.pq.cp.niter = _CODE_ITERATIONS
            index.pq.cp.min_points_per_centroid = 1
        index.cp.min_points_per_centroid = 1  # else FAISS prints a warning for stores of a few thousand
        index.cp.max_points_per_centroid = _TRAINING_VECTORS_PER_LIST
        index.train(sample)
        return index


def _code_bytes(dimensions: int) -> int:
    """As near to ``_DIMENSIONS_PER_BYTE`` as the dimensions divide; 0 if they do not."""
    least, most = -(-dimensions // _MOST_DIMENSIONS_PER_BYTE), max(1, dimensions // _DIMENSIONS_PER_BYTE)
    return max((number for number in range(least, most + 1) if dimensions % number == 0), default=0)
