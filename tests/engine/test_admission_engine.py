"""The order of admission in a real vLLM: answers are plain vLLM's, and nobody waits for ever."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tiny_engine import BLOCK_BYTES, Ask, TinyEngine, save_model, words

from mygo.vllm_plugin.settings import SCHEDULER, TierSettings, engine_arguments

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("engine_in_process")]

DEVICE_BLOCKS = 24
TIERS = TierSettings(host_bytes=48 * BLOCK_BYTES, admission_window=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="module")
def asks() -> list[Ask]:
    """Prompts of 40 to 400 tokens about few documents, of which the device holds less than half."""
    rng = random.Random(3)
    documents = [words(rng, rng.randrange(30, 130)) for _ in range(12)]
    return [
        Ask((*rng.sample(documents, rng.randrange(1, 4)), words(rng, rng.randrange(5, 30))))
        for _ in range(80)
    ]


@pytest.fixture(scope="module")
def plain(model: Path, asks: list[Ask]) -> dict[Ask, tuple[int, ...]]:
    engine = TinyEngine(model, device_blocks=64, enable_prefix_caching=False)
    answers = {ask: engine.one(ask).ids for ask in asks}
    engine.close()
    return answers


def test_answers_are_plain_vllms_when_requests_overtake_and_leave(
    model: Path, asks: list[Ask], plain: dict[Ask, tuple[int, ...]]
) -> None:
    rng = random.Random(4)
    engine = TinyEngine(model, device_blocks=DEVICE_BLOCKS, **engine_arguments(tiers=TIERS))
    engine.core.scheduler.max_num_active_reqs = 2  # so that there is a queue
    served: dict[str, Any] = {}
    asked: dict[str, Ask] = {}
    admitted: list[str] = []
    for ask in asks * 3:
        asked[engine.add(ask)] = ask
        if rng.random() < 0.15:
            gone = rng.choice(list(asked))
            engine.engine.abort_request([gone])
        while len(engine.core.scheduler.waiting) > 12:
            served |= engine.step()
            running = [request.request_id.split("-")[0] for request in engine.core.scheduler.running]
            admitted += [name for name in running if name not in admitted]
    served |= engine.drain()
    engine.close()
    assert len(served) > len(asked) // 2
    for name, answer in served.items():
        assert answer.ids == plain[asked[name]], name
    arrival = {name: number for number, name in enumerate(asked)}
    assert admitted != sorted(admitted, key=arrival.__getitem__)
    for place, name in enumerate(admitted):
        overtook = sum(arrival[other] > arrival[name] for other in admitted[:place])
        assert overtook <= TIERS.admission_window


def test_order_works_when_multi_connector_has_another_beside_ours(
    model: Path, asks: list[Ask], plain: dict[Ask, tuple[int, ...]], tmp_path: Path
) -> None:
    theirs = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(tmp_path)},
    }
    both = {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "connectors": [engine_arguments(tiers=TIERS)["kv_transfer_config"], theirs]
        },
    }
    engine = TinyEngine(model, device_blocks=40, kv_transfer_config=both, scheduler_cls=SCHEDULER)
    assert type(engine.core.scheduler.waiting).__name__ == "OrderedQueue"
    for ask, answer in zip(asks[:30], engine.serve(asks[:30]), strict=True):
        assert answer.ids == plain[ask]
    engine.close()
