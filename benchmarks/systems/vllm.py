"""vLLM without any reuse, and with its prefix caching."""

from __future__ import annotations

from benchmarks.systems.vllm_server import VllmSystem

VLLM = VllmSystem(
    name="vllm",
    summary="vLLM, prefix caching off: every prompt is computed in full",
    arguments=lambda folder, settings: ["--no-enable-prefix-caching"],
)
VLLM_PREFIX = VllmSystem(
    name="vllm-prefix",
    summary="vLLM with its prefix caching",
    arguments=lambda folder, settings: ["--enable-prefix-caching"],
)
ROWS = (VLLM, VLLM_PREFIX)
