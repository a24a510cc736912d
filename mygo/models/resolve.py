"""From a model's name in the config to a checked directory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mygo.errors import ConfigError
from mygo.models.demo import Say, resolve_demo

_DEMO = "demo:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WEIGHTS = ("*.safetensors", "*.bin")
# What vLLM and sentence-transformers read; hubs also hold the same weights in other frameworks' formats.
_FETCHED = ("*.json", "*.txt", "*.jinja", "*.model", "*.safetensors", "*.safetensors.index.json")


def resolve(source: str, cache_dir: Path, *, progress: bool = False) -> Path:
    """Directory of the model that ``source`` names, made or fetched if need be.

    ``source``: ``demo:NAME``, an existing local directory, or a Hugging Face id. Several processes may
    call this at once. ``progress`` shows slow steps on the terminal.

    Raises ConfigError that says what is missing and what to do.
    """
    if source.startswith(_DEMO):
        with _steps(progress) as say:
            return resolve_demo(source.removeprefix(_DEMO), cache_dir, say)
    path = Path(source).expanduser()
    if source and path.exists():
        return _checked(path.absolute())
    if not _HUB_ID.fullmatch(source):
        raise ConfigError(
            f"{source or '(empty)'}: no such directory; give the path of a Hugging Face checkpoint, "
            "a Hugging Face id (owner/name), or demo:smollm2-135m-instruct"
        )
    return _from_hub(source, progress)


def tokenizer_path(model_dir: Path) -> Path:
    """The ``tokenizer.json`` of a resolved model, for tokenizing without transformers.

    Raises ConfigError if the checkpoint has none (only a slow tokenizer).
    """
    path = model_dir / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(
            f"{model_dir}: has no tokenizer.json; MyGO needs a fast tokenizer "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(...) writes one where there is any)"
        )
    return path


def _checked(directory: Path) -> Path:
    if not directory.is_dir():
        raise ConfigError(f"{directory}: is a file; give the directory that holds config.json")
    if not (directory / "config.json").is_file():
        raise ConfigError(
            f"{directory}: has no config.json, so it is no Hugging Face checkpoint; "
            "give the directory that holds config.json, the weights and the tokenizer"
        )
    if not any(next(directory.rglob(pattern), None) for pattern in _WEIGHTS):
        raise ConfigError(f"{directory}: has no weights ({' or '.join(_WEIGHTS)}); fetch them into it")
    return directory


def _from_hub(source: str, progress: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    (enable_progress_bars if progress else disable_progress_bars)()
    advice = (
        "check the name and the network, or fetch it elsewhere and give its local path; "
        "gated models also need HF_TOKEN"
    )
    try:
        directory = huggingface_hub.snapshot_download(source, allow_patterns=list(_FETCHED))
    # The client raises its own errors, the HTTP library's and plain OSErrors; for the user all say one thing.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{source}: is neither a local directory nor a model that could be fetched "
            f"({type(error).__name__}: {reason}); {advice}"
        ) from error
    return _checked(Path(directory))


@contextmanager
def _steps(progress: bool) -> Iterator[Say]:
    """A function that shows the present step with a spinner; silent if not ``progress``."""
    if not progress:
        yield lambda step: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("looking for the model") as status:

        def say(step: str) -> None:
            if not console.is_terminal:
                console.print(step)
            status.update(step)

        yield say
