"""What ``mygo ingest`` sends, skips and replaces."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.cli.ingest import LocalFile, find_files, plan
from mygo.errors import BadRequest


def local(name: str, sha256: str = "a") -> LocalFile:
    return LocalFile(name, Path(name), 10, sha256)


def entry(file_id: str, name: str, sha256: str = "a", status: str = "completed") -> dict[str, Any]:
    return {"id": file_id, "status": status, "attributes": {"path": name, "sha256": sha256}}


def test_plan_uploads_everything_when_the_store_is_empty() -> None:
    files = [local("a.md"), local("b.md")]
    assert plan(files, []).upload == tuple(files)


def test_plan_skips_when_name_and_hash_are_there() -> None:
    todo = plan([local("a.md")], [entry("file-1", "a.md")])
    assert (todo.unchanged, todo.upload, dict(todo.await_ids)) == (1, (), {})


def test_plan_replaces_when_the_content_changed() -> None:
    todo = plan([local("a.md", "new")], [entry("file-1", "a.md", "old")])
    assert todo.upload == (local("a.md", "new"),)
    assert todo.replaced["a.md"] == ("file-1",)


def test_plan_waits_when_an_earlier_run_was_interrupted() -> None:
    todo = plan([local("a.md")], [entry("file-1", "a.md", status="in_progress")])
    assert dict(todo.await_ids) == {"file-1": local("a.md")}
    assert not todo.upload


def test_plan_sends_again_when_it_had_failed() -> None:
    todo = plan([local("a.md")], [entry("file-1", "a.md", status="failed")])
    assert todo.upload == (local("a.md"),)
    assert todo.replaced["a.md"] == ("file-1",)


def test_plan_ignores_entries_when_others_attached_them() -> None:
    foreign = [
        {"id": "file-9", "status": "completed", "attributes": {}},
        {"id": "file-8", "status": "failed"},
    ]
    assert plan([local("a.md")], foreign).replaced["a.md"] == ()


names = st.sampled_from(["a.md", "b.md", "c/d.txt"])
files = st.dictionaries(names, st.sampled_from("xyz")).map(
    lambda by_name: [local(name, sha256) for name, sha256 in by_name.items()]
)
entries = st.lists(
    st.tuples(names, st.sampled_from("xyz"), st.sampled_from(["completed", "in_progress", "failed"]))
).map(lambda rows: [entry(f"file-{index}", *row) for index, row in enumerate(rows)])


@given(files, entries)
def test_plan_reaches_a_fixed_point_when_carried_out(
    local_files: list[LocalFile], store: list[dict[str, Any]]
) -> None:
    """After the plan has been carried out, the same request finds nothing left to do."""
    todo = plan(local_files, store)
    assert len(todo.upload) + len(todo.await_ids) + todo.unchanged == len(local_files)
    gone = {old for ids in todo.replaced.values() for old in ids}
    after = [{**row, "status": "completed"} if row["id"] in todo.await_ids else row for row in store]
    after = [row for row in after if row["id"] not in gone]
    after += [entry(f"new-{file.name}", file.name, file.sha256) for file in todo.upload]
    again = plan(local_files, after)
    assert (again.upload, dict(again.await_ids), again.unchanged) == ((), {}, len(local_files))


def test_find_files_walks_folders_in_order_and_names_what_it_skips(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "sub").mkdir(parents=True)
    (docs / ".git").mkdir()
    (docs / ".git" / "config.txt").write_text("hidden")
    (docs / "b.md").write_text("b")
    (docs / "sub" / "a.txt").write_text("a")
    (docs / "picture.png").write_bytes(b"\x89PNG")
    found, skipped = find_files([docs])
    assert [file.name for file in found] == ["docs/b.md", "docs/sub/a.txt"]
    assert list(skipped) == ["docs/picture.png"]


def test_find_files_takes_a_file_when_it_is_named_itself(tmp_path: Path) -> None:
    path = tmp_path / "NOTES"
    path.write_text("text without an extension")
    found, skipped = find_files([path])
    assert [file.name for file in found] == ["NOTES"]
    assert not skipped


def test_find_files_refuses_a_path_when_it_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no such file or folder"):
        find_files([tmp_path / "nothing"])


def test_files_are_named_as_skipped_when_another_has_their_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "readme.md").write_text(folder)
    first, second = tmp_path / "a" / "readme.md", tmp_path / "b" / "readme.md"
    found, skipped = find_files([first, first, second])
    assert [file.path for file in found] == [first]
    assert list(skipped) == [str(second)] and "common folder" in skipped[str(second)]
