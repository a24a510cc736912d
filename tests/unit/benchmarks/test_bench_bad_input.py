"""Wrong options of the benchmark commands: one line that says what is wrong, and status 2."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import folders
from benchmarks.__main__ import main
from benchmarks.arguments import count, positive, whole_number
from benchmarks.harness.records import RunFolder
from benchmarks.load.__main__ import main as load_main
from mygo.errors import ConfigError

HEAD = '{"format": "mygo-trace", "version": 1, "name": "t"}\n'
TEXT = '{"text": "s", "tokens": 10}\n'


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "", "²", "9" * 40])
def test_count_refuses_what_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a whole number"):
        count(text)


@pytest.mark.parametrize("text", ["-1", "nan", "1e3", " 1"])
def test_whole_number_refuses_what_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a whole number"):
        whole_number(text)
    assert whole_number("0") == 0


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", ""])
def test_positive_refuses_what_is_not(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a number above 0"):
        positive(text)
    assert positive("0.5") == 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--systems", ""], "there is no such system"),
        (["--systems", "vlm"], "did you mean vllm?"),
        (["--preset", "nope"], "no such preset; there are ragcache-mmlu"),
        (["--trace", "."], "Is a directory"),
        (["--trace", "missing.jsonl"], "No such file"),
        (["--load", "open:nan"], "give closed:N"),
        (["--throttle", "h200"], "did you mean h100?"),
    ],
)
def test_main_says_what_is_wrong_in_one_line(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--systems", "vllm", "--out", str(tmp_path / "run"), *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "is empty"),
        (HEAD + TEXT, "holds no request"),
        ("[" * 100_000, "line 1: not a trace that is known"),
        (HEAD + "[" * 100_000, "line 2: is no text, request or update"),
        (HEAD + '{"text": "s", "tokens": -1}\n', "line 2: tokens"),
    ],
)
def test_main_names_the_line_when_a_trace_is_malformed(
    lines: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "t.jsonl"
    trace.write_text(lines)
    assert main(["--systems", "vllm", "--out", str(tmp_path / "run"), "--trace", str(trace)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {trace}") and words in said and said.count("\n") == 1


def test_main_refuses_a_trace_that_the_model_cannot_hold_before_it_starts_servers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "t.jsonl"
    request = '{"request": 0, "arrival_s": 0.5, "system": "s", "question_tokens": 10, "output_tokens": 4}\n'
    trace.write_text(HEAD + '{"text": "s", "tokens": 1000000000000}\n' + request)
    assert main(["--systems", "vllm", "--out", str(tmp_path / "run"), "--trace", str(trace)]) == 2
    assert "request 0 does not fit the model's context of 4096 tokens" in capsys.readouterr().err


def test_folder_is_refused_when_a_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out .*file: no folder can be there"):
        folders.made(tmp_path / "file")
    with pytest.raises(ConfigError, match="no folder can be there"), RunFolder.opened(tmp_path / "file", {}):
        pass


def test_folder_is_refused_when_it_holds_other_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="holds other files"):
        folders.made_empty(tmp_path)


def test_load_test_is_refused_when_its_folder_is_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert load_main(["http://127.0.0.1:1", "--out", str(tmp_path / "file")]) == 2
    assert "no folder can be there" in capsys.readouterr().err
