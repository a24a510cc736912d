"""The steps of ``benchmarks.accept``: each starts what it needs, measures, and judges itself."""
