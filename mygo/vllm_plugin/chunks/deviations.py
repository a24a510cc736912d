"""Deviations of stored values from exact ones, added up over steps and ranks."""

from __future__ import annotations

from collections.abc import Set
from math import sqrt

import torch

from mygo.blend.variants import DocumentTag


class Deviations:
    """By ticket and document: sums of squares of (stored - exact), and of exact."""

    def __init__(self, squares: dict[tuple[int, DocumentTag], tuple[float, float]] | None = None) -> None:
        self._squares = squares or {}

    def __bool__(self) -> bool:
        return bool(self._squares)

    def __add__(self, other: Deviations) -> Deviations:
        total = dict(self._squares)
        for key, (off, exact) in other._squares.items():
            before_off, before_exact = total.get(key, (0.0, 0.0))
            total[key] = before_off + off, before_exact + exact
        return Deviations(total)

    def add(self, ticket: int, document: DocumentTag, stored: torch.Tensor, exact: torch.Tensor) -> None:
        """Values of equal shape."""
        exact = exact.float()
        off = stored.float() - exact
        squares = float(off.square().sum()), float(exact.square().sum())
        self._squares = (self + Deviations({(ticket, document): squares}))._squares

    def tickets(self) -> Set[int]:
        return {ticket for ticket, _ in self._squares}

    def of(self, ticket: int) -> dict[DocumentTag, float]:
        """|stored - exact| / |exact| of a ticket's documents; those without exact values are left out."""
        return {
            document: sqrt(off / exact)
            for (each, document), (off, exact) in self._squares.items()
            if each == ticket and exact
        }
