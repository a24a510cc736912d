"""The disk tier behind vLLM's own tiering manager, host memory and factory; no engine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mygo.errors import ConfigError
from mygo.vllm_plugin.disk.files import ChunkFiles, ReadOutcome
from mygo.vllm_plugin.disk.format import ChunkKey

CHUNK_BYTES = 8192
HOST_CHUNKS = 16


def key(number: int) -> Any:
    from vllm.v1.kv_offload.base import make_offload_key

    return make_offload_key(hashlib.sha256(str(number).encode()).digest(), 0)


def content(number: int) -> bytes:
    return hashlib.sha256(f"KV {number}".encode()).digest() * (CHUNK_BYTES // 32)


def offloading_config(name: str, **changes: Any) -> Any:
    from vllm.v1.kv_offload import config

    return dataclasses.replace(
        config.OffloadingConfig(
            groups=(config.OffloadingGroupConfig(16, ("layer.0", "layer.1"), 0),),
            worker_kv_bytes_per_block=CHUNK_BYTES,
            enable_kv_cache_events=True,
            extra_config={},
            engine_id=uuid.uuid4().hex,
            model=config.OffloadingModelConfig(name, "bfloat16"),
            cache=config.OffloadingCacheConfig(16, 1),
            parallel=config.OffloadingParallelConfig(0, 1, 1, 1, 1, 1, 0, 1, None, False),
        ),
        **changes,
    )


class Host:
    """vLLM's tiering manager over a real shared region of HOST_CHUNKS chunks, with our tier below."""

    def __init__(self, config: Any, **options: Any) -> None:
        from vllm.v1.kv_offload.base import OffloadingKVEventsConfig
        from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
        from vllm.v1.kv_offload.tiering import manager
        from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

        self.region = SharedOffloadRegion(uuid.uuid4().hex, HOST_CHUNKS, None, CHUNK_BYTES, CHUNK_BYTES)
        primary = manager.CPUPrimaryTierOffloadingManager(HOST_CHUNKS, self.region)
        spec = SimpleNamespace(config=config, kv_events_config=OffloadingKVEventsConfig(True, False))
        where = {"type": "DiskTier", "module_path": "mygo.vllm_plugin.disk.tier"}
        self.rows = primary.get_kv_memoryview().cast("B")
        self.tier = SecondaryTierFactory.create_secondary_tier(
            {**where, "min_free_bytes": 0, **options}, primary.get_kv_memoryview(), spec
        )
        self.manager = manager.TieringOffloadingManager(primary, [self.tier])
        self._requests = 0
        while self.tier.store is not None and "scanning" in repr(self.tier):
            self.step()

    def close(self) -> None:
        self.rows.release()
        self.manager.shutdown()

    def request(self) -> Any:
        from vllm.v1.kv_offload.base import ReqContext

        self._requests += 1
        context = ReqContext(str(self._requests))
        self.manager.on_new_request(context)
        return context

    def step(self) -> None:
        from vllm.v1.kv_offload.base import ScheduleEndContext

        self.manager.on_schedule_end(ScheduleEndContext((), ()))

    def settle(self) -> None:
        until_s = time.monotonic() + 10
        self.step()
        while self.manager.has_pending_work():
            assert time.monotonic() < until_s
            time.sleep(0.001)
            self.step()

    def store(self, *numbers: int) -> None:
        """As a request that computed these chunks, one job for all."""
        context = self.request()
        output = self.manager.prepare_store([key(number) for number in numbers], context)
        assert output is not None
        by_key = {key(number): number for number in numbers}
        for stored, chunk in zip(output.keys_to_store, output.store_spec.chunk_ids, strict=True):
            self.rows[int(chunk) * CHUNK_BYTES : (int(chunk) + 1) * CHUNK_BYTES] = content(by_key[stored])
        self.manager.complete_store(output.keys_to_store, context)
        self.manager.on_request_finished(context)

    def load(self, *numbers: int) -> list[bytes | None]:
        """As a request that asks for these chunks until each is a hit or a miss; what it would be given."""
        from vllm.v1.kv_offload.base import LookupResult

        context = self.request()
        answers = [self.manager.lookup(key(number), context) for number in numbers]
        self.settle()
        answers = [
            answer if answer is LookupResult.MISS else self.manager.lookup(key(number), context)
            for number, answer in zip(numbers, answers, strict=True)
        ]
        found: list[bytes | None] = []
        for number, answer in zip(numbers, answers, strict=True):
            if answer is not LookupResult.HIT:
                found.append(None)
                continue
            (chunk,) = self.manager.prepare_load([key(number)], context).chunk_ids
            found.append(bytes(self.rows[int(chunk) * CHUNK_BYTES : (int(chunk) + 1) * CHUNK_BYTES]))
            self.manager.complete_load([key(number)], context)
        self.settle()
        self.manager.on_request_finished(context)
        return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def open_host(tmp_path: Path, model: Path) -> Iterator[Callable[..., Host]]:
    opened: list[Host] = []

    def build(config: Any = None, **options: Any) -> Host:
        settings = {"root_dir": str(tmp_path / "kv"), "max_bytes": 2**20, **options}
        host = Host(config or offloading_config(str(model)), **settings)
        opened.append(host)
        return host

    yield build
    for host in opened:
        if host.tier.store is not None:
            host.close()


