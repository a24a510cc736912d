"""What every kind of index promises, asked of every kind."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_cases import shard_config

from mygo.config_retrieval import RetrievalConfig
from mygo.errors import ConfigError
from mygo.retrieval.index import IndexKind, Rows, VectorIndex, Vectors
from mygo.retrieval.ivf import IvfIndex
from mygo.retrieval.kinds import IndexBuilder
from mygo.retrieval.stages import MAX_STAGES, stage_ends

DIMENSIONS = 16
FROM = 300
CONFIGS: dict[str, RetrievalConfig] = {
    "flat": shard_config(index="flat", approximate_from_vectors=FROM),
    "ivf": shard_config(index="ivf", approximate_from_vectors=FROM),
    "ivf on disk": shard_config(index="ivf", approximate_from_vectors=FROM, ivf_on_disk=True),
    "ivfpq": shard_config(index="ivfpq", approximate_from_vectors=FROM, pq_bytes=8, rerank_factor=20),
    "hnsw": shard_config(index="hnsw", approximate_from_vectors=FROM, hnsw_ef_search=200),
    "gpu": shard_config(index="gpu", approximate_from_vectors=FROM),  # the same code on the CPU
}
Build = Callable[..., VectorIndex]


def units(count: int, seed: int = 0) -> Vectors:
    """In loose clusters, as texts are."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, DIMENSIONS))
    vectors = centres[rng.integers(0, 20, count)] + 0.7 * rng.standard_normal((count, DIMENSIONS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def ids(start: int, stop: int) -> Rows:
    return np.arange(start, stop, dtype=np.int64)


@pytest.fixture(params=list(CONFIGS))
def config(request: pytest.FixtureRequest) -> RetrievalConfig:
    return CONFIGS[request.param]


@pytest.fixture
def build(config: RetrievalConfig, tmp_path: Path) -> Build:
    """An index of ``count`` vectors, trained on them."""

    def built(count: int = 600, **changes: Any) -> VectorIndex:
        builder = IndexBuilder(DIMENSIONS, config.model_copy(update=changes), tmp_path)
        vectors = units(count)
        index = builder.built(vectors[: builder.training_vectors(count)], count)
        index.add(ids(0, count), vectors)
        return index

    return built


def test_index_is_of_the_configured_kind_when_large_and_flat_when_small(
    config: RetrievalConfig, build: Build
) -> None:
    assert build(600).kind == config.index
    assert build(FROM - 1).kind is IndexKind.FLAT


def test_search_finds_the_nearest_with_exact_scores(build: Build) -> None:
    index, vectors = build(), units(600)
    found = 0
    for query in units(40, seed=1):
        scores, rows = index.search(query, 10)
        assert len(rows) == len(set(rows.tolist())) == 10
        assert np.all(np.diff(scores) <= 0)
        np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-5)
        found += len(set(rows.tolist()) & set(np.argsort(-(vectors @ query))[:10].tolist()))
    assert found >= 0.98 * 400


def test_search_finds_fewer_when_there_are_fewer(build: Build) -> None:
    index = build()
    scores, rows = index.search(units(1)[0], 1000)
    assert len(scores) == len(rows) <= 600
    assert len(rows) >= 550


def test_update_is_seen_by_the_next_search(build: Build) -> None:
    index, later = build(), units(700)[600:]
    index.remove(ids(0, 200))
    index.add(ids(600, 700), later)
    assert len(index) == 500
    for number, vector in enumerate(later):
        assert index.search(vector, 1)[1].tolist() == [600 + number]
    for vector in units(600)[:200]:
        assert index.search(vector, 20)[1].min() >= 200
    kept = np.concatenate([ids(200, 600), ids(600, 700)])
    assert np.array_equal(index.vectors(kept), np.concatenate([units(600)[200:], later]))
    assert index.vectors(ids(0, 0)).shape == (0, DIMENSIONS)


def test_index_becomes_empty_and_lives_on(build: Build) -> None:
    index = build()
    index.remove(ids(0, 600))
    assert len(index) == 0
    assert index.search(units(1)[0], 5)[1].tolist() == []
    index.add(ids(600, 601), units(1))
    assert index.search(units(1)[0], 5)[1].tolist() == [600]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_index_equals_a_dictionary_after_any_history(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(list(CONFIGS.values())))
    builder = IndexBuilder(DIMENSIONS, config)
    pool = units(1500, seed=2)
    index = builder.built(pool[: builder.training_vectors(400)], 400)
    held: dict[int, Vectors] = {}
    next_row = 0
    for count in data.draw(st.lists(st.integers(-150, 200), min_size=1, max_size=6)):
        if count > 0:
            rows = ids(next_row, next_row + count)
            index.add(rows, pool[rows])
            held.update((row, pool[row]) for row in rows.tolist())
            next_row += count
        elif gone := data.draw(st.permutations(sorted(held)))[:-count]:
            index.remove(np.array(gone, np.int64))
            for row in gone:
                del held[row]
    assert len(index) == len(held)
    rows = np.array(sorted(held), np.int64)
    expected = np.stack([held[row] for row in rows.tolist()]) if held else np.empty((0, DIMENSIONS))
    assert np.array_equal(index.vectors(rows), expected)
    for row in rows[::50].tolist():
        assert index.search(held[row], 1)[1].tolist() == [row]
    assert set(index.search(pool[0], 1000)[1].tolist()) <= held.keys()


@pytest.mark.parametrize("stage_s", [0.0, 1e-9, 1e-5, 1.0])
@pytest.mark.parametrize("probes", [1, 7, 10**6])
def test_last_stage_is_the_search_in_one_go(build: Build, stage_s: float, probes: int) -> None:
    index = build(ivf_probes=probes)
    for query in units(60, seed=3):
        scores, rows = index.search(query, 10)
        *earlier, last = index.search_staged(query, 10, stage_s)
        assert np.array_equal(last.rows, rows)
        assert np.array_equal(last.scores, scores)
        assert last.is_last and not any(part.is_last for part in earlier)
        before = -1.0
        for part in (*earlier, last):
            assert len(part.rows) == len(set(part.rows.tolist())) <= 10
            assert part.scores.sum() + 1e-3 >= before or len(part.scores) < 10
            before = float(part.scores.sum()) if len(part.scores) == 10 else -1.0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_last_stage_does_not_depend_on_the_plan(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["ivf", "ivf on disk", "ivfpq"]))
    count = data.draw(st.integers(300, 700))
    config = CONFIGS[name].model_copy(update={"ivf_probes": data.draw(st.integers(1, 60))})
    index = IndexBuilder(DIMENSIONS, config).built(units(count), count)
    assert isinstance(index, IvfIndex)
    index.add(ids(0, count), units(count))
    k = data.draw(st.sampled_from([1, 10, 200, 1000]))
    probes = index.probes(k)
    ends = sorted({*data.draw(st.sets(st.integers(1, probes))), probes})
    for query in units(3, seed=data.draw(st.integers(0, 99))):
        scores, rows = index.search(query, k)
        parts = list(index.search_by_plan(query, k, ends))
        assert [part.is_last for part in parts] == [False] * (len(ends) - 1) + [True]
        assert np.array_equal(parts[-1].rows, rows)
        assert np.array_equal(parts[-1].scores, scores)
        for part in parts:
            assert np.all(np.diff(part.scores) <= 0)
            np.testing.assert_allclose(part.scores, units(count)[part.rows] @ query, atol=1e-5)


