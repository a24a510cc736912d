"""Traces in files: saving and loading, the layout of recorded formats, errors that name the line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mygo.errors import BadTrace
from mygo.workloads import PRESETS, Trace, describe, load, save
from mygo.workloads.arrivals import Arrivals
from mygo.workloads.generate import generate
from mygo.workloads.lengths import Lengths
from mygo.workloads.recipe import Sessions, Tenants


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def everything() -> Trace:
    """A trace that uses every field."""
    recipe = replace(
        PRESETS["ragpulse"].recipe,
        requests=60,
        arrivals=Arrivals(1.0),
        updates_per_hour=1_000.0,
        tenants=Tenants(2, 0.5, 100, 20, 0.2),
        sessions=Sessions(2.0, Lengths(50)),
    )
    return generate(recipe, 4)


def test_saved_trace_is_loaded_equal(tmp_path: Path) -> None:
    trace = everything()
    assert trace.updates
    assert any(text.copy_of for text in trace.texts.values())
    save(trace, tmp_path / "t.jsonl")
    assert load(tmp_path / "t.jsonl") == trace


HEAD = {"format": "mygo-trace", "version": 1, "name": "x"}
TEXT = {"text": "s", "tokens": 5}
REQUEST = {"request": 0, "arrival_s": 1.0, "system": "s", "question_tokens": 3, "output_tokens": 1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{**HEAD, "version": 2}], r"line 1: version: .*1 \(got 2\)"),
        ([HEAD, {**TEXT, "tokens": "5"}], r"line 2: tokens: .*integer \(got '5'\); expected a line like"),
        ([HEAD, {**TEXT, "tokns": 5}], "line 2: tokns: Extra inputs"),
        ([HEAD, TEXT, "{broken"], "line 3: is no text, request or update"),
        ([HEAD, TEXT, TEXT], "line 3: text: 's' is there already"),
        ([HEAD, REQUEST], "line 2: names 's', and no text has that id"),
        ([HEAD, TEXT, {**REQUEST, "request": 1}], "line 3: request: 1 where 0 is next"),
        (
            [HEAD, TEXT, {**REQUEST, "output_tokens": 0}],
            "line 3: output_tokens: .*greater than or equal to 1",
        ),
        (
            [HEAD, TEXT, REQUEST, {**REQUEST, "request": 1, "arrival_s": 0.5}],
            "line 4: arrival_s: 0.5 is before the request above",
        ),
        ([HEAD, TEXT, {"update": "s", "new": "t", "at_s": 0}], "line 3: names 't'"),
    ],
)
def test_malformed_line_is_named_with_what_is_wrong(
    tmp_path: Path, lines: list[dict[str, Any] | str], message: str
) -> None:
    with pytest.raises(BadTrace, match=message) as raised:
        load(write(tmp_path / "t.jsonl", *lines))
    assert str(raised.value).startswith(str(tmp_path / "t.jsonl"))


@pytest.mark.parametrize("content", ["hello\n", "{}\n", "[1]\n", '{"hash_ids": 3}\n'])
def test_file_that_is_no_trace_is_refused_with_the_known_formats(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(BadTrace, match=r"line 1: not a trace that is known.*MyGO.*RAGPulse.*Mooncake"):
        load(tmp_path / "t.jsonl")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match=r"none\.jsonl: cannot be read"):
        load(tmp_path / "none.jsonl")


# --- Mooncake ---------------------------------------------------------------------------------------


def mooncake(timestamp: int, input_length: int, *blocks: int) -> dict[str, Any]:
    return {
        "timestamp": timestamp,
        "input_length": input_length,
        "output_length": 7,
        "hash_ids": list(blocks),
    }


def test_mooncake_blocks_become_texts_in_order(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.jsonl",
        mooncake(0, 1_500, 1, 2, 3),
        mooncake(2_500, 1_536, 1, 2, 9),
        mooncake(3_000, 4, 8),
    )
    trace = load(path)
    assert [request.arrival_s for request in trace.requests] == [0, 2.5, 3]
    assert [trace.prompt_tokens(request) for request in trace.requests] == [1_500, 1_536, 4]
    assert trace.requests[0].documents == ("block1", "block2") == trace.requests[1].documents
    assert [request.question_tokens for request in trace.requests] == [1_500 - 1_024, 512, 4]
    assert describe(trace).ordered_prefix_hit == 0.5


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (mooncake(1, 1_500, 1, 2), "line 2: hash_ids: 2 blocks for an input_length of 1500, which is 3"),
        (mooncake(-1, 10, 1), "line 2: timestamp"),
        ({"timestamp": 1, "input_length": 10, "hash_ids": [1]}, "line 2: output_length: Field required"),
        (mooncake(1, 10), "line 2: hash_ids"),
        ("nonsense", "line 2: Invalid JSON.*expected a line like"),
    ],
)
def test_malformed_mooncake_line_is_named(tmp_path: Path, second: dict[str, Any] | str, message: str) -> None:
    with pytest.raises(BadTrace, match=message):
        load(write(tmp_path / "m.jsonl", mooncake(0, 10, 5), second))


# --- RAGPulse ---------------------------------------------------------------------------------------


def ragpulse(at_s: int, system: list[int], passages: list[int], **changed: Any) -> dict[str, Any]:
    parts = {
        "sys_prompt": system,
        "passages_ids": passages,
        "history": [40],
        "web_search": [],
        "user_input": [50],
    }
    line = {
        "timestamp": str(at_s),
        "input_length": 1_000,
        "output_length": 9,
        "hash_ids": parts,
        "session_id": "s",
    }
    return {**line, **changed}


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """Length files: system parts 1 to 9 of 100 tokens, passages 20 to 29 of 30, history 40, user input 50."""
    write(tmp_path / "1_sys_prompt.jsonl", *({"sys_prompt_id": i, "token_length": 100} for i in range(1, 10)))
    write(tmp_path / "2_passages.jsonl", *({"passage_id": i, "token_length": 30} for i in range(20, 30)))
    write(tmp_path / "3_history.jsonl", {"history_id": 40, "token_length": 11})
    write(tmp_path / "4_user_input.jsonl", {"user_input_id": 50, "token_length": 5})
    write(tmp_path / "5_web_search.jsonl", {"web_search_id": 60, "token_length": 5})
    return tmp_path


def test_ragpulse_keeps_stable_system_parts_and_puts_the_rest_behind_the_documents(beside: Path) -> None:
    path = write(
        beside / "trace.jsonl",
        ragpulse(10, [1, 4, 2], [20, 21]),  # part 1 stays, 4 and 5 are dates, 2, 3, 6 are unique
        ragpulse(20, [1, 4, 3], [20, 21]),
        ragpulse(110, [1, 5, 6], [20, 22]),
        ragpulse(120, [7], []),
    )
    trace = load(path)
    assert [request.arrival_s for request in trace.requests] == [0, 10, 100, 110]
    first, last = trace.requests[0], trace.requests[-1]
    assert trace.texts[first.system].tokens == 100
    assert trace.texts[last.system].tokens == 0
    assert first.documents == ("passage20", "passage21")
    assert first.question_tokens == 1_000 - 100 - 60 - 11
    assert all(trace.prompt_tokens(request) == 1_000 for request in trace.requests)
    assert trace.corpus_documents == 10
    assert describe(trace).ordered_prefix_hit == (60 + 30) / 180


def test_ragpulse_line_is_named_when_an_id_has_no_length(beside: Path) -> None:
    path = write(beside / "trace.jsonl", ragpulse(0, [1], [20]), ragpulse(1, [1], [99]))
    with pytest.raises(BadTrace, match=r"line 2: hash_ids.passages: 99 has no length in 2_passages\.jsonl"):
        load(path)


def test_ragpulse_line_is_named_when_a_field_is_wrong(beside: Path) -> None:
    path = write(beside / "trace.jsonl", ragpulse(0, [1], [20]), ragpulse(1, [1], [20], input_length="many"))
    with pytest.raises(BadTrace, match=r"line 2: input_length: .*\(got 'many'\); expected a line like"):
        load(path)


def test_ragpulse_length_file_is_named_when_it_is_missing(beside: Path) -> None:
    (beside / "3_history.jsonl").unlink()
    path = write(beside / "trace.jsonl", ragpulse(0, [1], [20]))
    with pytest.raises(BadTrace, match=r"exactly one \*history\*\.jsonl; found: none"):
        load(path)
