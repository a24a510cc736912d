"""Which CPU cores a worker's engine computes on.

vLLM's own `auto` binding puts every engine of a machine on the same cores, and oversubscribed OpenMP
threads are six to ten times slower, so each worker gets a disjoint share of the cores.
"""

from __future__ import annotations

from collections.abc import Sequence


def cores_of(rank: int, workers: int, cores: Sequence[int]) -> list[int]:
    """The cores of the worker with this rank on its node.

    Shares are disjoint while there are at least as many cores as workers; otherwise workers take
    turns on single cores. Ranks above ``workers`` (seen during a rolling update) wrap around.
    """
    if not cores:
        raise ValueError("no cores to share")
    if workers >= len(cores):
        return [cores[rank % len(cores)]]
    share = len(cores) // workers
    first = (rank % workers) * share
    return list(cores[first : first + share])
