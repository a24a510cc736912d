"""The tiers in a real vLLM: exact under constant eviction, whatever is lost, and nobody else's.

The model is tiny and its weights are random, so thousands of requests are served in seconds; every answer
is compared with that of plain vLLM without any cache.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_engine import BLOCK_BYTES, BLOCK_TOKENS, Ask, TinyEngine, save_model, words

from mygo.vllm_plugin.settings import TierSettings, engine_arguments

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("engine_in_process")]

DEVICE_BLOCKS = 24
HOST_BYTES = 48 * BLOCK_BYTES
DISK_BYTES = 160 * BLOCK_BYTES
SALTS = ("public", "tenant-a", "tenant-b")
MakeEngine = Callable[[TierSettings], TinyEngine]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="module")
def asks() -> list[Ask]:
    """Requests about shared documents, most of them about few; longer together than all tiers."""
    rng = random.Random(7)
    system = words(rng, 45)
    documents = [words(rng, rng.randrange(25, 130)) for _ in range(40)]
    weights = [1 / (rank + 1) for rank in range(len(documents))]
    return [
        Ask(
            (system, *rng.choices(documents, weights, k=3), words(rng, rng.randrange(3, 40))),
            rng.choice(SALTS),
        )
        for _ in range(120)
    ]


@pytest.fixture(scope="module")
def plain(model: Path, asks: list[Ask]) -> dict[Ask, tuple[int, ...]]:
    """What vLLM without any cache answers."""
    engine = TinyEngine(model, device_blocks=64, enable_prefix_caching=False)
    answers = {ask: engine.one(ask).ids for ask in asks}
    engine.close()
    return answers


@pytest.fixture
def make(model: Path) -> Iterator[MakeEngine]:
    engines: list[TinyEngine] = []

    def make(tiers: TierSettings) -> TinyEngine:
        engine = TinyEngine(model, device_blocks=DEVICE_BLOCKS, **engine_arguments(tiers=tiers))
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


@pytest.mark.parametrize(
    "tiers",
    [
        pytest.param(TierSettings(host_bytes=HOST_BYTES), id="host"),
        pytest.param(TierSettings(host_bytes=HOST_BYTES, load_gate=False, layerwise=False), id="before"),
        pytest.param(
            TierSettings(host_bytes=HOST_BYTES, device_policy="pgdsf", load_gate=False), id="device"
        ),
        pytest.param(TierSettings(host_bytes=HOST_BYTES, disk_bytes=DISK_BYTES, load_gate=False), id="disk"),
        pytest.param(
            TierSettings(
                host_bytes=HOST_BYTES,
                disk_bytes=DISK_BYTES,
                load_gate=False,
                layerwise=False,
                device_policy="s3fifo",
                disk_read_s_per_byte=2e-8,
            ),
            id="slow-disk",
        ),
    ],
)
def test_answers_are_plain_vllms_when_everything_is_evicted_all_the_time(
    tiers: TierSettings,
    make: MakeEngine,
    asks: list[Ask],
    plain: dict[Ask, tuple[int, ...]],
    tmp_path: Path,
) -> None:
    if tiers.disk_bytes:
        tiers = replace(tiers, disk_path=str(tmp_path / "kv"))
    engine = make(tiers)
    rng = random.Random(11)
    cached_tokens = 0
    served = 0
    while served < 500:
        batch = rng.choices(asks, k=rng.randrange(1, 14))
        ids = {engine.add(ask): ask for ask in batch}
        for request_id in rng.sample(sorted(ids), k=len(ids) // 6):
            for _ in range(rng.randrange(3)):
                engine.step()
            engine.engine.abort_request([request_id])
        for request_id, answer in engine.drain().items():
            assert answer.ids == plain[ids[request_id]], (served, request_id)
            cached_tokens += answer.cached_tokens
            served += 1
        if rng.random() < 0.03:
            engine.reset()
    assert cached_tokens > 100 * BLOCK_TOKENS


def test_what_left_the_device_comes_from_host_memory(make: MakeEngine, asks: list[Ask]) -> None:
    engine = make(TierSettings(host_bytes=HOST_BYTES, load_gate=False))
    ask = asks[0]
    cold = engine.one(ask)
    engine.settle()
    engine.reset()
    assert engine.one(ask).cached_tokens == (len(ask.ids) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    assert cold.cached_tokens == 0


def test_another_tenant_hits_nothing_in_any_tier(make: MakeEngine, asks: list[Ask], tmp_path: Path) -> None:
    engine = make(
        TierSettings(host_bytes=HOST_BYTES, disk_path=str(tmp_path), disk_bytes=DISK_BYTES, load_gate=False)
    )
    mine = Ask(asks[0].documents, "tenant-a")
    theirs = Ask(asks[0].documents, "tenant-b")
    engine.one(mine)
    engine.settle()
    engine.reset()
    assert engine.one(theirs).cached_tokens == 0
    assert engine.one(mine).cached_tokens > 0


def test_disk_outlives_the_engine_and_answers_stay_exact(
    make: MakeEngine, asks: list[Ask], plain: dict[Ask, tuple[int, ...]], tmp_path: Path
) -> None:
    tiers = TierSettings(host_bytes=HOST_BYTES, disk_path=str(tmp_path), disk_bytes=2**26, load_gate=False)
    first = make(tiers)
    first.find_disk(beside=asks[-1])
    some = asks[:12]
    for ask in some:
        first.one(ask)
        first.settle()  # a drive that falls behind by half of host memory drops writes
    first.close()
    second = make(tiers)
    second.find_disk(beside=asks[-1])
    for ask in some:
        answer = second.one(ask)
        assert answer.ids == plain[ask]
        assert answer.cached_tokens == _usable_tokens(ask)


def test_disk_has_what_host_memory_held_when_the_engine_ends(
    make: MakeEngine, asks: list[Ask], plain: dict[Ask, tuple[int, ...]], tmp_path: Path
) -> None:
    tiers = TierSettings(
        host_bytes=HOST_BYTES, disk_path=str(tmp_path), disk_bytes=2 * HOST_BYTES, load_gate=False
    )
    first = make(tiers)
    first.find_disk(beside=asks[-1])
    for ask in asks[:40]:  # more than both hold: the disk gives up copies of what host memory has
        first.one(ask)
        first.settle()
    offload = first.tiers._offload
    held = offload._host.idle()
    lacking = [key for key in held if not offload._disk.store.holds(key)]
    assert lacking
    first.close()
    second = make(tiers)
    second.find_disk(beside=asks[-1])
    store = second.tiers._offload._disk.store
    # parts of documents may have had to go, and for the request beside
    assert sum(map(store.holds, held)) > 0.75 * len(held)
    assert sum(map(store.holds, lacking)) > 0.75 * len(lacking)
    for ask in asks[:40]:
        assert second.one(ask).ids == plain[ask]


def _usable_tokens(ask: Ask) -> int:
    return (len(ask.ids) - 1) // BLOCK_TOKENS * BLOCK_TOKENS


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete", "forbid"])
def test_damaged_files_are_misses_and_never_answers(
    harm: str, make: MakeEngine, asks: list[Ask], plain: dict[Ask, tuple[int, ...]], tmp_path: Path
) -> None:
    engine = make(
        TierSettings(host_bytes=8 * BLOCK_BYTES, disk_path=str(tmp_path), disk_bytes=2**26, load_gate=False)
    )
    some = asks[:20]
    for ask in some:
        engine.one(ask)
    engine.settle()
    rng = random.Random(3)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > BLOCK_BYTES]
    assert files
    for path in rng.sample(files, len(files) // 2):
        size = path.stat().st_size
        if harm == "truncate":
            os.truncate(path, rng.randrange(size))
        elif harm == "flip":
            with path.open("r+b") as file:
                file.seek(rng.randrange(size - 64))
                file.write(bytes(64))
        elif harm == "delete":
            path.unlink()
        else:
            path.chmod(0)
    engine.reset()
    for ask in some:
        assert engine.one(ask).ids == plain[ask]


def test_gate_computes_what_a_slow_link_would_load_later(make: MakeEngine, asks: list[Ask]) -> None:
    engine = make(TierSettings(host_bytes=HOST_BYTES))
    for ask in asks[:40]:  # the engine learns what computing costs
        engine.one(ask)
    speed = engine.tiers.host_speed
    engine.settle()
    engine.reset()
    speed.observe(2**40, 2.0**20)  # a MiB takes a second
    assert engine.one(asks[39]).cached_tokens == 0
    engine.settle()
    engine.reset()
    speed.observe(2**60, 1.0)
    assert engine.one(asks[39]).cached_tokens > 0


def _serves_like_plain(model: Path, asks: list[Ask], tiers: TierSettings, **arguments: Any) -> int:
    """Serve each request twice, the second time with an empty device; returns cached tokens of those."""
    transfer = arguments.pop("kv_transfer_config", engine_arguments(tiers=tiers)["kv_transfer_config"])
    plain = TinyEngine(model, device_blocks=64, enable_prefix_caching=False, **arguments)
    answers = {ask: plain.one(ask).ids for ask in asks}
    plain.close()
    engine = TinyEngine(model, device_blocks=40, kv_transfer_config=transfer, **arguments)
    cached_tokens = 0
    for _ in range(2):
        cached_tokens = 0
        for ask, answer in zip(asks, engine.serve(asks), strict=True):
            assert answer.ids == answers[ask]
            cached_tokens += answer.cached_tokens
        engine.settle()
        engine.reset()
    engine.close()
    return cached_tokens


def _roomy(folder: Path) -> TierSettings:
    return TierSettings(
        host_bytes=400 * BLOCK_BYTES, disk_path=str(folder), disk_bytes=2**27, load_gate=False
    )


def test_hybrid_model_keeps_its_answers_when_its_windows_come_from_slower_tiers(
    asks: list[Ask], tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model", hybrid=True)
    tiers = replace(_roomy(tmp_path / "kv"), device_policy="pgdsf")
    assert _serves_like_plain(model, asks[:30], tiers) > 0


def test_fp8_kv_keeps_its_answers_when_it_comes_from_slower_tiers(
    model: Path, asks: list[Ask], tmp_path: Path
) -> None:
    assert _serves_like_plain(model, asks[:30], _roomy(tmp_path), kv_cache_dtype="fp8") > 0


def test_another_connector_works_beside_ours_when_multi_connector_has_both(
    model: Path, asks: list[Ask], tmp_path: Path
) -> None:
    ours = engine_arguments(tiers=_roomy(tmp_path / "kv"))["kv_transfer_config"]
    theirs = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(tmp_path / "shared")},
    }
    both = {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": [ours, theirs]},
    }
    assert _serves_like_plain(model, asks[:30], TierSettings(), kv_transfer_config=both) > 0


def test_stock_vllm_has_the_tiers_when_only_its_transfer_config_names_them(
    model: Path, asks: list[Ask]
) -> None:
    """No segment maps, no events, vLLM's own hash: what ``vllm serve --kv-transfer-config`` gives."""
    stock = {
        "kv_connector": "MygoConnector",
        "kv_connector_module_path": "mygo.vllm_plugin.connector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"tiers": {"host_bytes": 400 * BLOCK_BYTES, "load_gate": False}},
    }
    unmapped = [replace(ask, has_map=False) for ask in asks[:30]]
    assert _serves_like_plain(model, unmapped, TierSettings(), kv_transfer_config=stock) > 0
