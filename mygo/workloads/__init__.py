"""PURE but for the loaders. Traces: what requests ask of which documents, and when.

``trace`` is the format; it is made by a recipe with a seed, or read from a recorded trace. Used by
the simulator and by the benchmarks, so that both serve the same requests.
"""

from mygo.workloads.trace import Text, TextId, Trace, TraceRequest, Update

__all__ = ["Text", "TextId", "Trace", "TraceRequest", "Update"]
