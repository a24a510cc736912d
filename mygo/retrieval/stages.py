"""Where to cut a search into stages: pure planning, in predicted seconds."""

from __future__ import annotations

from collections.abc import Sequence

MAX_STAGES = 8
"""More are never worth it: each costs a merge here and a message to the ingress."""


def stage_ends(list_vectors: Sequence[int], s_per_vector: float, stage_s: float) -> list[int]:
    """Cut the probed lists, nearest first, into stages of about ``stage_s``; none of them is empty.

    ``list_vectors``: how many vectors each probed list holds. Returns the exclusive end of each stage, the
    last being ``len(list_vectors)``; [] if there is no list. A search that is predicted to take less than two
    stages has one: there would be nothing to hide behind.
    """
    if not list_vectors:
        return []
    predicted_s = sum(list_vectors) * s_per_vector
    stages = min(MAX_STAGES, len(list_vectors), int(predicted_s / stage_s) if stage_s > 0 else MAX_STAGES)
    if stages < 2:
        return [len(list_vectors)]
    share = sum(list_vectors) / stages
    ends: list[int] = []
    searched = 0
    for position, vectors in enumerate(list_vectors, 1):
        searched += vectors
        if searched >= share * (len(ends) + 1) and len(ends) < stages - 1:
            ends.append(position)
    if not ends or ends[-1] < len(list_vectors):
        ends.append(len(list_vectors))
    return ends
