"""The law of a length in tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from mygo.errors import BadTrace

_P90 = 1.2815515655446004
"""The 90th percentile of the standard normal distribution."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal token counts with a given mean, cut at ``most_tokens``; fixed if ``log_sigma`` is 0.

    Lengths of documents and answers are roughly log-normal in published traces; two figures, the mean and
    the 90th percentile, are what papers print (see ``with_p90``).
    """

    mean_tokens: float
    log_sigma: float = 0.0
    """Standard deviation of the logarithm."""
    most_tokens: int | None = None
    """Longer ones are cut to this, which lowers the mean a little."""

    def __post_init__(self) -> None:
        if not self.mean_tokens > 0:
            raise BadTrace(f"mean_tokens: must be above 0, not {self.mean_tokens}")
        if not self.log_sigma >= 0:
            raise BadTrace(f"log_sigma: must be 0 (fixed length) or above, not {self.log_sigma}")
        if self.most_tokens is not None and self.most_tokens < 1:
            raise BadTrace(f"most_tokens: must be at least 1, not {self.most_tokens}")

    @classmethod
    def with_p90(cls, mean_tokens: float, p90_tokens: float, most_tokens: int | None = None) -> Lengths:
        """The law with this mean and 90th percentile.

        From p90 / mean = exp(1.2816 s - s^2 / 2), the smaller root. Raises BadTrace if the ratio is not
        between 1 and 2.27, beyond which no log-normal law has it.
        """
        ratio = p90_tokens / mean_tokens
        discriminant = _P90**2 - 2 * math.log(ratio) if ratio >= 1 else -1.0
        if discriminant < 0:
            raise BadTrace(
                f"p90_tokens: {p90_tokens} is {ratio:.2f} times the mean; a log-normal law has 1 to 2.27"
            )
        return cls(mean_tokens, _P90 - math.sqrt(discriminant), most_tokens)

    def sample(self, rng: Random) -> int:
        """One length, at least 1."""
        tokens = self.mean_tokens
        if self.log_sigma:
            tokens = rng.lognormvariate(math.log(tokens) - self.log_sigma**2 / 2, self.log_sigma)
        whole = max(1, round(tokens))
        return whole if self.most_tokens is None else min(whole, self.most_tokens)
