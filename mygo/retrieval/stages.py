"""Where to cut a search into stages: pure planning, in predicted seconds."""

from __future__ import annotations

MAX_STAGES = 8
"""More are never worth it: each costs a merge here and a message to the ingress."""


def stage_ends(lists: int, predicted_s: float, stage_s: float) -> list[int]:
    """``even_ends`` of a search of ``lists`` in stages of about ``stage_s``.

    ``predicted_s``: of the whole search. A search that is predicted to take less than two stages has one:
    there would be nothing to hide behind.
    """
    fitting = predicted_s / stage_s if stage_s > 0 else MAX_STAGES
    return even_ends(lists, max(1, int(min(fitting, MAX_STAGES))))


def even_ends(lists: int, stages: int) -> list[int]:
    """Cut a search of ``lists``, nearest first, into ``stages``, even in lists; no more than there are lists.

    Returns the exclusive end of each stage; the last is ``lists``.
    """
    assert lists >= 1, f"{lists} lists"
    stages = min(stages, lists)
    return [lists * stage // stages for stage in range(1, stages + 1)]
