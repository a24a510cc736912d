"""PURE. What is known of documents' KV, what it is worth, and who leaves a full tier next.

Everything that the engine plugin, the directory, the emulated engine and the router must agree on lives
here: if two of them computed it apart, a hit would silently become a miss, or worse, a miss a hit.

Reading order: ``keys`` (segment keys, sharing domains) and ``profile`` (the cost T(cached, new)); ``node``
and ``knowledge`` (the tree: facts, no decisions), ``waiting`` (look-ahead); ``policies`` (which node leaves)
and ``shelf`` (one tier's blocks, leaves first); ``cost`` and ``loading`` (load or recompute); ``admission``
(who is served next).

Why the tree is apart from the shelves: frequency, cost and who waits are facts about a document in its
path, the same for all tiers, and outlive its stay in any of them; residency, users and clocks are a tier's
own. Why blocks and not documents: an engine gives and takes blocks, so part of a document can be held.
"""
