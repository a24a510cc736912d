"""What prefilling beside retrieval is worth. See ``__main__``."""

STAGES = 4
"""Of every search."""
