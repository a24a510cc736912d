from __future__ import annotations

import numpy as np
import pytest

from mygo.calibration.measure import f1, kl


def test_kl_is_that_of_the_whole_distribution() -> None:
    p, q = np.log([0.5, 0.25, 0.25]), np.log([0.25, 0.5, 0.25])
    assert kl(p, q) == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2))
    assert kl(p, p) == 0


@pytest.mark.parametrize(
    ("said", "answer", "expected"),
    [
        ("The Denver Broncos.", "Denver Broncos", 1.0),
        ("It was Denver", "Denver Broncos", 2 * 1 / 5),
        ("Carolina", "Denver Broncos", 0.0),
        ("", "Denver", 0.0),
        ("Four four", "four", 2 / 3),
    ],
)
def test_f1_counts_words_as_squad_does(said: str, answer: str, expected: float) -> None:
    assert f1(said, answer) == pytest.approx(expected)
