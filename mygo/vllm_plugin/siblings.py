"""Hold a waiting request while a running one computes the very block that it needs next.

In a burst of requests for one new document, each would otherwise compute the document anew, because
a block can be hit only once it is stored. The held one is asked again in every step and goes on as
soon as its next block is its own. It holds no memory, and only ever waits for a request that is
running; a leader that ends, is preempted or is passed over by the scheduler holds nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from vllm.v1.request import Request, RequestStatus

from mygo.vllm_plugin.device_cache import DeviceCache

# Steps in which a leader may be passed over before others stop waiting for it.
PATIENCE_STEPS = 4


class SiblingHold:
    """Running prefills, and who should wait for them."""

    def __init__(self, cache: DeviceCache) -> None:
        self._cache = cache
        self._leaders: dict[str, Request] = {}
        self._passed_over: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"SiblingHold(leaders={list(self._leaders)})"

    def admitted(self, request: Request) -> None:
        """The scheduler gave the request its blocks; it runs from this step on."""
        self._leaders[request.request_id] = request
        self._passed_over[request.request_id] = 0

    def finished(self, request_id: str) -> None:
        """The request ended, in whatever way. Unknown ids are ignored."""
        self._leaders.pop(request_id, None)
        self._passed_over.pop(request_id, None)

    def stepped(self, scheduled: Mapping[str, int]) -> None:
        """A scheduling pass ended; ``scheduled``: tokens by the ids of the requests that it serves, which do
        not count as computed yet."""
        for request_id, leader in list(self._leaders.items()):
            computed_tokens = leader.num_computed_tokens + scheduled.get(request_id, 0)
            prefilling = computed_tokens < leader.num_tokens
            if leader.status != RequestStatus.RUNNING or not prefilling:
                self.finished(request_id)
            elif request_id in scheduled:
                self._passed_over[request_id] = 0
            else:
                self._passed_over[request_id] += 1

    def leader_of(self, request: Request, cached_tokens: int) -> Request | None:
        """The running request that will store the block after the ``cached_tokens`` of ``request``.

        None if the block is stored already, if nobody will store it, or if ``request`` could not
        use it: its last token is always computed.
        """
        block = cached_tokens // self._cache.block_tokens
        block_end = (block + 1) * self._cache.block_tokens
        if request.skip_reading_prefix_cache or block_end >= request.num_tokens:
            return None
        wanted = self._cache.hash_at(request, block)
        if wanted is None or self._cache.is_resident(wanted):
            return None
        for request_id, leader in self._leaders.items():
            if (
                leader is not request
                and leader.status == RequestStatus.RUNNING
                and leader.num_computed_tokens < block_end
                and self._passed_over[request_id] < PATIENCE_STEPS
                and self._cache.hash_at(leader, block) == wanted
            ):
                return leader
        return None

    def shared_tokens(self, request: Request, leader: Request) -> int:
        """Leading tokens in full blocks that both have. Hashes chain, so bisection finds the end."""
        shared, apart = 0, len(self._cache.hashes(request))
        while shared < apart:
            middle = (shared + apart) // 2
            ours = self._cache.hash_at(request, middle)
            if ours == self._cache.hash_at(leader, middle):
                shared = middle + 1
            else:
                apart = middle
        return shared * self._cache.block_tokens
