"""Tokens by how far two births are apart, and which births the scheduler has compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mygo.blend.variants import Birth, BirthKind, DocumentTag, Ranking, Variant, VariantKey
from mygo.types import DomainTag, Tier
from mygo.vllm_plugin.chunks import mover as chunk_mover
from mygo.vllm_plugin.chunks.disk import ChunkDisk, ChunkReport
from mygo.vllm_plugin.chunks.files import ChunkFiles
from mygo.vllm_plugin.chunks.layers import KEYS, VALUES
from mygo.vllm_plugin.chunks.link import HostLink
from mygo.vllm_plugin.chunks.mover import ChunkMover
from mygo.vllm_plugin.chunks.sensitivity import order
from mygo.vllm_plugin.chunks.step import ChunkStep
from mygo.vllm_plugin.settings import ChunkSettings, engine_arguments

SYSTEM = [3] * 5
DOCUMENTS = {name: [10 + 16 * i + j for j in range(16)] for i, name in enumerate("abcdefg")}
TOKENS = 16


@pytest.mark.parametrize("layers", [1, 2, 3, 12])
def test_tokens_are_in_the_order_in_which_their_values_are_apart(layers: int) -> None:
    generator = torch.Generator().manual_seed(3)
    one = torch.randn(layers, 2, 7, 32, generator=generator)
    one[:, VALUES, 4] *= 100  # apart by its own size
    apart = torch.tensor([0.2, 0.0, 0.6, 0.1, 0.3, 0.0, 0.4])
    other = one.clone()
    other[:, VALUES] *= 1 + apart[:, None]
    other[:, KEYS] += torch.randn(layers, 7, 32, generator=generator)
    assert order(one, other) == (2, 6, 4, 0, 3, 1, 5)
    assert order(one.bfloat16(), other.bfloat16())[:5] == (2, 6, 4, 0, 3)
    other[0] = torch.randn(2, 7, 32, generator=generator)
    assert layers == 1 or order(one, other) == (2, 6, 4, 0, 3, 1, 5), "the first layer tells nothing"


def test_tokens_without_values_are_no_trouble() -> None:
    nothing = torch.zeros(2, 2, 3, 4)
    assert order(nothing, nothing) == (0, 1, 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_first_rank_ranks_a_chunk_before_it_is_written(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_mover, "get_tensor_model_parallel_rank", lambda: rank)
    birth = Birth(BirthKind.CONTEXTUAL, (DocumentTag("x"),))
    waiting = Ranking((), (DocumentTag("y"),))
    first, second, third = (
        Variant(VariantKey(f"{number:032x}"), DocumentTag("d"), 3, 100, DomainTag("p"), birth, waiting)
        for number in range(3)
    )
    one = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    other = one.clone()
    other[1, VALUES, 1] *= 2
    other[1, VALUES, 2] *= 3
    files = ChunkFiles(tmp_path, b"n" * 32, rank)
    mover = ChunkMover()
    mover._link = HostLink(torch.device("cpu"))
    mover._disk = ChunkDisk(files, mover._link.own)
    mover._chunks = {first.key: one, second.key: other}
    rankings = [(second, first.key), (first, third.key), (third, first.key)]
    mover._step = ChunkStep(rankings=rankings, writes=[second], dropped=[first.key])
    mover.finish()
    mover.close()
    known = Ranking((2, 1, 0), waiting.seen)
    assert mover.report().rankings == ({second.key: known} if rank == 0 else {})
    assert files.variants() == [replace(second, ranking=known if rank == 0 else waiting)]
    assert mover._chunks.keys() == {second.key}


def _name(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Served:
    """vLLM's scheduler, and workers that rank every document backwards."""

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = engine
        self.chunks = engine.connector._chunks
        self.compared: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
        """Document, and what its two births were behind."""
        self.plans: list[Any] = []
        self._count = 0
        plan_step = self.chunks.plan_step

        def plan(output: Any) -> Any:
            step = plan_step(output)
            report = ChunkReport()
            for variant, other_key in step.rankings:
                others = self.held(variant.document)
                (other,) = (each for each in others if each.key == other_key)
                self.compared.append((variant.document, variant.birth.before, other.birth.before))
                backwards = tuple(range(variant.tokens))[::-1]
                report.rankings[variant.key] = Ranking(backwards, variant.ranking.seen)
            self.chunks.heard(report)
            return step

        monkeypatch.setattr(self.chunks, "plan_step", plan)
        admitted = self.chunks.admitted

        def admit(request: Any) -> Any:
            live = self.chunks._live.get(request.request_id)
            self.plans += [live.plan] if live is not None and live.plan is not None else []
            return admitted(request)

        monkeypatch.setattr(self.chunks, "admitted", admit)

    def held(self, tag: str, salt: str = "salt") -> list[Any]:
        return [held.variant for held in self.chunks._holdings._catalog.held(tag, {salt})]

    def ask(self, names: str, reuse: str = "exact", salts: str = "") -> dict[str, tuple[int, ...]]:
        """Which tokens of its documents are repaired. ``salts``: of each, a character."""
        ids, path = list(SYSTEM), [(_name("system"), len(SYSTEM), "salt", "")]
        for name, salt in zip(names, salts or "-" * len(names), strict=True):
            ids += DOCUMENTS[name]
            domain = "salt" if salt == "-" else salt
            path.append((_name(f"{path[-1][0]} {name}"), len(ids), domain, _name(name)))
        ids += [4, 4, 4]
        path.append((_name(f"{path[-1][0]} question"), len(ids), path[-1][2], ""))
        self._count += 1
        self.engine.add(str(self._count), ids, spans=path, reuse=reuse)
        self.engine.drain()
        assert self.engine.scheduler.reset_prefix_cache()
        by_tag = {_name(name): name for name in names}
        pieces = self.plans.pop().pieces if self.plans else ()
        self.plans.clear()
        return {by_tag[piece.variant.document]: piece.repaired for piece in pieces if piece.variant}


