"""``python -m benchmarks.policies``: replacement policies compared on traces, with the production tree."""
