"""The command line: ``mygo up | ingest | ask | status | check | down | demo``.

Read ``app.py`` first: it lists the commands and turns errors into one line and an exit code. Everything
that talks to a running cluster goes through ``client.py``, over the same HTTP that any client uses, so
the commands work against a remote cluster too.

Exit codes: 0 done; 1 the command ran and the outcome is bad (nothing ingested, cluster not ready, demo
failed); 2 wrong usage, configuration or cluster state, explained in one line; 70 a bug in MyGO; 130
interrupted.
"""

from mygo.cli.app import main

__all__ = ["main"]
