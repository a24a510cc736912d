"""PURE. Segment keys, sharing domains, the cost profile T(cached, new) and (later) the knowledge tree.

Everything that the engine plugin, the directory and the router must agree on lives here: if two of
them computed it apart, a hit would silently become a miss, or worse, a miss a hit.
"""
