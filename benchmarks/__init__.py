"""Measurements and acceptance runs over a real cluster. `README.md` says what each command measures."""
