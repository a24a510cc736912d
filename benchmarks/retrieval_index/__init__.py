"""Index kinds of ``mygo/retrieval`` on synthetic vectors: recall, speed, memory, staged against one go."""
