"""Where to cut a search into stages: pure planning, in predicted seconds."""

from __future__ import annotations

MAX_STAGES = 8
"""More are never worth it: each costs a merge here and a message to the ingress."""


def stage_ends(lists: int, predicted_s: float, stage_s: float) -> list[int]:
    """Cut a search of ``lists``, nearest first, into stages of about ``stage_s``, even in lists.

    ``predicted_s``: of the whole search. Returns the exclusive end of each stage; the last is ``lists``. A
    search that is predicted to take less than two stages has one: there would be nothing to hide behind.
    """
    assert lists >= 1, f"{lists} lists"
    fitting = predicted_s / stage_s if stage_s > 0 else MAX_STAGES
    stages = max(1, min(MAX_STAGES, lists, int(min(fitting, MAX_STAGES))))
    return [lists * stage // stages for stage in range(1, stages + 1)]
