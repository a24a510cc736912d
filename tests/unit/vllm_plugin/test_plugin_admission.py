"""The order of admission in vLLM's real scheduler: warm ones first, nobody starves, the rest as it was."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mygo.errors import ConfigError
from mygo.tree.cost import Step
from mygo.vllm_plugin.settings import SCHEDULER, TierSettings, engine_arguments

STEP_TOKENS = 16  # the scheduler's, see conftest
DOCUMENT = [5, 6, 7, 8] * 10


def _cold(number: int, tokens: int = 40) -> list[int]:
    return [9 + number % 50, *range(1, tokens)]


def _teach(engine: Any) -> None:
    """A token takes a second, by which requests differ more than by when they come; and that is known once
    and for all."""
    cost = engine.connector._tiers.cost
    for tokens in (16, 64, 128, 256) * 20:
        cost.observe(Step.prefill(0, tokens), 1.0 + tokens)
    cost.observe = lambda step, seconds: None
    # what was learned depends on how long this machine took for the steps before
    cost.prefill_s = lambda cached_tokens, new_tokens: 1.0 + new_tokens


@pytest.fixture
def warm_engine(engine_factory: Callable[..., Any]) -> Callable[..., Any]:
    """One request at a time; the device holds DOCUMENT."""

    def build(*, max_running: int = 1, **tiers: Any) -> Any:
        engine = engine_factory(max_running=max_running, tiers=TierSettings(**tiers))
        engine.add("first", DOCUMENT)
        engine.drain()
        _teach(engine)
        return engine

    return build


def _served(engine: Any, limit_steps: int = 500) -> list[str]:
    """In the order in which they were admitted."""
    order: list[str] = []
    for _ in range(limit_steps):
        if not engine.scheduler.has_requests():
            return order
        order += [name for name in engine.step() if name not in order]
    raise AssertionError("requests are left")


@pytest.mark.parametrize("admission", ["due", "ratio"])
def test_warm_request_overtakes_cold_ones_when_they_came_before(
    warm_engine: Callable[..., Any], admission: str
) -> None:
    engine = warm_engine(admission=admission)
    for number in range(3):
        engine.add(f"cold{number}", _cold(number))
    engine.add("warm", [*DOCUMENT, 1])
    assert _served(engine) == ["warm", "cold0", "cold1", "cold2"]


def test_requests_are_served_as_they_came_when_the_window_is_closed(warm_engine: Callable[..., Any]) -> None:
    engine = warm_engine(admission_window=0)
    engine.add("cold", _cold(0))
    engine.add("warm", [*DOCUMENT, 1])
    assert _served(engine) == ["cold", "warm"]


def test_cold_request_is_overtaken_no_more_than_the_window_when_warm_ones_keep_coming(
    warm_engine: Callable[..., Any],
) -> None:
    engine = warm_engine(admission_window=2, admission="ratio")
    engine.add("cold", _cold(0))
    for number in range(5):
        engine.add(f"warm{number}", [*DOCUMENT, number + 1])
    assert _served(engine) == ["warm0", "warm1", "cold", "warm2", "warm3", "warm4"]


def test_request_becomes_warm_while_it_waits_when_another_computes_its_document(
    engine_factory: Callable[..., Any],
) -> None:
    """What a request is worth is asked when it is picked, not when it came."""
    engine = engine_factory(max_running=1)
    _teach(engine)
    for name, token_ids in (("a0", DOCUMENT), ("b0", _cold(1)), ("a1", DOCUMENT), ("b1", _cold(1))):
        engine.add(name, [*token_ids, 1, 2, 3, len(name)])
    assert _served(engine) == ["a0", "a1", "b0", "b1"]


def test_aborted_request_leaves_at_once_when_it_was_the_next(warm_engine: Callable[..., Any]) -> None:
    engine = warm_engine()
    engine.add("cold", _cold(0))
    engine.add("warm", [*DOCUMENT, 1])
    assert engine.scheduler.waiting.peek_request().request_id == "warm"
    engine.abort("warm")
    assert [request.request_id for request in engine.scheduler.waiting] == ["cold"]
    assert _served(engine) == ["cold"]


def test_preempted_request_goes_first_when_warm_ones_wait(warm_engine: Callable[..., Any]) -> None:
    engine = warm_engine()
    engine.add("cold", _cold(0), max_tokens=4)
    engine.step()
    engine.add("warm", [*DOCUMENT, 1])
    assert engine.scheduler.reset_prefix_cache(reset_running_requests=True)
    assert engine.scheduler.waiting.peek_request().request_id == "cold"
    assert _served(engine) == ["cold", "warm"]


def test_held_siblings_keep_their_places_when_the_engine_passes_them_over(
    warm_engine: Callable[..., Any],
) -> None:
    engine = warm_engine(max_running=8)
    for number in range(4):
        engine.add(f"r{number}", [*_cold(0, 60), 1, 2, number])
    engine.step()
    assert [request.request_id for request in engine.scheduler.waiting] == ["r1", "r2", "r3"]
    assert _served(engine)[1:] == ["r1", "r2", "r3"]


def _expected_order(engine: Any) -> list[str]:
    """As look-ahead and prefetch see it."""
    return [name for name, _ in engine.connector._tiers.keeper.tree.waiting]


def test_tree_expects_requests_in_the_order_of_admission_when_the_batch_is_full(
    warm_engine: Callable[..., Any],
) -> None:
    """Scenario: one request runs and nobody else has room, so that vLLM asks the queue for nobody."""
    engine = warm_engine()
    engine.add("running", _cold(9), max_tokens=50)
    for _ in range(3):
        engine.step()
    for number in range(3):
        engine.add(f"cold{number}", _cold(number, 40 - number))
    engine.add("warm", [*DOCUMENT, 1])
    assert _expected_order(engine) == ["cold0", "cold1", "cold2", "warm"]
    engine.step()
    expected = _expected_order(engine)
    assert expected == ["warm", "cold2", "cold1", "cold0"]
    engine.abort("running")
    assert _served(engine) == expected


def test_tree_expects_an_overdue_request_first_when_warm_ones_keep_coming(
    warm_engine: Callable[..., Any],
) -> None:
    engine = warm_engine(admission_window=2, admission="ratio")
    engine.add("cold", _cold(0), max_tokens=2)
    for number in range(4):
        engine.add(f"warm{number}", [*DOCUMENT, number + 1])
    assert list(engine.step()) == ["warm0"]
    assert _expected_order(engine) == ["warm1", "warm2", "cold", "warm3"]
    assert list(engine.step()) == ["warm1"]
    assert _expected_order(engine) == ["cold", "warm2", "warm3"]


def test_priorities_rule_alone_when_the_engine_has_them(
    engine_factory: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="mygo.vllm_plugin.admission"):
        engine = engine_factory(max_running=1, scheduling_policy="priority")
    assert "by their priorities alone" in caplog.text
    engine.add("first", DOCUMENT, priority=1)
    engine.step()
    engine.add("late", _cold(0), priority=1)
    engine.add("urgent", _cold(1), priority=0)
    assert _served(engine) == ["first", "urgent", "late"]


def test_scheduler_refuses_an_engine_without_our_connector() -> None:
    from mygo.vllm_plugin.admission import _ours

    with pytest.raises(ConfigError, match=r"connector is NoneType.*leave scheduler_cls out"):
        _ours(None)
    with pytest.raises(ConfigError, match="SimpleNamespace"):
        _ours(SimpleNamespace(sub_connectors=[object()]))


def test_engine_arguments_name_the_scheduler_only_when_it_has_something_to_do() -> None:
    assert engine_arguments()["scheduler_cls"] == SCHEDULER
    idle = TierSettings(admission_window=0, protect_short=False)
    assert "scheduler_cls" not in engine_arguments(tiers=idle)
    with pytest.raises(ConfigError, match=r"tiers\.admission: must be one of due, ratio, not 'fcfs'"):
        TierSettings.parse({"admission": "fcfs"}, "tiers")


@settings(max_examples=40, deadline=None)
@given(
    events=st.lists(
        st.tuples(st.sampled_from(["add", "add", "step", "abort"]), st.integers(0, 5), st.integers(1, 30)),
        max_size=60,
    ),
    window=st.sampled_from([1, 3, 32]),
)
def test_everybody_is_served_or_aborted_when_memory_is_short(
    engine_factory: Callable[..., Any], events: list[tuple[str, int, int]], window: int
) -> None:
    """Scenario: prompts of three documents and preemptions, since hardly two fit the device."""
    engine = engine_factory(blocks=26, max_running=4, tiers=TierSettings(admission_window=window))
    _teach(engine)
    added = 0
    for what, choice, size in events:
        match what:
            case "add":
                engine.add(f"r{added}", [*_cold(choice % 3, 30), *range(1, size)], max_tokens=1 + size % 9)
                added += 1
            case "step":
                engine.step()
            case "abort" if added:
                engine.abort(f"r{choice * size % added}")
        assert len(engine.scheduler.waiting) == len(list(engine.scheduler.waiting))
    engine.drain()
    assert not engine.scheduler.waiting and not engine.scheduler.requests
    assert not engine.connector._tiers._appraiser._came_s


# --- long prompts beside short ones ----------------------------------------------------------------


@pytest.mark.parametrize("protects", [True, False])
def test_short_prompt_is_computed_in_a_small_step_when_it_comes_beside_a_long_one(
    warm_engine: Callable[..., Any], protects: bool
) -> None:
    engine = warm_engine(max_running=8, protect_short=protects)
    engine.add("long", _cold(0, 200))
    engine.step()
    engine.add("warm", [*DOCUMENT, 1, 2, 3, 4])
    step = engine.step()
    # the scheduler leaves a long prompt 14 of 16 tokens by itself
    assert step == ({"long": 4, "warm": 4} if protects else {"long": 14, "warm": 2})


def test_long_prompt_gets_every_second_step_whole_when_short_ones_keep_coming(
    warm_engine: Callable[..., Any],
) -> None:
    engine = warm_engine(max_running=8)
    engine.add("long", _cold(0, 240))
    engine.step()
    shares = []
    for number in range(6):
        engine.add(f"warm{number}", [*DOCUMENT, 1, 2, 3 + number])
        shares.append(engine.step()["long"])
    assert shares == [3, 14, 2, 14, 2, 14]  # the least is an eighth of a step


def test_long_prompt_is_not_cut_when_nobody_short_is_there(warm_engine: Callable[..., Any]) -> None:
    engine = warm_engine(max_running=8)
    engine.add("long", _cold(0, 100))
    engine.add("other", _cold(1, 100))
    assert engine.step() == {"long": 14, "other": 2}
    assert engine.step() == {"long": 14, "other": 2}


def test_long_prompt_is_not_cut_when_the_engine_bounds_no_prompts(
    engine_factory: Callable[..., Any],
) -> None:
    engine = engine_factory(max_running=8, long_prefill_token_threshold=0)
    engine.add("long", _cold(0, 100))
    engine.step()
    engine.add("short", [3, 2, 1])
    assert engine.step() == {"long": 16}


def test_scheduler_has_what_the_order_uses_when_vllm_is_the_tested_one() -> None:
    from vllm.v1.core.sched.request_queue import RequestQueue
    from vllm.v1.core.sched.scheduler import Scheduler

    from mygo.vllm_plugin.admission import OrderedQueue

    assert list(inspect.signature(Scheduler.schedule).parameters) == ["self", "throttle_prefills"]
    assert not OrderedQueue.__abstractmethods__
    for name in RequestQueue.__abstractmethods__:
        ours, theirs = getattr(OrderedQueue, name), getattr(RequestQueue, name)
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name
    source = inspect.getsource(Scheduler.schedule)
    assert "token_budget = self.max_num_scheduled_tokens" in source
    assert "self.scheduler_config.long_prefill_token_threshold" in source
    # whom a pass takes out and does not admit, it gives back at its end
    assert "self.waiting.prepend_requests(step_skipped_waiting)" in source
    assert source.count("pop_request()") == 2
    assert "self._inflight_prefills.add(request)" in source
    assert "self.waiting.prepend_request(request)" in inspect.getsource(Scheduler._preempt_request)
