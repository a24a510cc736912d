"""Find the passages nearest to a question: embed, search N shards, merge; snapshot and replay.

Purpose: each shard holds the passages of the documents that hash to it and answers top-k searches
restricted to given vector stores, by vectors and by words, in stages if wanted; results of all shards
merge into one ranking.

Contract
- A shard is a pure function of the journal: ``replay.Replayer`` applies entries in order, any
  number of times; ``snapshot`` only saves the time to embed again. A snapshot that is absent,
  damaged or of another embedder or layout is a named miss, never an error: replay from 0.
- A search sees only the stores that it names. Every text appears at most once, best score first,
  ties by document and chunk, so equal states give equal answers whatever the index kind, the
  history of updates or the number of shards (as far as the index is exact).
- A missing shard degrades the answer and is named in ``merge.SearchResult``.

Why
- One index per store: stores are what requests are restricted to and what is dropped whole,
  so neither needs a filter over everybody's vectors.
- Exact index while small, one of five kinds (``flat`` and ``gpu`` are exact, too) when large: at
  10^5 vectors of 384 dimensions an exact search takes about 8 ms on one core, IVF about 0.4 ms; below some
  10^4 the difference does not matter and exact needs no training. One test suite holds for all kinds.
- An index is trained and built beside the one that serves, and takes its place in one step: searches
  and updates never wait for it, and a crash loses only the work.
- FAISS cannot remove from an HNSW graph: removed nodes stay as way-marks that no search returns, until
  a quarter is such and the graph is built anew.
- A search among given documents compares all their vectors, whatever the index's kind: filters that leave
  little need neither a walk through a store nor luck with an approximate index.
- Staged search finds the nearest lists once and searches them in groups, so the last stage is the search
  in one go, score for score. Only inverted lists have a nearest-first order that can be cut; the other kinds
  have one stage.
- Texts lie on disk, in SQLite: memory holds what ranks passages, and reads the few texts that are given.
  Words are searched by its FTS5: BM25 with updates and deletes, in every Python. The file has no name and
  is filled again from the snapshot at a restart. Fusion uses ranks, since BM25's scores compare
  with nothing.
- Snapshots hold plain vectors: readable by any version. What it takes long to compute (centroids, lists,
  graphs) lies beside them in FAISS's format, is parsed only if its checksum is right, and is left aside if
  the settings or FAISS changed.
- The GPU index (``gpu``) is exact, and PyTorch's: FAISS's CPU package has no indexes for GPUs, and those of
  its GPU package can neither remove nor name their vectors. Without a GPU the same code runs on the CPU,
  where the tests run it.

Read in this order: ``shard``, ``nearest``, ``index``, ``kinds``, ``ivf``, ``gpu``, ``texts``, ``found``,
``merge``, ``fusion``, ``rerank``, ``recent``, ``replay``, ``contents``, ``snapshot``, ``embed``.
"""

from mygo.retrieval import snapshot
from mygo.retrieval.embed import Embedder
from mygo.retrieval.fusion import Weights, fuse
from mygo.retrieval.merge import SearchResult, ShardStages, Stage, merge
from mygo.retrieval.replay import Applied, Entry, Replayer
from mygo.retrieval.shard import Shard, owner

__all__ = [
    "Applied",
    "Embedder",
    "Entry",
    "Replayer",
    "SearchResult",
    "Shard",
    "ShardStages",
    "Stage",
    "Weights",
    "fuse",
    "merge",
    "owner",
    "snapshot",
]
