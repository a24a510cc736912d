"""vLLM's scheduler with our order of admission: the one place that replaces its waiting queue.

An engine takes it by its ``scheduler_cls`` argument, which is vLLM's own way to bring another scheduler;
without that, requests are admitted first come, first served, and the rest of the plugin works the same.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from itertools import islice
from math import inf
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import RequestQueue, SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from mygo.errors import ConfigError
from mygo.tree.admission import ORDERS, AdmissionOrder
from mygo.vllm_plugin.connector import MygoConnector
from mygo.vllm_plugin.settings import SCHEDULER

logger = logging.getLogger(__name__)

LONG_FACTOR = 4
"""A prefill is long beside one that has at most this part of its tokens to compute."""
LEAST_SHARE = 8
"""A long prefill that is cut for a short one still gets this part of a step."""

REAPPRAISED_PER_STEP = 8
"""Of those who may go next, so many that were appraised longest ago are appraised anew in each step: all of
them would take a fifth of a millisecond."""


class OrderedQueue(RequestQueue):  # type: ignore[misc]
    """Takes the place of ``Scheduler.waiting``: whoever was admitted once goes first, as in vLLM, then those
    who are worth most.

    Within a scheduling pass, vLLM takes requests out that it then passes over, and gives them back at its
    end; ``settle`` must be called after that.
    """

    def __init__(
        self, window: int, worth: Callable[[Request], float], expect: Callable[[str, float], None]
    ) -> None:
        """``expect`` is told who is expected when: a request's id and its rank, the least first. Whoever has
        none yet is expected last."""
        self._order: AdmissionOrder[Request] = AdmissionOrder(window)
        self._worth = worth
        self._expect = expect
        self._readmitted: deque[Request] = deque()
        """Preempted ones, and those whose load failed."""
        self._values: dict[Request, float] = {}
        """Of those who may go next; oldest first."""
        self._first: Request | None = None

    def add_request(self, request: Request) -> None:
        self._order.join(request)
        self._first = None

    def peek_request(self) -> Request:
        if self._readmitted:
            return self._readmitted[0]
        if self._first is None:
            self._first = self._order.first(self._value)
        if self._first is None:
            raise IndexError("peek from an empty queue")
        return self._first

    def pop_request(self) -> Request:
        request = self.peek_request()
        if self._readmitted:
            return self._readmitted.popleft()
        self._order.take(request)
        self._first = None
        return request

    def prepend_request(self, request: Request) -> None:
        if self._order.give_back(request):
            self._first = None
        else:
            self._readmitted.appendleft(request)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.prepend_request(request)

    def remove_request(self, request: Request) -> None:
        self.remove_requests((request,))

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Those that are not here are ignored."""
        gone = set(requests)
        if not gone.isdisjoint(self._readmitted):
            self._readmitted = deque(each for each in self._readmitted if each not in gone)
        for request in gone:
            self._order.leave(request)
            self._values.pop(request, None)
        self._first = None

    def settle(self) -> None:
        """A scheduling pass is over. Who may go next is appraised now, whether or not the next pass has room
        for anybody: what they wait for is to be kept and read meanwhile."""
        self._order.settle()
        self._first = None
        candidates = dict.fromkeys(self._order.candidates)
        kept = islice(self._values.items(), REAPPRAISED_PER_STEP, None)
        self._values = {request: value for request, value in kept if request in candidates}
        for request in candidates:
            self._value(request)
        overdue = self._order.overdue
        if overdue is not None:
            self._expect(overdue.request_id, -inf)

    def __bool__(self) -> bool:
        return bool(self._readmitted) or bool(self._order)

    def __len__(self) -> int:
        return len(self._readmitted) + len(self._order)

    def __iter__(self) -> Iterator[Request]:
        """Those who go first, then the others as they came."""
        yield from self._readmitted
        yield from self._order

    def _value(self, request: Request) -> float:
        value = self._values.get(request)
        if value is None:
            value = self._values[request] = self._worth(request)
            self._expect(request.request_id, -value)
        return value


