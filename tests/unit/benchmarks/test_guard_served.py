"""What the guard's served check asks, and what it makes of the guard's report, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.guard_served import REPAIR_SHARE, Posed, broken
from mygo.calibration.questions import Material, Question
from mygo.errors import BadRequest

PASSAGES = tuple(f"passage {at}" for at in range(6))
MATERIAL = Material(
    PASSAGES, tuple(Question(f"q{at}", "which?", ("a",), (text,)) for at, text in enumerate(PASSAGES))
)


def _worker(**changed: Any) -> dict[str, Any]:
    bucket = {"bucket": 9, "state": "proven", "alpha": REPAIR_SHARE}
    return {
        "id": "w",
        "guarded": True,
        "documents_off": changed.pop("documents_off", 0),
        "buckets": [bucket | changed],
    }


def test_a_request_is_the_same_by_its_number_and_holds_the_passage_that_answers_it() -> None:
    posed = Posed(MATERIAL, passages=4, documents=3, seed=1)
    orders = set()
    for number in range(50):
        question, passages = posed(number)
        assert posed(number) == (question, passages)
        assert question.passages[0] in passages and len(set(passages)) == 3
        assert set(passages) <= set(PASSAGES[:4])
        orders.add(tuple(passages))
    assert len(orders) > 10


def test_a_set_with_too_few_passages_is_refused() -> None:
    with pytest.raises(BadRequest, match="6 passages"):
        Posed(MATERIAL, passages=10, documents=7, seed=1)


@pytest.mark.parametrize(
    ("blended", "worker", "told"),
    [
        (200, _worker(), ""),
        (200, _worker(alpha=0.0), ""),
        (199, _worker(), "199 requests were blended"),
        (200, _worker(state="off", alpha=None), "switched blending off"),
        (200, _worker(alpha=REPAIR_SHARE + 0.1), "raised the repair"),
        (200, _worker(documents_off=1), "1 documents off"),
        (200, {"id": "w", "answered": False}, "no guard"),
    ],
)
def test_every_sign_of_a_guard_that_fired_is_told(blended: int, worker: dict[str, Any], told: str) -> None:
    problems = broken(blended, 200, {"workers": [worker]})
    assert (told in problems[0]) if told else not problems
