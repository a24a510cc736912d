"""What the connector's two sides tell each other: it crosses processes, and several ranks answer as one."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata

from mygo.blend.variants import Birth, BirthKind, DocumentTag, Variant, VariantKey
from mygo.types import DomainTag
from mygo.vllm_plugin.beside_model import StepMetadata, StepReport
from mygo.vllm_plugin.chunks.disk import ChunkHome, ChunkReport
from mygo.vllm_plugin.chunks.layout import Load
from mygo.vllm_plugin.chunks.step import Capture, ChunkStep

KEY = VariantKey("0" * 32)


class Counted(KVConnectorWorkerMetadata):  # type: ignore[misc]
    """Stands for what the tiers report."""

    def __init__(self, ranks: int = 1) -> None:
        self.ranks = ranks

    def aggregate(self, other: KVConnectorWorkerMetadata) -> Counted:
        assert isinstance(other, Counted)
        return Counted(self.ranks + other.ranks)


def test_step_crosses_processes_whole() -> None:
    variant = Variant(KEY, DocumentTag("d"), 5, 50, DomainTag("p"), Birth(BirthKind.FILLER))
    step = ChunkStep(
        positions={"r": np.array([3, 5, 6])},
        loads={"r": [Load(KEY, 0, 3, 7, 2)]},
        captures={"s": [Capture(KEY, 5, 0, 9, 14)]},
        dropped=[KEY],
        forget=True,
        home=ChunkHome(Path("/kv"), b"n" * 32),
        reads=[KEY],
        writes=[variant],
    )
    found = pickle.loads(pickle.dumps(StepMetadata(KVConnectorMetadata(), step)))
    assert isinstance(found, StepMetadata)
    assert found.chunks.positions["r"].tolist() == [3, 5, 6]
    for name in ("loads", "captures", "dropped", "forget", "home", "reads", "writes"):
        assert getattr(found.chunks, name) == getattr(step, name)


def test_reports_of_several_ranks_are_one() -> None:
    other = VariantKey("1" * 32)
    ours = StepReport(Counted(), ChunkReport(read=Counter([KEY]), lost={other}))
    theirs = StepReport(None, ChunkReport(read=Counter([KEY]), missing={KEY}))
    both = pickle.loads(pickle.dumps(ours)).aggregate(theirs)
    assert both.chunks.read == {KEY: 2}
    assert both.chunks.lost == {other} and both.chunks.missing == {KEY}
    assert both.tiers.ranks == 1
    assert theirs.aggregate(ours).tiers.ranks == 1
    assert ours.aggregate(StepReport(Counted(2))).tiers.ranks == 3
    assert StepReport(None).aggregate(StepReport(None)).tiers is None
    assert not ChunkReport() and ours.chunks
