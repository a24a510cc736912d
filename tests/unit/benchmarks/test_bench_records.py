"""What is kept of a run, and who may add to it."""

from pathlib import Path

import pytest
from bench_records import record, round_record

from benchmarks.harness.records import RunFolder
from mygo.errors import ConfigError

MANIFEST = {"seed": 1, "requests": 4}


def test_rounds_come_back_as_they_were_kept(tmp_path: Path) -> None:
    first, second = record("a", 0, 1.0), record("a", 1, 2.0)
    with RunFolder.opened(tmp_path / "run", MANIFEST) as run:
        run.add(round_record("a", 0), [second, first])
    with RunFolder.opened(tmp_path / "run", MANIFEST) as again:
        assert again.requests("a", "closed-1") == [first, second]
        assert again.rounds("a", "closed-1") == {0: round_record("a", 0)}
        assert again.rounds("b", "closed-1") == {}


def test_round_does_not_count_when_it_was_cut_off(tmp_path: Path) -> None:
    """Scenario: the machine stops while a round's requests are being written; the run is resumed."""
    with RunFolder.opened(tmp_path, MANIFEST) as run:
        run.add(round_record("a", 0), [record("a", 0, 1.0), record("a", 1, 1.0)])
        raw = tmp_path / "raw" / "a-closed-1.jsonl"
        whole = raw.read_bytes()
        raw.write_bytes(whole + whole.replace(b'"round": 0', b'"round": 1')[:-40])
    with RunFolder.opened(tmp_path, MANIFEST) as run:
        assert [each.request for each in run.requests("a", "closed-1")] == [0, 1]
        again = [record("a", 2, 5.0), record("a", 3, 5.0)]
        run.add(round_record("a", 1), again)
        assert run.requests("a", "closed-1")[2:] == again


def test_folder_is_refused_when_it_holds_another_run(tmp_path: Path) -> None:
    with RunFolder.opened(tmp_path, MANIFEST):
        pass
    with (
        pytest.raises(ConfigError, match=r"holds another run \(seed: 1 there, 2 asked\)"),
        RunFolder.opened(tmp_path, MANIFEST | {"seed": 2}),
    ):
        pass


def test_folder_is_refused_when_it_holds_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.md").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"), RunFolder.opened(tmp_path, MANIFEST):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.md"]


def test_folder_is_refused_when_another_process_writes_there(tmp_path: Path) -> None:
    with (
        RunFolder.opened(tmp_path, MANIFEST),
        pytest.raises(ConfigError, match="another benchmark is writing"),
        RunFolder.opened(tmp_path, MANIFEST),
    ):
        pass


def test_every_start_of_a_server_has_a_folder_of_its_own(tmp_path: Path) -> None:
    with RunFolder.opened(tmp_path, MANIFEST) as run:
        folders = [run.attempt("vllm#2"), run.attempt("vllm#2"), run.attempt("vllm")]
    assert len(set(folders)) == 3
    assert all(folder.is_dir() for folder in folders)
