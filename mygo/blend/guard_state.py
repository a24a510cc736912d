"""A guard as JSON, so that what was proven, and what was given up, outlives the engine."""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from dataclasses import asdict
from math import isfinite
from typing import Any

from mygo.blend.betting import STAKES, MeanTest
from mygo.blend.guard import Guard
from mygo.blend.suspects import Suspects
from mygo.blend.track import RECENT, Bucket, Track
from mygo.blend.variants import DocumentTag
from mygo.blend.verdicts import GuardSettings
from mygo.errors import MygoError

VERSION = 1


def dump(guard: Guard) -> str:
    """One line of JSON."""
    state = {
        "version": VERSION,
        "settings": asdict(guard.settings),
        "generation": guard.generation,
        "tracks": guard.tracks,
        "documents_off": sorted(guard.documents_off),
        "buckets": {
            str(number): {"served": _track(bucket.served), "trial": _track(bucket.trial)}
            for number, bucket in guard.buckets.items()
        },
        "harmful": _suspects(guard.harmful),
        "damaged": _suspects(guard.damaged),
    }
    return json.dumps(state, allow_nan=False)


def load(text: str, settings: GuardSettings) -> Guard:
    """The inverse of ``dump``, for a guard of the same settings.

    Raises MygoError if the text is not what ``dump`` wrote, or for other settings: then begin with a new
    guard, which answers exactly until it has proven anything.
    """
    try:
        state = json.loads(text)
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise ValueError(f"it is not of version {VERSION}")
        theirs = json.loads(json.dumps(asdict(settings)))
        if state["settings"] != theirs:
            raise ValueError(f"it is for settings {state['settings']}, not {theirs}")
        return _guard(state, settings)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise MygoError(
            f"the quality guard's state cannot be used: {reason}; remove it, and blending is proven anew"
        ) from error


def _guard(state: dict[str, Any], settings: GuardSettings) -> Guard:
    guard = Guard(settings)
    guard.generation = _count(state["generation"])
    guard.tracks = _count(state["tracks"])
    guard.documents_off = {DocumentTag(_text(document)) for document in state["documents_off"]}
    for number, each in state["buckets"].items():
        served, trial = (_read_track(each[name], settings) for name in ("served", "trial"))
        guard.buckets[int(number)] = Bucket(served, trial)
    _read_suspects(guard.harmful, state["harmful"])
    _read_suspects(guard.damaged, state["damaged"])
    return guard


def _track(track: Track | None) -> dict[str, Any] | None:
    if track is None:
        return None
    return {
        "level": track.level,
        "harm": _test(track.harm),
        "proof": _test(track.proof),
        "harm_at": track.harm_at,
        "proof_at": track.proof_at,
        "count": track.count,
        "sums": [track.kl_sum, track.agreement_sum, track.overlap_sum],
        "recent": [[kl, list(documents)] for kl, documents in track.recent],
    }


def _read_track(raw: Any, settings: GuardSettings) -> Track | None:
    if raw is None:
        return None
    level = _count(raw["level"])
    if level >= len(settings.alphas):
        raise ValueError(f"level {level} is none of the {len(settings.alphas)} alphas")
    bound = settings.kl_bound / settings.kl_clip
    kl_sum, agreement_sum, overlap_sum = map(_number, raw["sums"])
    recent = ((_number(kl), tuple(DocumentTag(_text(each)) for each in seen)) for kl, seen in raw["recent"])
    return Track(
        level,
        settings.kl_clip,
        _read_test(raw["harm"], bound),
        _read_test(raw["proof"], 1 - bound),
        _number(raw["harm_at"]),
        _number(raw["proof_at"]),
        _count(raw["count"]),
        kl_sum,
        agreement_sum,
        overlap_sum,
        deque(recent, RECENT),
    )


def _suspects(suspects: Suspects) -> dict[str, Any]:
    tests = [[document, _test(test), threshold] for document, (test, threshold) in suspects.tests.items()]
    return {"begun": suspects.begun, "tests": tests}


def _read_suspects(suspects: Suspects, raw: Any) -> None:
    suspects.begun = _count(raw["begun"])
    suspects.tests = OrderedDict(
        (DocumentTag(_text(document)), (_read_test(test, suspects.bound), _number(threshold)))
        for document, test, threshold in raw["tests"]
    )


def _test(test: MeanTest) -> list[Any]:
    return [test.count, test.staked]


def _read_test(raw: Any, bound: float) -> MeanTest:
    count, staked = raw
    if len(staked) != len(STAKES):
        raise ValueError(f"a test has {len(staked)} stakes, not {len(STAKES)}")
    return MeanTest(bound, [_number(each) for each in staked], _count(count))


def _count(raw: Any) -> int:
    if type(raw) is not int or raw < 0:
        raise ValueError(f"{raw!r} is no count")
    return raw


def _number(raw: Any) -> float:
    if type(raw) not in (int, float) or not isfinite(raw) or raw < 0:
        raise ValueError(f"{raw!r} is no number from 0 on")
    return float(raw)


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"{raw!r} is no document")
    return raw
