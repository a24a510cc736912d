"""Tiers against vLLM's own offloading, emulated: ``python -m benchmarks.tiers``."""
