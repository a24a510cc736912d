"""The demo's corpus: present in every Python, the same each time, and not too large."""

import os
import subprocess
import sys
from pathlib import Path

from mygo.cli.python_docs import MODULES, write_python_docs


def test_python_docs_fit_the_demo_when_written(tmp_path: Path) -> None:
    files = write_python_docs(tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in files}
    assert "python/topics/with.txt" in names
    assert {f"python/library/{name}.md" for name in MODULES} <= names
    sizes = [path.stat().st_size for path in files]
    assert min(sizes) > 100
    assert 500_000 < sum(sizes) < 1_500_000  # a slow core embeds it in about a minute


def test_python_docs_are_the_same_when_another_process_writes_them(tmp_path: Path) -> None:
    """Otherwise ingesting a second time would send everything again."""
    here = {path.name: path.read_bytes() for path in write_python_docs(tmp_path / "a")}
    code = (
        "import sys, pathlib, mygo.cli.python_docs as docs; docs.write_python_docs(pathlib.Path(sys.argv[1]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONIOENCODING": "latin-1", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True, env=environment)
    there = {path.name: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    assert here == there