def files_of(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "kv").rglob("*.kv"))


def test_chunks_come_back_after_a_restart(open_host: Callable[..., Host]) -> None:
    host = open_host()
    host.store(1, 2, 3)
    host.settle()
    host.close()
    again = open_host()
    assert again.load(1, 2, 3, 4) == [content(1), content(2), content(3), None]
    assert again.tier.store.stats.read_chunks == 3


def test_chunks_come_back_when_host_memory_gave_them_up(open_host: Callable[..., Host]) -> None:
    host = open_host()
    for number in range(20):
        host.store(number)
        host.settle()
    assert host.load(0, 1, 2, 3) == [content(number) for number in range(4)]


def test_load_source_of_promoted_chunks_is_disk(open_host: Callable[..., Host]) -> None:
    from vllm.v1.metrics.cache_hit_source import CacheHitSource

    host = open_host()
    host.store(1)
    host.settle()
    host.close()
    again = open_host()
    context = again.request()
    again.manager.lookup(key(1), context)
    again.settle()
    assert again.manager.get_load_source(key(1), context) is CacheHitSource.DISK


def test_only_damaged_chunks_of_a_request_are_misses(open_host: Callable[..., Host], tmp_path: Path) -> None:
    host = open_host()
    host.store(1, 2, 3, 4)
    host.settle()
    host.close()
    damaged, lost = (next((tmp_path / "kv").rglob(f"{key(number).hex()}.kv")) for number in (2, 3))
    changed = bytearray(damaged.read_bytes())
    changed[5000] ^= 1
    damaged.write_bytes(changed)
    again = open_host()
    lost.unlink()
    assert again.load(1, 2, 3, 4) == [content(1), None, None, content(4)]
    assert not damaged.exists()
    again.store(2, 3)  # as they are recomputed
    again.settle()
    assert len(files_of(tmp_path)) == 4


def test_bytes_on_disk_never_exceed_the_bound(open_host: Callable[..., Host], tmp_path: Path) -> None:
    host = open_host(max_bytes=5 * (CHUNK_BYTES + 4096) + 100)
    for number in range(30):
        host.store(number)
        host.settle()
        assert sum(path.stat().st_size for path in files_of(tmp_path)) <= 5 * (CHUNK_BYTES + 4096)
    assert host.tier.store.stats.evicted_chunks == 25


def test_events_tell_what_came_and_went(open_host: Callable[..., Host]) -> None:
    from vllm.v1.kv_offload.base import Locality, Medium

    host = open_host(max_bytes=2 * (CHUNK_BYTES + 4096), enable_kv_events=True)
    for number in (1, 2, 3):
        host.store(number)
        host.settle()
    events = [(event.keys, event.removed) for event in host.tier.take_events()]
    assert events == [([key(1), key(2)], False), ([key(1)], True), ([key(3)], False)]
    host.tier.store.purge([key(2)])
    (event,) = host.tier.take_events()
    assert (event.keys, event.removed, event.medium, event.locality) == (
        [key(2)],
        True,
        Medium.STORAGE,
        Locality.LOCAL,
    )


