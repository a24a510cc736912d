"""What a model's name may be, and what is said when it is wrong."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from mygo.errors import ConfigError
from mygo.models import demo, resolve, tokenizer_path, verify


def checkpoint(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"")
    return directory


def test_resolve_returns_the_directory_when_local(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "my-model")
    assert resolve(str(model), tmp_path) == model


def test_resolve_is_absolute_when_the_path_is_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path)
    assert resolve("models/mine", tmp_path) == tmp_path / "models" / "mine"


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_resolve_names_what_is_missing_when_a_checkpoint_is_incomplete(tmp_path: Path, missing: str) -> None:
    model = checkpoint(tmp_path / "m")
    (model / missing).unlink()
    with pytest.raises(ConfigError, match=r"config\.json|no weights"):
        resolve(str(model), tmp_path)


def test_resolve_says_so_when_the_path_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="is a file"):
        resolve(str(path), tmp_path)


@pytest.mark.parametrize(
    "source", ["/no/such/model", "./no-such-model", "../no-such-model", "~/no-such-model", "a/b/c", ""]
)
def test_resolve_refuses_a_path_when_nothing_is_there(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError, match="no such directory"):
        resolve(source, tmp_path)


def test_resolve_says_what_to_do_when_the_hub_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"nobody/nothing: is neither .* give its local path"):
        resolve("nobody/nothing", tmp_path)


def test_resolve_lists_the_known_ones_when_a_demo_model_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="demo:smollm2-135m-instruct, demo:all-minilm-l6-v2"):
        resolve("demo:gpt", tmp_path)


def test_resolve_names_the_extra_when_the_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = dataclasses.replace(demo.DEMO_MODELS["all-minilm-l6-v2"], package="no_such_package")
    monkeypatch.setitem(demo.DEMO_MODELS, "all-minilm-l6-v2", absent)
    with pytest.raises(ConfigError, match=r"no_such_package is not installed.*mygo-rag\[demo\]"):
        resolve("demo:all-minilm-l6-v2", tmp_path)


@pytest.mark.parametrize("name", list(demo.DEMO_MODELS))
def test_resolve_refuses_weights_when_the_checksum_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    other = dataclasses.replace(demo.DEMO_MODELS[name], sha256="0" * 64)
    monkeypatch.setitem(demo.DEMO_MODELS, name, other)
    with pytest.raises(ConfigError, match="has SHA-256"):
        resolve(f"demo:{name}", tmp_path)
    assert not list(tmp_path.glob("models/smollm2*"))


def test_resolve_uses_the_embedder_in_place(tmp_path: Path) -> None:
    directory = resolve("demo:all-minilm-l6-v2", tmp_path)
    assert (directory / "modules.json").is_file()
    assert tokenizer_path(directory).is_file()
    assert not list(tmp_path.iterdir())


def test_tokenizer_path_explains_when_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        tokenizer_path(tmp_path)


def test_models_room_leaves_torch_alone_when_imported() -> None:
    code = (
        "import sys, mygo.models; assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.engine
def test_demo_model_answers_when_converted(tmp_path: Path) -> None:
    """The real conversion: same tokenizer and template, and weights that still know a capital."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = resolve("demo:smollm2-135m-instruct", tmp_path)
    verify(directory)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path(directory).parent)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    assert model.dtype == torch.bfloat16
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")[
        "input_ids"
    ]
    with torch.no_grad():
        answer = model.generate(ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, ids.shape[1] :])
