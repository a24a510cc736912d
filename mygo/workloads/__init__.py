"""PURE but for the loaders. Traces: what requests ask of which documents, and when.

``trace`` is the format; it is made from a ``recipe`` with a seed (``generate``), or read from a recorded
trace (``files.load``). ``presets`` are recipes after published workloads; ``statistics`` says what a trace
is like; ``cut`` makes it shorter or faster. Used by the simulator and by the benchmarks, so that both
serve the same requests.

Why lengths without texts: published traces have no texts, and counting reuse needs none; whoever serves a
trace to a real engine synthesises texts of these lengths.
"""

from mygo.workloads.cut import first, scaled
from mygo.workloads.files import load, save
from mygo.workloads.generate import generate
from mygo.workloads.presets import PRESETS, Preset, preset
from mygo.workloads.recipe import Recipe
from mygo.workloads.statistics import Statistics, describe
from mygo.workloads.trace import Text, TextId, Trace, TraceRequest, Update

__all__ = [
    "PRESETS",
    "Preset",
    "Recipe",
    "Statistics",
    "Text",
    "TextId",
    "Trace",
    "TraceRequest",
    "Update",
    "describe",
    "first",
    "generate",
    "load",
    "preset",
    "save",
    "scaled",
]