class _Admission:
    """What both of vLLM's schedulers get."""

    block_size: int
    connector: Any
    failed_recving_kv_req_ids: set[str]
    kv_cache_manager: Any
    kv_holding_waiting: RequestQueue
    policy: Any
    prev_step_scheduled_req_ids: set[str]
    running: list[Request]
    scheduler_config: Any
    waiting: RequestQueue
    max_num_active_reqs: int
    max_num_scheduled_tokens: int
    num_spec_tokens: int
    _inflight_prefills: set[Request]
    _free_request_blocks: Callable[[Request], None]
    _preempt_request: Callable[..., None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        connector = _ours(self.connector)
        settings = connector.tier_settings
        self._appraise = connector.appraise
        self._queue: OrderedQueue | None = None
        if settings.admission_window and self.policy is SchedulingPolicy.FCFS:
            worth = ORDERS[settings.admission]
            self._queue = OrderedQueue(
                settings.admission_window, lambda each: worth(self._appraise(each)), connector.expect
            )
            self.waiting = self._queue
        elif settings.admission_window:
            logger.warning(
                "requests are admitted by their priorities alone, because the scheduling policy is %r: leave "
                "it at 'fcfs' for an order that knows the cache, or set tiers.admission_window to 0",
                self.policy.value,
            )
        self._has_cut = False
        """The last step was cut."""
        self.scheduler_config = copy(self.scheduler_config)  # it is also other parts' of the engine
        self._step_tokens = self.max_num_scheduled_tokens
        self._long_prefill_tokens: int = self.scheduler_config.long_prefill_token_threshold
        self._protects = settings.protect_short and self._long_prefill_tokens > 0

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        if self._protects:
            self._bound_step()
        output: SchedulerOutput = super().schedule(throttle_prefills)  # type: ignore[misc]
        if self._queue is not None:
            self._queue.settle()
        return output

    def _bound_step(self) -> None:
        """Set how many tokens the step that comes computes, and how many of one prompt.

        While a short prompt is there beside a long one, the long one gets no more of a step than the short
        one, so that both have their turn soon. Never in two steps in a row: a stream of short ones takes no
        more than about half of what the long one would have.
        """
        self.max_num_scheduled_tokens = self._step_tokens
        self.scheduler_config.long_prefill_token_threshold = self._long_prefill_tokens
        has_cut, self._has_cut = self._has_cut, False
        if has_cut or not self._inflight_prefills:
            return
        computing = [each for each in self._inflight_prefills if each.status == RequestStatus.RUNNING]
        if not computing:
            return
        left = [each.num_tokens - each.num_computed_tokens for each in computing]
        longest = max(left)
        if self.waiting and len(self.running) < self.max_num_active_reqs:
            left.append(self._appraise(self.waiting.peek_request()).new_tokens)
        shortest = min(left)
        if shortest * LONG_FACTOR > longest:
            return
        self._has_cut = True
        least = self._step_tokens // LEAST_SHARE
        prefill_tokens = min(max(shortest, least), self._long_prefill_tokens)
        decode_tokens = len(self.running) * (1 + self.num_spec_tokens)
        self.scheduler_config.long_prefill_token_threshold = prefill_tokens
        self.max_num_scheduled_tokens = min(self._step_tokens, decode_tokens + len(left) * prefill_tokens)

    def _handle_invalid_blocks(
        self, invalid_block_ids: set[int], num_scheduled_tokens: dict[str, int]
    ) -> set[str]:
        """Running requests with KV that was not loaded after all begin anew.

        vLLM would set back what the first of them has computed, and let the others go on as if that were
        done; and not what a step under way will have computed, whose output would count twice. So they are
        preempted, as vLLM does where it resets a cache in use.
        """
        failed = [
            request
            for request in self.running
            if not invalid_block_ids.isdisjoint(self.kv_cache_manager.get_block_ids(request.request_id)[0])
        ]
        now_s = time.monotonic()
        for request in reversed(failed):
            # nobody may find what was computed, or is being computed, from what is not there
            block_ids = self.kv_cache_manager.get_block_ids(request.request_id)[0]
            first = next(place for place, block_id in enumerate(block_ids) if block_id in invalid_block_ids)
            self.kv_cache_manager.evict_blocks(set(block_ids[first:]))
            self.running.remove(request)
            self._preempt_request(request, now_s, drop_stale_output=True)
        for request in self.kv_holding_waiting:
            # vLLM sets back the first of them alone, and none whose own load has come
            block_ids = self.kv_cache_manager.get_block_ids(request.request_id)[0]
            lost = next((place for place, each in enumerate(block_ids) if each in invalid_block_ids), None)
            if lost is None or request.num_computed_tokens <= lost * self.block_size:
                continue
            request.num_computed_tokens = lost * self.block_size
            if request.status == RequestStatus.WAITING_FOR_REMOTE_KVS:
                self.failed_recving_kv_req_ids.add(request.request_id)
            elif not lost:
                self._free_request_blocks(request)
        gone = {request.request_id for request in failed}
        self.prev_step_scheduled_req_ids -= gone  # else resumed ones would be taken for running on
        waiting: set[str] = super()._handle_invalid_blocks(  # type: ignore[misc]
            invalid_block_ids, num_scheduled_tokens
        )
        return gone | waiting


class OrderedScheduler(_Admission, Scheduler):  # type: ignore[misc]
    """Requests are admitted as ``OrderedQueue`` says."""


class OrderedAsyncScheduler(_Admission, AsyncScheduler):  # type: ignore[misc]
    """The same for an engine that schedules a step while the one before it computes."""


def ordered_scheduler(vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> Scheduler:
    """vLLM's ``scheduler_cls``: whichever of its schedulers the engine would have had, with our order.

    Raises ConfigError if the engine has no connector of ours.
    """
    is_async = vllm_config.scheduler_config.async_scheduling
    return (OrderedAsyncScheduler if is_async else OrderedScheduler)(vllm_config, *args, **kwargs)


def _ours(connector: Any) -> MygoConnector:
    for each in (connector, *getattr(connector, "sub_connectors", ())):
        if isinstance(each, MygoConnector):
            return each
    raise ConfigError(
        f"scheduler_cls {SCHEDULER}: the engine's connector is {type(connector).__name__}, and it needs "
        "MygoConnector: add it to kv_transfer_config, or leave scheduler_cls out"
    )
