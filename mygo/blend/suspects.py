"""Tests of many documents' means at once: is one of them broken, while the others are good?

Each document has a claim of its own, that the mean of what is observed of it is at most the bound. The error
is spent over documents in the order in which they are first seen, so that it holds for all of them together,
however many come.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from mygo.blend.betting import MeanTest, portion
from mygo.blend.variants import DocumentTag

WATCHED = 10_000
"""Documents whose evidence is remembered, the latest ones; more begin anew when they come again."""


class Suspects:
    """``error``: how likely any document is ever given up though its claim, a mean of at most ``bound`` in
    (0, 1), holds."""

    def __init__(self, bound: float, error: float) -> None:
        self.bound = bound
        self._error = error
        self.begun = 0
        """Tests so far."""
        self.tests: OrderedDict[DocumentTag, tuple[MeanTest, float]] = OrderedDict()
        """The test of each document, and the evidence at which it is given up; latest last."""

    def observe(self, values: Mapping[DocumentTag, float]) -> list[DocumentTag]:
        """Something was observed of these documents, in [0, 1]. Returns those that are given up for it, most
        often none; they are forgotten here."""
        given_up: list[DocumentTag] = []
        for document, value in values.items():
            if document not in self.tests:
                self.begun += 1
                self.tests[document] = MeanTest(self.bound), 1 / (self._error * portion(self.begun))
            self.tests.move_to_end(document)
            test, threshold = self.tests[document]
            test.observe(value)
            if test.evidence >= threshold:
                given_up.append(document)
        for document in given_up:
            self.forget(document)
        while len(self.tests) > WATCHED:
            self.tests.popitem(last=False)
        return given_up

    def forget(self, document: DocumentTag) -> None:
        self.tests.pop(document, None)