def test_inverted_lists_are_searched_in_several_stages_when_these_are_short(tmp_path: Path) -> None:
    for name in ("ivf", "ivf on disk", "ivfpq"):
        builder = IndexBuilder(DIMENSIONS, CONFIGS[name], tmp_path)
        index = builder.built(units(600), 600)
        index.add(ids(0, 600), units(600))
        assert len(list(index.search_staged(units(1)[0], 10, 0.0))) == MAX_STAGES
        assert len(list(index.search_staged(units(1)[0], 10, 60.0))) == 1


@given(st.integers(1, 200), st.floats(0, 10), st.sampled_from([0.0, 1e-9, 1e-3, 0.1, 100.0, math.inf]))
def test_stage_ends_cut_all_lists_into_even_stages(lists: int, predicted_s: float, stage_s: float) -> None:
    ends = stage_ends(lists, predicted_s, stage_s)
    sizes = np.diff([0, *ends])
    assert ends[-1] == lists
    assert sizes.min() >= 1 and sizes.max() - sizes.min() <= 1
    assert len(ends) <= MAX_STAGES
    assert len(ends) == 1 or predicted_s >= len(ends) * stage_s


def test_structure_gives_the_same_searches_when_restored_under_other_ids(
    config: RetrievalConfig, build: Build, tmp_path: Path
) -> None:
    index = build()
    index.remove(np.array([0, 1, 5, 599], np.int64))
    index.add(ids(600, 610), units(610)[600:])
    old = np.setdiff1d(ids(0, 610), [0, 1, 5, 599])
    builder = IndexBuilder(DIMENSIONS, config, tmp_path)
    saved = builder.saved(index)
    if config.index in ("flat", "gpu"):
        assert saved is None
        return
    assert saved is not None
    new = ids(1000, 1000 + len(old))
    restored = builder.restored(saved, new, np.array_split(index.vectors(old), 3))
    assert restored is not None
    assert (restored.kind, len(restored)) == (index.kind, 606)
    assert np.array_equal(restored.vectors(new), index.vectors(old))
    for query in units(40, seed=4):
        scores, rows = index.search(query, 10)
        restored_scores, restored_rows = restored.search(query, 10)
        assert np.array_equal(old[restored_rows - 1000], rows)
        assert np.array_equal(restored_scores, scores)
    restored.remove(new[:5])
    restored.add(ids(5000, 5001), units(1, seed=9))
    assert restored.search(units(1, seed=9)[0], 1)[1].tolist() == [5000]
    for query in units(610)[old[:5]]:
        assert not set(restored.search(query, 20)[1].tolist()) & set(new[:5].tolist())
    other = IndexBuilder(DIMENSIONS, config.model_copy(update={"ivf_lists": 9, "hnsw_links": 9}), tmp_path)
    assert other.restored(saved, new, [index.vectors(old)]) is None


