"""Which requests of a step vLLM's offloading has anything to do for: it would look at all of them.

Hundreds of requests may run, and in most steps most of them only add a token to a block that they have. There
is nothing to store before a block is full, which shows in the next one.
"""

from __future__ import annotations

from copy import copy

from vllm.v1.core.sched.output import CachedRequestData, SchedulerOutput


def growing(output: SchedulerOutput) -> SchedulerOutput:
    """The step without the requests that were given no block in it."""
    running: CachedRequestData = output.scheduled_cached_reqs
    grown = [number for number, blocks in enumerate(running.new_block_ids) if blocks is not None]
    ids = [running.req_ids[number] for number in grown]
    tokens = output.num_scheduled_tokens
    narrowed = copy(output)
    narrowed.scheduled_cached_reqs = CachedRequestData(
        req_ids=ids,
        resumed_req_ids=running.resumed_req_ids,
        new_token_ids=[],
        all_token_ids={},
        new_block_ids=[running.new_block_ids[number] for number in grown],
        num_computed_tokens=[running.num_computed_tokens[number] for number in grown],
        num_output_tokens=[running.num_output_tokens[number] for number in grown],
    )
    fresh = (new.req_id for new in output.scheduled_new_reqs)
    narrowed.num_scheduled_tokens = {request_id: tokens[request_id] for request_id in (*fresh, *ids)}
    return narrowed
