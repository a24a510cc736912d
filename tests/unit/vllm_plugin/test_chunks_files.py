"""Chunks as files: what is read is what was written, or nothing."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mygo.blend.variants import Birth, BirthKind, DocumentTag, Ranking, Variant, VariantKey
from mygo.types import DomainTag
from mygo.vllm_plugin.chunks import files as chunk_files
from mygo.vllm_plugin.chunks.disk import ChunkDisk
from mygo.vllm_plugin.chunks.files import ChunkFiles
from mygo.vllm_plugin.chunks.mover import ChunkMover
from mygo.vllm_plugin.chunks.step import ChunkStep

NAMESPACE = b"n" * 32


def _variant(number: int = 1) -> Variant:
    before, seen = (DocumentTag("b" * 32), DocumentTag("c" * 32)), (DocumentTag("d" * 32),)
    birth = Birth(BirthKind.CONTEXTUAL, before, blend="e" * 32, seen=seen)
    return Variant(
        VariantKey(f"{number:032x}"),
        DocumentTag("a" * 32),
        5,
        5 * 64,
        DomainTag("tenant/é"),
        birth,
        Ranking((4, 0, 2, 1, 3), (DocumentTag("e" * 32),)),
    )


def _kv(kind: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(3, 2, 5, 8, generator=torch.Generator().manual_seed(3)).to(kind)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_chunk_comes_back_bit_for_bit_with_all_that_is_known_of_it(kind: torch.dtype, tmp_path: Path) -> None:
    files = ChunkFiles(tmp_path, NAMESPACE, rank=0)
    kv = _kv(kind)
    files.write(_variant(), kv)
    found = files.read(_variant().key)
    assert found is not None and found.dtype is kind and torch.equal(found, kv)
    assert files.variants() == [_variant()]
    files.erase(_variant().key)
    assert files.read(_variant().key) is None and files.variants() == []


@pytest.mark.parametrize("harm", ["head", "kv", "facts", "cut", "grown", "renamed", "empty"])
def test_file_that_is_not_what_was_written_is_a_miss_and_goes(harm: str, tmp_path: Path) -> None:
    files = ChunkFiles(tmp_path, NAMESPACE, rank=0)
    files.write(_variant(), _kv())
    key = _variant().key
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    if harm == "renamed":
        key = _variant(2).key
        path = path.rename(tmp_path / f"{key}.0.kv")
        assert files.variants() == []
    elif harm in ("cut", "grown", "empty"):
        os.truncate(path, {"cut": size - 1, "grown": size + 9, "empty": 0}[harm])
    else:
        with path.open("r+b") as file:
            file.seek({"head": 9, "kv": 4096 + 11, "facts": size - 30}[harm])
            file.write(b"\xff")
    assert files.read(key) is None
    assert not path.exists()


@pytest.mark.parametrize("ranking", [None, Ranking((), (DocumentTag("e" * 32),))])
def test_variant_comes_back_when_it_is_not_ranked(ranking: Ranking | None, tmp_path: Path) -> None:
    files = ChunkFiles(tmp_path, NAMESPACE, rank=0)
    plain = replace(_variant(), ranking=ranking)
    files.write(plain, _kv())
    assert files.variants() == [plain]


def test_file_of_before_there_were_rankings_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ChunkFiles(tmp_path, NAMESPACE, rank=0)
    facts = chunk_files._facts

    def without(variant: Variant, kv: torch.Tensor) -> dict[str, Any]:
        return {name: fact for name, fact in facts(variant, kv).items() if name != "ranking"}

    monkeypatch.setattr(chunk_files, "_facts", without)
    files.write(_variant(), _kv())
    assert files.variants() == [replace(_variant(), ranking=None)]
    found = files.read(_variant().key)
    assert found is not None and torch.equal(found, _kv())


@pytest.mark.parametrize("order", [b"[4, 0, 2, 1, 9]", b"[4.0,0, 2, 1,3]", b"[4,0,2, true,3]"])
def test_file_with_a_broken_ranking_is_cleared(order: bytes, tmp_path: Path) -> None:
    files = ChunkFiles(tmp_path, NAMESPACE, rank=0)
    files.write(_variant(), _kv())
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    assert content.count(b"[4, 0, 2, 1, 3]") == 1
    path.write_bytes(content.replace(b"[4, 0, 2, 1, 3]", order))
    assert files.variants() == [] and not path.exists()


def test_file_whose_facts_are_nested_without_end_is_cleared(tmp_path: Path) -> None:
    facts = b"[" * 100_000
    (tmp_path / f"{1:032x}.0.kv").write_bytes(facts + len(facts).to_bytes(4, "little"))
    assert ChunkFiles(tmp_path, NAMESPACE, rank=0).variants() == []
    assert not list(tmp_path.iterdir())


def test_chunks_of_other_models_and_ranks_are_not_ours(tmp_path: Path) -> None:
    files = ChunkFiles(tmp_path, NAMESPACE, rank=0)
    files.write(_variant(), _kv())
    assert ChunkFiles(tmp_path, NAMESPACE, rank=1).variants() == []
    assert ChunkFiles(tmp_path, NAMESPACE, rank=1).read(_variant().key) is None
    assert ChunkFiles(tmp_path, b"m" * 32, rank=0).read(_variant().key) is None


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    files = ChunkFiles(tmp_path / "gone", NAMESPACE, rank=0)
    with pytest.raises(FileNotFoundError):
        files.write(_variant(), _kv())


def test_unfinished_files_and_strangers_are_cleared_when_the_folder_is_read(tmp_path: Path) -> None:
    files = ChunkFiles(tmp_path, NAMESPACE, rank=0)
    for number in (2, 1):
        files.write(_variant(number), _kv())
        os.utime(tmp_path / f"{number:032x}.0.kv", (number, number))
    (tmp_path / f"{3:032x}.0.part").write_bytes(b"half")
    (tmp_path / f"{4:032x}.0.kv").write_bytes(b"no chunk")
    assert [variant.key for variant in files.variants()] == [_variant(1).key, _variant(2).key]
    assert len(list(tmp_path.iterdir())) == 2


def test_step_does_not_wait_until_what_is_written_has_come_from_the_device(tmp_path: Path) -> None:
    has_come = threading.Event()

    class Link:
        def kept_so_far(self) -> object:
            return has_come.wait

        def wait_until_kept(self) -> None:
            assert has_come.is_set(), "the step would wait"

    files = ChunkFiles(tmp_path, NAMESPACE, rank=0)
    mover = ChunkMover()
    mover._link = Link()  # type: ignore[assignment]
    mover._disk = ChunkDisk(files, lambda chunk: chunk)
    mover._chunks[_variant().key] = kv = torch.zeros_like(_kv())
    mover._step = ChunkStep(writes=[_variant()])
    mover.finish()
    kv.copy_(_kv())
    has_come.set()
    mover.close()
    found = files.read(_variant().key)
    assert found is not None and torch.equal(found, _kv())
