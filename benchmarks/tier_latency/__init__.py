"""What a hit costs in each tier of a real engine. See ``__main__``."""