def test_index_is_outgrown_when_it_shrank_to_half(config: RetrievalConfig, build: Build) -> None:
    index = build()
    assert not index.outgrown or config.index == "flat"
    index.remove(ids(0, 451))
    assert index.outgrown == (config.index != "flat")


def test_inverted_lists_are_outgrown_when_doubled_and_a_graph_when_a_quarter_is_forgotten(
    config: RetrievalConfig, build: Build
) -> None:
    index = build()
    index.remove(ids(0, 140))
    assert not index.outgrown
    index.remove(ids(140, 160))
    assert index.outgrown == (config.index == "hnsw")
    index.add(ids(600, 1200), units(600, seed=5))
    assert index.outgrown == (config.index in ("ivf", "ivfpq"))


def test_flat_index_is_outgrown_from_the_configured_size(config: RetrievalConfig, build: Build) -> None:
    index = build(FROM - 1)
    assert not index.outgrown
    index.add(ids(FROM - 1, FROM), units(1))
    assert index.outgrown == (config.index != "flat")


def test_files_of_an_index_go_with_it(build: Build, tmp_path: Path) -> None:
    index = build()
    del index
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_builder_names_sizes_that_fit_when_codes_do_not_divide_the_vectors() -> None:
    with pytest.raises(ConfigError, match=r"pq_bytes: 7 does not divide the 16 .* one of 8, 16"):
        IndexBuilder(DIMENSIONS, shard_config(index="ivfpq", approximate_from_vectors=300, pq_bytes=7))