def test_purged_chunk_is_a_miss_though_its_promotion_is_under_way(open_host: Callable[..., Host]) -> None:
    from vllm.v1.kv_offload.base import LookupResult

    host = open_host()
    host.store(1, 2)
    host.settle()
    host.close()
    again = open_host(read_s_per_byte=0.05 / CHUNK_BYTES)
    context = again.request()
    assert again.manager.lookup(key(1), context) is LookupResult.HIT_PENDING
    assert again.manager.lookup(key(2), context) is LookupResult.HIT_PENDING
    again.step()
    again.tier.store.purge([key(1)])
    again.settle()
    assert again.manager.lookup(key(1), context) is LookupResult.MISS
    assert again.manager.lookup(key(2), context) is LookupResult.HIT


def test_reads_of_an_earlier_deadline_overtake(
    open_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario: both threads are busy when two reads with deadlines come, and one is free first."""
    from mygo.vllm_plugin.disk.tier import ReadDeadline

    host = open_host()
    host.store(0, 1, 2, 3)
    host.settle()
    host.close()
    again = open_host(n_read_threads=1, n_write_threads=1)
    gates = {key(0): threading.Event(), key(1): threading.Event()}
    begun: list[bytes] = []
    has_begun = threading.Semaphore(0)
    read = ChunkFiles.read

    def gated(files: ChunkFiles, chunk: bytes, into: memoryview) -> Any:
        begun.append(chunk)
        has_begun.release()
        assert chunk not in gates or gates[chunk].wait(10)
        return read(files, chunk, into)

    monkeypatch.setattr(ChunkFiles, "read", gated)
    for number, deadline_s in enumerate((None, None, 20.0, 10.0)):
        context = again.request()
        if deadline_s is not None:
            context.set_state(ReadDeadline(deadline_s))
        again.manager.lookup(key(number), context)
        again.step()
        assert deadline_s is not None or has_begun.acquire(timeout=10)
    gates[key(1)].set()
    assert has_begun.acquire(timeout=10) and has_begun.acquire(timeout=10)
    assert begun == [key(0), key(1), key(3), key(2)]
    gates[key(0)].set()
    again.settle()


def test_reset_cache_waits_for_the_drive_and_keeps_the_files(open_host: Callable[..., Host]) -> None:
    host = open_host(read_s_per_byte=0.02 / CHUNK_BYTES)
    host.store(1, 2)
    host.manager.reset_cache()
    assert host.load(1, 2) == [content(1), content(2)]
    assert host.tier.store.stats.read_chunks == 2


def test_no_call_waits_for_the_drive(open_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    gate, ended = threading.Event(), threading.Event()
    read = ChunkFiles.read

    def stand_still(files: ChunkFiles, chunk: ChunkKey, into: memoryview) -> ReadOutcome:
        gate.wait(60)
        ended.set()
        return read(files, chunk, into)

    host = open_host()
    host.store(1)
    host.manager.reset_cache()
    monkeypatch.setattr(ChunkFiles, "read", stand_still)
    context = host.request()
    host.manager.lookup(key(1), context)
    host.step()
    host.store(2)
    host.step()
    assert not ended.is_set()
    gate.set()
    host.settle()
    assert ended.is_set()


def test_short_block_hashes_are_never_stored(open_host: Callable[..., Host], tmp_path: Path) -> None:
    from vllm.v1.kv_offload.base import LookupResult, make_offload_key
    from vllm.v1.kv_offload.tiering.base import TransferJob

    host = open_host()
    context = host.request()
    short = make_offload_key(b"x" * 16, 0)
    host.tier.submit_store(TransferJob(1_000_000, [short], [0], False, context))
    (result,) = host.tier.get_finished_jobs()
    assert not result.success
    assert host.tier.lookup(short, context) is LookupResult.MISS
    assert not files_of(tmp_path)


# -- which KV is comparable


@pytest.mark.parametrize(
    "change",
    ["model", "kv_dtype", "group", "chunk", "parallel", "layout", "weights", "identity", "hash_seed", "vllm"],
)
def test_chunks_of_another_identity_are_misses(
    open_host: Callable[..., Host],
    model: Path,
    tmp_path: Path,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mygo.vllm_plugin.disk import namespace

    host = open_host()
    host.store(1)
    host.settle()
    host.close()
    config, options = offloading_config(str(model)), {}
    match change:
        case "model":
            (tmp_path / "other").mkdir()
            (tmp_path / "other" / "model.safetensors").write_bytes(b"weights")
            config = offloading_config(str(tmp_path / "other"))
        case "kv_dtype":
            config = offloading_config(str(model), model=dataclasses.replace(config.model, dtype="fp8_e4m3"))
        case "group":
            groups = (dataclasses.replace(config.groups[0], tokens_per_block=32),)
            config = offloading_config(str(model), groups=groups)
        case "chunk":
            config = offloading_config(
                str(model), cache=dataclasses.replace(config.cache, blocks_per_chunk=2)
            )
        case "parallel":
            config = offloading_config(
                str(model), parallel=dataclasses.replace(config.parallel, tp_size=2, world_size=2)
            )
        case "layout":
            config = offloading_config(str(model), kv_cache_layout="HND")
        case "weights":
            (model / "model.safetensors").write_bytes(b"WEIGHTS")
        case "identity":
            options = {"identity": {"compute_dtype": "float16"}}
        case "hash_seed":
            monkeypatch.setenv("PYTHONHASHSEED", "17")
        case "vllm":
            monkeypatch.setattr(namespace, "vllm_version", "0.33.0")
    again = open_host(config, **options)
    assert again.load(1) == [None]
    again.close()
    monkeypatch.undo()
    if change != "weights":
        assert open_host().load(1) == [content(1)]


def test_engines_of_one_identity_have_a_folder_each_and_take_them_up_again(
    open_host: Callable[..., Host], tmp_path: Path
) -> None:
    first, second = open_host(), open_host()
    first.store(1)
    second.store(2)
    first.settle()
    second.settle()
    assert second.load(1) == [None]
    first.close()
    second.close()
    again = open_host()
    assert again.load(1, 2) == [content(1), None]
    assert open_host().load(1, 2) == [None, content(2)]
    homes = list((tmp_path / "kv").iterdir())
    assert len(homes) == 1
    assert homes[0].stat().st_mode & 0o777 == 0o700
    assert json.loads((homes[0] / "identity.json").read_text())["chunk_bytes"] == CHUNK_BYTES


def test_model_without_a_known_revision_is_refused(open_host: Callable[..., Host]) -> None:
    config = offloading_config("some/model")
    with pytest.raises(ConfigError, match=r"some/model.*identity.*weights"):
        open_host(config)
    assert open_host(config, identity={"weights": "0123abc"}).load(1) == [None]


@pytest.mark.parametrize(
    ("option", "value"), [("max_bytes", 100), ("n_read_threads", 0), ("read_s_per_byte", -1.0)]
)
def test_option_that_cannot_work_is_named(open_host: Callable[..., Host], option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{option}: .*{value}"):
        open_host(**{option: value})


def test_unusable_root_dir_is_no_tier_and_no_error(
    open_host: Callable[..., Host], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    host = open_host(root_dir=str(tmp_path / "file" / "kv"))
    host.store(1)
    host.settle()
    assert host.load(1, 2) == [content(1), None]
    assert host.tier.store is None
    assert "off until restart" in caplog.text
    host.close()


def test_folder_deleted_under_a_running_engine_is_misses_and_then_refilled(
    open_host: Callable[..., Host], tmp_path: Path
) -> None:
    import shutil

    host = open_host()
    host.store(1, 2)
    host.settle()
    shutil.rmtree(tmp_path / "kv")
    host.manager.reset_cache()
    assert host.load(1, 2) == [None, None]
    host.store(1, 2)
    host.manager.reset_cache()
    assert host.load(1, 2) == [content(1), content(2)]
