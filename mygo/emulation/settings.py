"""What of an engine's configuration the scheduler sees."""

from __future__ import annotations

from dataclasses import dataclass, field

from mygo.config import ModelConfig
from mygo.emulation.profile import EngineProfile
from mygo.errors import ConfigError
from mygo.vllm_plugin.settings import ChunkSettings, TierSettings

VLLM_POLICIES = ("lru", "arc")
"""Of vLLM's own offloading."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """As in vLLM and in the ``model`` section of the configuration. Hashable: it names a vLLM config."""

    device_tokens: int
    """Capacity of the device KV cache."""
    block_tokens: int = 16
    max_context_tokens: int = 32_768
    step_tokens: int = 8192
    """Most tokens per engine step."""
    long_prefill_tokens: int = 0
    """Most tokens of one prompt per step while others are there too; 0 for no such limit."""
    max_running: int = 256
    sibling_hold: bool = True
    vocabulary: int = 32_000
    """Token ids are below this."""
    tiers: TierSettings = field(default_factory=TierSettings)
    """Tiers behind the device. The disk needs no path here; both links' speeds come from the profile."""
    chunks: ChunkSettings = field(default_factory=ChunkSettings)
    """Reuse of documents behind other text. The disk needs no path here. Nothing is computed, so nothing can
    be compared: there is no quality guard, and whatever asks for it is blended."""
    vllm_offloading: bool = False
    """vLLM's own offloading in place of ours, with the policy of ``tiers``, lru or arc; to compare with."""

    def __post_init__(self) -> None:
        if self.device_tokens < 2 * self.block_tokens:
            raise ConfigError(
                f"a KV cache of {self.device_tokens} tokens holds less than two blocks of "
                f"{self.block_tokens}: raise model.kv_cache_bytes"
            )
        if self.tiers.disk_bytes and not self.tiers.host_bytes:
            raise ConfigError(
                "tiers.disk_bytes: what lies on disk passes through host memory: set tiers.host_bytes, too"
            )
        if self.vllm_offloading and self.tiers.policy not in VLLM_POLICIES:
            raise ConfigError(
                f"tiers.policy {self.tiers.policy!r}: vLLM's own offloading has {' and '.join(VLLM_POLICIES)}"
            )
        if self.step_tokens < self.max_running:
            raise ConfigError(
                f"steps of {self.step_tokens} tokens cannot serve {self.max_running} running requests: "
                "raise model.step_tokens or lower model.max_running"
            )

    @classmethod
    def of(cls, model: ModelConfig, profile: EngineProfile, *, vocabulary: int = 32_000) -> EngineSettings:
        """The settings that a configuration asks for, with the KV size of the emulated model.

        Raises ConfigError if ``model.kv_cache_bytes`` holds less than two blocks, or steps are too small.
        """
        return cls(
            device_tokens=profile.device_tokens(model.kv_cache_bytes),
            block_tokens=model.block_tokens,
            max_context_tokens=model.max_context_tokens,
            step_tokens=model.step_tokens,
            long_prefill_tokens=model.long_prefill_tokens,
            max_running=model.max_running,
            vocabulary=vocabulary,
        )