@pytest.mark.parametrize(("dimensions", "code_bytes"), [(384, 96), (770, 154), (50, 10), (25, 5), (8, 2)])
def test_code_takes_about_a_byte_for_four_dimensions(dimensions: int, code_bytes: int) -> None:
    config = shard_config(index="ivfpq", approximate_from_vectors=300)
    sample = np.random.default_rng(0).standard_normal((300, dimensions)).astype(np.float32)
    structure = IndexBuilder(dimensions, config).built(sample, 300).structure()
    assert structure is not None
    assert faiss.deserialize_index(structure["trained"]).pq.code_size == code_bytes


def test_builder_says_so_when_nothing_divides_the_vectors() -> None:
    with pytest.raises(ConfigError, match=r"nothing divides the 97 .* one of 97, or retrieval.index: ivf"):
        IndexBuilder(97, shard_config(index="ivfpq", approximate_from_vectors=300))


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("k", [8, 24, 66])
def test_questions_on_a_topic_find_what_is_left_when_all_of_it_was_deleted(
    name: str, k: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    dimensions, total, of_topic = 64, 2000, 400
    topics = rng.standard_normal((40, dimensions))
    topic = np.concatenate([np.zeros(of_topic, np.int64), rng.integers(1, 40, total - of_topic)])
    drawn = topics[topic] + 0.5 * rng.standard_normal((total, dimensions))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    config = CONFIGS[name].model_copy(update={"hnsw_ef_search": 64, "ivf_probes": 32, "ivf_lists": 40})
    index = IndexBuilder(dimensions, config, tmp_path).built(vectors, total)
    index.add(ids(0, total), vectors)
    index.remove(ids(0, of_topic))
    assert not index.outgrown or name == "flat"
    question = (topics[0] / np.linalg.norm(topics[0])).astype(np.float32)
    nearest = of_topic + np.argsort(-(vectors[of_topic:] @ question))[:k]
    right = np.isin(index.search(question, k)[1], nearest)
    assert len(right) == k
    assert right.mean() >= 0.75


@pytest.mark.parametrize("name", ["ivf", "ivf on disk", "ivfpq"])
@pytest.mark.parametrize("stage_s", [0.0, 60.0])
def test_inverted_lists_are_probed_further_when_many_are_asked_for(
    name: str, stage_s: float, tmp_path: Path
) -> None:
    config = CONFIGS[name].model_copy(update={"ivf_probes": 2, "ivf_lists": 60})
    index = IndexBuilder(DIMENSIONS, config, tmp_path).built(units(600), 600)
    index.add(ids(0, 600), units(600))
    recalled = 0
    for query in units(40, seed=6):
        nearest = np.argsort(-(units(600) @ query))[:15]
        recalled += len(set(index.search(query, 15)[1].tolist()) & set(nearest.tolist()))
    assert recalled >= 0.75 * 40 * 15
    for query in units(3, seed=6):
        for k in (1, 10, 100, 500, 600, 1000):
            *_, last = index.search_staged(query, k, stage_s)
            assert len(set(last.rows.tolist())) == min(k, 600)


def test_inverted_lists_are_all_probed_when_the_nearest_are_small(tmp_path: Path) -> None:
    """Scenario: almost all vectors are far from the question, in a list that is not probed."""
    config = CONFIGS["ivf"].model_copy(update={"ivf_probes": 1, "ivf_lists": 20})
    index = IndexBuilder(DIMENSIONS, config, tmp_path).built(units(600), 600)
    index.add(ids(0, 600), units(600))
    query = units(1)[0]
    far = int(np.argmin(units(600) @ query))
    index.add(ids(600, 3000), np.repeat(units(600)[far : far + 1], 2400, axis=0))
    for stage_s in (0.0, 60.0):
        for k in range(100, 700, 50):
            *_, last = index.search_staged(query, k, stage_s)
            assert len(set(last.rows.tolist())) == k
