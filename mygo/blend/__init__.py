"""PURE. Reuse of a document's KV at any position: what is held, how much of it must be repaired, which
tokens, whether it pays, and whether answers stay good.

Reading order: ``variants`` (nouns), ``cfo`` (how much to repair), ``selection`` (which tokens), ``plan`` (the
decision for one prompt) and ``identity`` (what its blocks may be shared as); ``worth`` and ``catalog`` (which
variants are held where, who leaves first) and ``fillers`` (which to make in idle time); ``betting`` (tests
that hold at any time), ``verdicts``, ``track``, ``suspects`` and ``guard`` (is it still good enough?),
``guard_state``; ``calibrate`` (the least repair that is).

Why apart from ``tree``: a node of the tree is a document *in its path* and exact; a variant is a document
*without its path* and approximate wherever the path is another. Seconds come in as functions, so that both
rooms can be priced by the same profile without knowing each other.
"""
