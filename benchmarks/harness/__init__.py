"""How a benchmark is run: what is asked when, of whom, and what is kept of it."""
