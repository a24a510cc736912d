"""One run: a trace through the production tree and one shelf, a request at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.policies.paths import Access, Replay
from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.loading import PrefillSeconds
from mygo.tree.policies import MakePolicy
from mygo.tree.shelf import Shelf
from mygo.types import Tier


@dataclass(frozen=True, slots=True)
class Result:
    """What a cache saved over a whole trace."""

    requests: int
    hits: int
    """Requests of which all but the question was cached; with ``single``, all."""
    prompt_tokens: int
    cached_tokens: int
    cold_s: float
    """Prefill seconds without a cache."""
    saved_s: float

    @property
    def saved_share(self) -> float:
        """The cost-weighted hit ratio."""
        return self.saved_s / self.cold_s

    @property
    def token_hit_ratio(self) -> float:
        return self.cached_tokens / self.prompt_tokens


def replay(
    trace: Replay,
    capacity_tokens: int,
    make_policy: MakePolicy,
    prefill_s: PrefillSeconds,
    *,
    served: Callable[[int], None] = lambda number: None,
) -> Result:
    """Serve the trace with a cache of ``capacity_tokens``. ``served`` is called before each request.

    A request computes what is not cached, keeps all its blocks in use meanwhile, and leaves its answer
    behind as an engine does. What does not fit beside the blocks in use is not kept.
    """
    tree = KnowledgeTree(block_tokens=1, prefill_s=prefill_s)
    shelf = Shelf(tree, Tier.DEVICE, make_policy(tree, capacity_tokens))
    hits = prompt_tokens = cached = 0
    cold_s = saved_s = 0.0
    for number, access in enumerate(trace.accesses):
        served(number)
        found_tokens = _serve(str(number), access, tree, shelf, capacity_tokens)
        new_tokens = access.tokens - found_tokens
        whole_s = prefill_s(0, access.tokens)
        cold_s += whole_s
        saved_s += whole_s - prefill_s(found_tokens, new_tokens)
        prompt_tokens += access.tokens
        cached += found_tokens
        hits += not new_tokens
    return Result(len(trace.accesses), hits, prompt_tokens, cached, cold_s, saved_s)


def _serve(name: str, access: Access, tree: KnowledgeTree, shelf: Shelf, capacity_tokens: int) -> int:
    """One request; returns the tokens that were cached."""
    tree.begin(name, access.blocks, access.ends, sizes=access.sizes)
    used: list[bytes] = []
    found_tokens = 0
    for block, tokens in zip(access.blocks, access.sizes, strict=True):
        if not shelf.holds(block):
            break
        shelf.lock(block)
        used.append(block)
        found_tokens += tokens
    tree.admitted(name, found_tokens)
    for block, tokens in list(zip(access.blocks, access.sizes, strict=True))[len(used) :]:
        if not _keep(block, tokens, shelf, capacity_tokens):
            break
        used.append(block)
    else:
        if access.answer:
            tree.extend(name, [access.answer], sizes=[access.answer_tokens])
            if _keep(access.answer, access.answer_tokens, shelf, capacity_tokens):
                used.append(access.answer)
    for block in reversed(used):
        shelf.unlock(block)
    tree.finished(name)
    return found_tokens


def _keep(block: bytes, tokens: int, shelf: Shelf, capacity_tokens: int) -> bool:
    """Make room for a block and put it there; False if there is none to be made."""
    while shelf.held_tokens + tokens > capacity_tokens:
        if shelf.evict(1) is None:
            return False
    shelf.put(block)
    return True
