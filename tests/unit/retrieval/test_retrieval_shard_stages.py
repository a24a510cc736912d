"""Searches of a shard in stages, among vectors that are mostly equal."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from retrieval_cases import embed, passages

from mygo.config_retrieval import RetrievalConfig
from mygo.retrieval import Shard
from mygo.retrieval.index import IndexKind
from mygo.retrieval.stages import MAX_STAGES
from mygo.types import DocId, StoreId

DIMENSIONS = 32
STORE = StoreId("vs_a")
VECTORS, DISTINCT = 3_400, 100  # more copies of each than a search has to spare


@pytest.mark.parametrize("index", ["ivf", "ivfpq"])
def test_last_stage_is_the_search_in_one_go_when_equal_vectors_are_cut(
    index: Literal["ivf", "ivfpq"],
) -> None:
    config = RetrievalConfig(shards=1, index=index, approximate_from_vectors=VECTORS)
    shard = Shard(DIMENSIONS, index=0, config=config)
    drawn = np.random.default_rng(0).integers(DISTINCT, size=VECTORS)
    texts = [f"{vector}|{number}" for number, vector in enumerate(drawn)]
    vectors = embed(texts, DIMENSIONS)
    # the last first: the order of rows is not that of documents
    for start in reversed(range(0, VECTORS, 100)):
        part, doc = slice(start, start + 100), DocId(f"file-{start:04}")
        shard.upsert(STORE, doc, passages(doc, texts[part]), vectors[part])
    assert shard.rebuild_outgrown()
    assert shard.kind(STORE) == IndexKind(index)
    for query in embed([*map(str, range(6)), *(f"query {number}" for number in range(6))], DIMENSIONS):
        for k in (1, 10, 37):
            once = shard.search({STORE}, query, k)
            after = shard.search({STORE}, query, k + 1)
            assert after[:k] == once and len(after) == k + 1
            for stage_s in (0.0, 1e-5, 1e-4, math.inf):
                stages = list(shard.search_staged({STORE}, query, k, stage_s))
                assert list(stages[-1].passages) == once
                assert stage_s > 0 or len(stages) == MAX_STAGES
