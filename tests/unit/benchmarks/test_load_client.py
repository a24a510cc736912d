"""The client and the open loop, against a server that answers as it is told to."""

from __future__ import annotations

import asyncio
from random import Random
from typing import cast

import pytest
from load_server import STREAM, Answer, error, event, hang, last, sends, server, status

from benchmarks.load.client import LoadClient
from benchmarks.load.drive import Driver
from benchmarks.load.profiles import Step
from benchmarks.load.requests import Bodies
from benchmarks.load.samples import Outcome, Sample
from mygo.errors import ConfigError


def _ask(answer: Answer, timeout_s: float = 5.0) -> Sample:
    async def ask() -> Sample:
        async with server(answer) as url, LoadClient(url, api_key="sk", timeout_s=timeout_s) as client:
            began_s = asyncio.get_running_loop().time()  # the same clock as time.perf_counter on Linux
            return await client.ask(b"{}", number=3, step=1, due_s=0.0, began_s=began_s)

    return asyncio.run(ask())


def test_finished_answer_is_ok_and_its_account_is_kept() -> None:
    found = _ask(sends(STREAM, event("a"), event("b"), event(finish="stop"), last()))
    assert found.outcome is Outcome.OK
    assert (found.number, found.step, found.status) == (3, 1, 200)
    assert (found.prompt_tokens, found.output_tokens, found.worker) == (100, 2, "w1")
    assert found.cached_tokens == {"device": 64}
    assert found.ttft_s is not None and 0 < found.ttft_s < found.ended_s
    assert len(found.itl_s) == 1 and 0.01 < found.itl_s[0] < 1.0


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (status(503), Outcome.SHED),
        (status(429), Outcome.SHED),
        (status(400), Outcome.REFUSED),
        (status(500), Outcome.FAILED),
        (sends(STREAM, error("worker_lost")), Outcome.EARLY),
        (sends(STREAM, event("a"), error("worker_lost")), Outcome.CUT),
        (sends(STREAM, event("a")), Outcome.BROKEN),
        (sends(STREAM), Outcome.BROKEN),
        (sends(STREAM, b"data: {half\n\n"), Outcome.BROKEN),
        (sends(b""), Outcome.UNREACHABLE),
    ],
    ids=lambda value: value.value if isinstance(value, Outcome) else "",
)
def test_failure_has_its_name(answer: Answer, outcome: Outcome) -> None:
    found = _ask(answer)
    assert found.outcome is outcome
    if outcome in (Outcome.CUT, Outcome.EARLY):
        assert found.error == "worker_lost: ask again"
    elif found.status not in (None, 200):
        assert "busy" in found.error


def test_answer_that_hangs_is_a_timeout_and_keeps_what_was_seen() -> None:
    found = _ask(hang, timeout_s=0.3)
    assert found.outcome is Outcome.TIMEOUT
    assert found.ttft_s is not None
    assert 0.3 <= found.ended_s < 2.0


def test_nobody_there_is_unreachable_and_a_config_error_for_thestatus() -> None:
    async def ask() -> Outcome:
        async with LoadClient("http://127.0.0.1:9", api_key=None, timeout_s=2.0) as client:
            with pytest.raises(ConfigError, match="is the cluster up"):
                await client.get("/v1/mygo/status")
            assert not await client.ready()
            return (await client.ask(b"{}", number=0, step=0, due_s=0.0, began_s=0.0)).outcome

    assert asyncio.run(ask()) is Outcome.UNREACHABLE


class _Numbers:
    """Bodies that hold their number."""

    def body(self, number: int) -> bytes:
        return str(number).encode()


def test_open_loop_sends_on_time_while_answers_are_slow() -> None:
    async def slow(writer: asyncio.StreamWriter, body: bytes, path: str) -> None:
        await asyncio.sleep(0.6)
        await sends(STREAM, event("a", worker=body.decode()), event(finish="stop"), last())(
            writer, body, path
        )

    async def drive() -> tuple[Driver, list[Sample], int]:
        samples: list[Sample] = []
        most_open = 0
        async with server(slow) as url, LoadClient(url, api_key=None, timeout_s=5.0) as client:

            def done(sample: Sample) -> None:
                nonlocal most_open
                most_open = max(most_open, driver.open)
                samples.append(sample)

            driver = Driver(client, cast(Bodies, _Numbers()), Random(1), done)
            await driver.run([Step(20.0, 0.5), Step(40.0, 0.5)])
            began_s = await driver.run([Step(20.0, 0.2)], first_step=2)
            assert began_s > max(each.due_s for each in samples if each.step < 2)
        return driver, samples, most_open

    driver, samples, most_open = asyncio.run(drive())
    assert driver.sent == len(samples) and driver.open == 0
    assert sorted(each.number for each in samples) == list(range(driver.sent))
    assert {each.outcome for each in samples} == {Outcome.OK}
    assert {each.step for each in samples} == {0, 1, 2}
    assert most_open > 5, "an open loop does not wait for answers"
    # a little early is what rounding and the timer's resolution make of it
    assert all(each.lag_s > -0.01 for each in samples)
    assert all(each.ttft_s is not None and each.ttft_s > 0.6 for each in samples)
