"""Host memory and a full disk together: real files, vLLM's tiering manager, our policies and demotion."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest
from shelf_model import knowledge_tree
from test_disk_tier import CHUNK_BYTES, HOST_CHUNKS, Host, content, key, offloading_config

from mygo.tree.exits import Mirrors
from mygo.tree.policies import make
from mygo.tree.shelf import Shelf
from mygo.types import Tier
from mygo.vllm_plugin.disk.files import ChunkFiles
from mygo.vllm_plugin.disk.format import HEADER_BYTES
from mygo.vllm_plugin.tiers.demotion import Demotion
from mygo.vllm_plugin.tiers.disk_order import DiskOrder
from mygo.vllm_plugin.tiers.host_policy import TreeCachePolicy

DISK_CHUNKS = 16


class Tiered:
    """A host memory of HOST_CHUNKS above a disk of DISK_CHUNKS; documents of one block."""

    def __init__(self, folder: Path, policy: str, *, exclusive: bool) -> None:
        model = folder / "model"
        if not model.exists():  # the weights are known by their file's time
            model.mkdir()
            (model / "model.safetensors").write_bytes(b"weights")
        max_bytes = DISK_CHUNKS * (CHUNK_BYTES + HEADER_BYTES)
        config = offloading_config(str(model))
        self.host = Host(config, root_dir=str(folder / "kv"), max_bytes=max_bytes)
        self.tree = knowledge_tree()
        mirrors = Mirrors(Tier.HOST, 4 * HOST_CHUNKS // 4, come_back=True) if exclusive else None
        self.host_shelf = Shelf(self.tree, Tier.HOST, make(policy, self.tree, 4 * HOST_CHUNKS))
        self.disk_shelf = Shelf(
            self.tree, Tier.DISK, make(policy, self.tree, 4 * DISK_CHUNKS), mirrors=mirrors
        )
        self.policy = TreeCachePolicy(HOST_CHUNKS, self.host_shelf)
        self.host.manager.primary_tier._policy = self.policy
        self.order = DiskOrder(self.disk_shelf)
        self.host.tier.store.attach(self.order)
        parts: Any = (self.host.manager, self.policy, self.host.tier)
        self.demotion = Demotion(*parts, HOST_CHUNKS)
        self.served = 0

    def serve(self, number: int) -> bool:
        """Whether a tier had it; if none did, it is computed and stored."""
        self.served += 1
        name, blocks = str(self.served), [bytes(key(number)[:32])]
        self.tree.begin(name, blocks)
        (found,) = self.host.load(number)
        assert found in (None, content(number)), "a chunk of other content was loaded"
        self.tree.admitted(name, 4 * (found is not None))
        if found is None:
            self.host.store(number)
        self.tree.finished(name)
        self.demotion.step()
        self.host.settle()
        self.policy.settle()
        self.order.settle()
        return found is not None


@pytest.mark.parametrize("policy", ["forecast", "lru"])
def test_both_hold_more_when_the_disk_gives_up_what_host_memory_holds(tmp_path: Path, policy: str) -> None:
    popular, others = list(range(10)), list(range(10, 26))
    hits: dict[bool, int] = {}
    for exclusive in (False, True):
        folder = tmp_path / str(exclusive)
        folder.mkdir()
        tiered = Tiered(folder, policy, exclusive=exclusive)
        rng = random.Random(0)
        hits[exclusive] = 0
        for turn in range(300):
            number = rng.choice(popular) if turn % 2 else others[turn // 2 % len(others)]
            hits[exclusive] += tiered.serve(number)
        tiered.host.close()
    assert hits[True] >= hits[False] + 20


@pytest.mark.parametrize("seed", range(5))
def test_disk_has_all_that_host_memory_held_when_it_was_flushed(tmp_path: Path, seed: int) -> None:
    tiered = Tiered(tmp_path, "forecast", exclusive=True)
    rng = random.Random(seed)
    for _ in range(200):
        tiered.serve(rng.choice((rng.randrange(6), rng.randrange(30))))
    held = {number for number in range(30) if tiered.policy.holds(key(number))}
    store = tiered.host.tier.store
    assert store is not None and any(not store.holds(key(number)) for number in held)
    tiered.host_shelf.keep_mirrors()
    tiered.disk_shelf.keep_mirrors()
    tiered.demotion.flush()
    assert all(store.holds(key(number)) for number in held)
    tiered.host.close()
    again = Tiered(tmp_path, "forecast", exclusive=True)
    assert all(again.host.load(number) == [content(number)] for number in held)
    again.host.close()


def test_flush_gives_up_when_the_drive_is_too_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiered = Tiered(tmp_path, "forecast", exclusive=False)
    store = tiered.host.tier.store
    assert store is not None
    for number in range(HOST_CHUNKS):
        tiered.serve(number)
    store.purge([key(number) for number in range(HOST_CHUNKS)])
    store.drain()
    drive = threading.Event()
    monkeypatch.setattr(ChunkFiles, "write", lambda *_, **__: drive.wait(10))
    tiered.demotion.flush(within_s=0.05)
    assert not drive.is_set(), "it returned although nothing could be written"
    drive.set()
    tiered.host.close()
