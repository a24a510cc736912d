"""PURE. Who holds what: the cluster's view of all workers' caches, at segment granularity.

Workers report residency in sequenced batches; ``Directory`` turns these into a tree of segments with
their holders and answers ``locate(path)``. It is event-sourced: every accepted change has a version,
and a ``Replica`` that replays the changes answers the same without a remote call. What it says is a
hint: the worker is the truth (a stale entry costs milliseconds, never an answer).

``tree.py`` the segments -> ``directory.py`` sequences, dispatches, versions -> ``replica.py`` copies.
"""

from mygo.directory.directory import Announcement, Applied, Changes, Delta, Directory, Full, Version
from mygo.directory.replica import Replica, Synced

__all__ = ["Announcement", "Applied", "Changes", "Delta", "Directory", "Full", "Replica", "Synced", "Version"]
