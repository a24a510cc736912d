"""Find the passages nearest to a question: embed, search N shards, merge; snapshot and replay.

Purpose: each shard holds the passages of the documents that hash to it and answers top-k searches
restricted to given vector stores; results of all shards merge into one ranking.

Contract
- A shard is a pure function of the journal: ``replay.Replayer`` applies entries in order, any
  number of times; ``snapshot`` only saves the time to embed again. A snapshot that is absent,
  damaged or of another embedder or layout is a named miss, never an error: replay from 0.
- A search sees only the stores that it names. Every text appears at most once, best score first,
  ties by document and chunk, so equal states give equal answers whatever the index kind, the
  history of updates or the number of shards (as far as the index is exact).
- A missing shard degrades the answer and is named in ``merge.SearchResult``.

Why
- One FAISS index per store: stores are what requests are restricted to and what is dropped whole,
  so neither needs a filter over everybody's vectors.
- Exact index while small, IVF when large: at 10^5 vectors of 384 dimensions an exact search takes
  about 8 ms on one core, IVF about 0.4 ms; below some 10^4 the difference does not matter and
  exact needs no training. HNSW is out: FAISS cannot remove from it, and deletes are promises here.
- Snapshots hold plain vectors, not FAISS's own format: readable by any version, and damaged bytes
  never reach a C++ parser. The price is that a large store trains its IVF lists again at restart.

Read in this order: ``shard``, ``index``, ``merge``, ``replay``, ``snapshot``, ``embed``.
"""

from mygo.retrieval import snapshot
from mygo.retrieval.embed import Embedder
from mygo.retrieval.merge import SearchResult, merge
from mygo.retrieval.replay import Applied, Entry, Replayer
from mygo.retrieval.shard import Shard, owner

__all__ = [
    "Applied",
    "Embedder",
    "Entry",
    "Replayer",
    "SearchResult",
    "Shard",
    "merge",
    "owner",
    "snapshot",
]
