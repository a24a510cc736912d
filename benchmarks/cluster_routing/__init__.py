"""Routers on the same traces, over emulated workers in virtual time. ``__main__`` says what is compared."""
