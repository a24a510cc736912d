"""What the order of admission is worth. See ``__main__``."""