@pytest.fixture
def make(engine_factory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Served]:
    def build(method: str) -> Served:
        chunks = ChunkSettings(host_bytes=2**24, repair_share=0.25, floor_tokens=1, method=method)
        return Served(engine_factory(**engine_arguments(chunks=chunks)), monkeypatch)

    return build


def test_second_birth_is_compared_with_the_first_and_tells_which_tokens_to_repair(
    make: Callable[[str], Served],
) -> None:
    served = make("deviation")
    served.ask("ab")
    assert served.ask("cb", "blend") == {"b": (0, 1, 2, 3)}, "the first ones, while there is one birth"
    served.ask("db")
    a, b, d = (_name(name) for name in "abd")
    assert served.compared == [(b, (d,), (a,))]
    assert served.ask("cb", "blend") == {"c": (), "b": (0, 13, 14, 15)}
    served.chunks.purge([a])
    assert served.held(b) == [], "one was born behind it, and the other ranked by that one"


def test_births_are_compared_only_when_they_are_shared_as_widely(make: Callable[[str], Served]) -> None:
    served = make("deviation")
    served.ask("ab", salts="xx")
    served.ask("db", salts="yy")
    assert len(served.held(_name("b"), "x")) == len(served.held(_name("b"), "y")) == 1
    assert served.compared == []


def test_contextual_birth_is_rather_compared_with_than_a_first_one(make: Callable[[str], Served]) -> None:
    served = make("deviation")
    for names in ("b", "ab", "db"):
        served.ask(names)
    kinds = [variant.birth.kind for variant in served.held(_name("b"))]
    assert kinds == [BirthKind.FIRST, BirthKind.CONTEXTUAL, BirthKind.CONTEXTUAL]
    a, b, d = (_name(name) for name in "abd")
    assert served.compared == [(b, (a,), ()), (b, (d,), (a,))]


def test_nothing_is_compared_when_no_method_asks_for_it(make: Callable[[str], Served]) -> None:
    served = make("first_tokens")
    served.ask("ab")
    served.ask("db")
    assert len(served.held(_name("b"))) == 2 and served.compared == []
    assert served.ask("cb", "blend") == {"b": (0, 1, 2, 3)}


@pytest.mark.parametrize("is_borrowed", [False, True])
def test_what_was_computed_by_a_ranking_goes_with_what_that_tells_something_of(
    is_borrowed: bool, make: Callable[[str], Served]
) -> None:
    served = make("deviation")
    a, b, e = (_name(name) for name in "abe")
    served.ask("ab")
    served.ask("db")
    (first,) = (variant for variant in served.held(b) if variant.ranking is None)
    served.chunks._holdings._catalog.drop(first.key, Tier.HOST)
    if is_borrowed:  # the other copy was made when no method asked for rankings
        served.chunks._captures._ranks = False
        served.ask("cfb")
        served.chunks._captures._ranks = True
    chosen = served.ask("cgbe", "blend")["b"]
    assert chosen == ((0, 15) if is_borrowed else (0, 13, 14, 15)), "by the ranking that tells of a"
    (behind,) = served.held(e)
    assert a in behind.birth.seen
    served.chunks.purge([a])
    assert served.held(e) == [] and len(served.held(b)) == is_borrowed


def test_nothing_is_kept_of_who_computes_by_a_ranking_that_tells_of_what_is_deleted(
    make: Callable[[str], Served],
) -> None:
    served = make("deviation")
    a, b, e = (_name(name) for name in "abe")
    served.ask("ab")
    served.ask("db")
    (first,) = (variant for variant in served.held(b) if variant.ranking is None)
    served.chunks._holdings._catalog.drop(first.key, Tier.HOST)
    served.chunks._captures._ranks = False
    served.ask("cfb")
    admitted = served.chunks.admitted

    def admit(request: Any) -> Any:
        served.chunks.purge([a])
        return admitted(request)

    served.chunks.admitted = admit
    assert served.ask("cgbe", "blend")["b"] == (0, 15)
    assert served.held(e) == [] and len(served.held(b)) == 1
