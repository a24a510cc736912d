"""What one request costs beside retrieval and generation: the pieces of ``benchmarks.overhead``."""
