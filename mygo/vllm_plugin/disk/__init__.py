"""KV on disk: vLLM's slowest tier, persistent, verified, bounded, and never in anybody's way.

Read in this order: ``tier`` (what vLLM calls), ``store`` (decides, in the scheduler's thread), ``catalog``
(who is here and who leaves), ``tasks`` and ``pool`` (what I/O threads do), ``files`` and ``format`` (what
lies on disk), ``namespace`` (which KV may share a folder), ``health`` (failing and slow drives).

Why not vLLM's own file system tier: it never evicts, verifies nothing, and reads a request's chunks one
after the other in one thread.
"""
