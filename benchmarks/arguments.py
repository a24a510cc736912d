"""Types of command line arguments: what they refuse, argparse reports with the option's name."""

from __future__ import annotations

import argparse
import math


def count(text: str) -> int:
    """At least 1."""
    if (found := whole_number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return found


def whole_number(text: str) -> int:
    """At least 0: seeds are, because Python's generators take -1 for 1."""
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return int(text)


def positive(text: str) -> float:
    """Above 0 and finite."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return found


def positives(text: str) -> list[float]:
    """Separated by commas."""
    return [positive(part) for part in text.split(",")]
