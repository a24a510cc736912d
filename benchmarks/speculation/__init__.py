"""What prefilling beside retrieval is worth. See ``__main__``."""
