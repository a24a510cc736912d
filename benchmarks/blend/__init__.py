"""Chunk reuse end to end on emulated engines, against exact caching with the same memory."""
