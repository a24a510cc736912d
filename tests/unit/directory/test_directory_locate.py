"""``locate`` against a brute-force walk over simulated blocks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mygo.directory import Directory
from mygo.types import (
    Dispatch,
    PathStep,
    ProfileGrid,
    RequestId,
    Residency,
    ResidencyEvent,
    SegmentKey,
    Tier,
    WorkerId,
    WorkerInfo,
    WorkerLoad,
    WorkerReport,
)

PROFILE = ProfileGrid((0, 1024), (0, 1024), ((0.0, 1.0), (0.0, 1.0)))
LENGTHS = {"a": 1, "b": 3, "c": 4, "d": 9, "e": 17}
"""Token counts below, at and above a block, and none a multiple of all block sizes."""

prompts = st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=5), min_size=1, max_size=4)
Block = tuple[str, int]
"""(key of the owning segment, prompt tokens up to the block's end)."""


def path(names: list[str]) -> list[PathStep]:
    steps: list[PathStep] = []
    start = 0
    for i, name in enumerate(names):
        key = SegmentKey("/".join(names[: i + 1]))
        steps.append(PathStep(key, start, start + LENGTHS[name]))
        start += LENGTHS[name]
    return steps


def owned(step: PathStep, block_tokens: int) -> list[Block]:
    """The blocks whose last token lies in the segment, found token by token."""
    return [
        (step.key, token + 1)
        for token in range(step.start_tokens, step.end_tokens)
        if (token + 1) % block_tokens == 0
    ]


def statements(
    paths: list[list[PathStep]], resident: dict[Block, Tier], block_tokens: int
) -> list[ResidencyEvent]:
    """What a worker with these blocks must report, by the definition of ResidencyEvent.

    A segment lies in one tier here: that of its first block.
    """
    events: dict[SegmentKey, ResidencyEvent] = {}
    for steps in paths:
        for i, step in enumerate(steps):
            blocks = owned(step, block_tokens)
            if not any(block in resident for block in blocks):
                continue
            valid = step.start_tokens // block_tokens * block_tokens
            for block in blocks:
                if block not in resident:
                    break
                valid = block[1]
            events[step.key] = ResidencyEvent(
                key=step.key,
                parent=steps[i - 1].key if i else None,
                start_tokens=step.start_tokens,
                end_tokens=step.end_tokens,
                prefix_tokens=valid,
                complete=all(block in resident for block in blocks),
                tier=resident.get(blocks[0], Tier.DEVICE),
            )
    return list(events.values())


def brute_force(steps: list[PathStep], resident: dict[Block, Tier], block_tokens: int) -> Residency:
    tokens = dict.fromkeys(Tier, 0)
    usable = (steps[-1].end_tokens - 1) // block_tokens
    blocks = [(block, owned(step, block_tokens)[0]) for step in steps for block in owned(step, block_tokens)]
    for block, first in blocks[:usable]:
        if block not in resident:
            break
        tokens[resident[first]] += block_tokens
    return Residency(tokens[Tier.DEVICE], tokens[Tier.HOST], tokens[Tier.DISK])


@settings(max_examples=150, deadline=None)
@given(data=st.data(), names=prompts, sizes=st.lists(st.sampled_from([1, 3, 4, 16]), min_size=1, max_size=3))
def test_locate_equals_brute_force_when_blocks_are_random(
    data: st.DataObject, names: list[list[str]], sizes: list[int]
) -> None:
    paths = [path(each) for each in names]
    directory = Directory("test")
    resident: dict[WorkerId, dict[Block, Tier]] = {}
    for i, block_tokens in enumerate(sizes):
        worker = WorkerId(f"w{i}")
        blocks = sorted({block for steps in paths for step in steps for block in owned(step, block_tokens)})
        missing = data.draw(st.sets(st.sampled_from(blocks), max_size=3)) if blocks else set()
        tiers = {block: data.draw(st.sampled_from(Tier)) for block in blocks if block not in missing}
        resident[worker] = tiers
        directory.join(WorkerInfo(worker, "e", "m", block_tokens, 1024, 1024, PROFILE))
        events = statements(paths, tiers, block_tokens)
        directory.apply(WorkerReport(worker, "e", 0, tuple(events), WorkerLoad()))
    directory.check()
    asked = [*data.draw(st.sampled_from(paths))]
    if data.draw(st.booleans()):  # a longer prompt whose tail nobody has seen
        end = asked[-1].end_tokens
        asked = [*asked, PathStep(SegmentKey("unseen"), end, end + 7)]
    found = directory.locate(asked)
    for worker, block_tokens in zip(resident, sizes, strict=True):
        assert found.get(worker, Residency()) == brute_force(asked, resident[worker], block_tokens)
    assert all(residency.cached_tokens > 0 for residency in found.values())


@settings(deadline=None)
@given(names=st.lists(st.sampled_from("abcde"), min_size=1, max_size=6), shared=st.integers(0, 6))
def test_locate_counts_common_prefix_when_a_sibling_is_on_its_way(names: list[str], shared: int) -> None:
    directory = Directory("test")
    directory.join(WorkerInfo(WorkerId("w"), "e", "m", 4, 1024, 1024, PROFILE))
    sent = path(names)
    directory.expect(Dispatch(RequestId("r"), WorkerId("w"), tuple(sent), 1.0, 0.0, 9.0))
    asked = path([*names[:shared], "e", "e"])
    common = [mine.end_tokens for mine, theirs in zip(asked, sent, strict=False) if mine == theirs]
    expected = min(common[-1] if common else 0, asked[-1].end_tokens - 1) // 4 * 4
    assert directory.locate(asked).get(WorkerId("w"), Residency()) == Residency(expected)
    directory.unexpect(RequestId("r"))
    assert directory.locate(asked) == {}
    directory.check()


def test_locate_is_empty_when_the_path_is_empty() -> None:
    assert Directory("test").locate([]) == {}


def test_held_tokens_are_counted_once_and_by_tier() -> None:
    directory = Directory("i")
    worker = WorkerId("w")
    directory.join(WorkerInfo(worker, "e", "m", 4, 1024, 1024, PROFILE))
    events = (
        ResidencyEvent(SegmentKey("a"), None, 0, 8, 8, True),
        ResidencyEvent(SegmentKey("a/b"), SegmentKey("a"), 8, 20, 16, False, Tier.HOST),
        ResidencyEvent(SegmentKey("a/c"), SegmentKey("a"), 8, 12, 12, True, Tier.DISK),
        ResidencyEvent(SegmentKey("a/d"), SegmentKey("a"), 8, 12, 12, True, Tier.DISK),
    )
    directory.apply(WorkerReport(worker, "e", 0, events, WorkerLoad(), snapshot=True))
    assert directory.held_tokens(worker) == {Tier.DEVICE: 8, Tier.HOST: 8, Tier.DISK: 8}
