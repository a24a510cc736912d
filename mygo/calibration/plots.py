"""Quality against recomputation, as a picture. Needs matplotlib, which is imported only here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mygo.calibration.records import CACHE_ORDER
from mygo.calibration.report import Report
from mygo.errors import ConfigError


def require() -> None:
    """Raises ConfigError without matplotlib: before hours of measuring, not behind them."""
    _pyplot()


def plot(report: Report, path: Path, title: str) -> None:
    """First-token KL and the change of the right answer's likelihood, a line for each method and number of
    documents that questions take; bars reach up to the bootstrap's upper end. Grey dots: cache order."""
    figure, (left, right) = _pyplot().subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    blended = [line for line in report.lines if line.computed_share < 1]
    methods = sorted({line.method for line in blended})
    for method, documents in sorted({(line.method, line.documents) for line in blended}):
        style = {"color": f"C{methods.index(method)}", "linestyle": _styles(documents)[0]}
        lines = sorted(
            (line for line in blended if (line.method, line.documents) == (method, documents)),
            key=lambda line: line.computed_share,
        )
        x = [100 * line.computed_share for line in lines]
        name = f"{method}, {documents} document{'s' if documents > 1 else ''}"
        for axes, means, uppers in (
            (left, [line.kl for line in lines], [line.kl_upper for line in lines]),
            (
                right,
                [line.gold_nats_more for line in lines],
                [line.gold_nats_more_upper for line in lines],
            ),
        ):
            up = [max(0.0, upper - mean) for mean, upper in zip(means, uppers, strict=True)]
            axes.errorbar(x, means, yerr=[[0.0] * len(up), up], marker="o", capsize=3, label=name, **style)
    for line in report.lines:
        if line.method == CACHE_ORDER:
            name = f"{CACHE_ORDER}, {line.documents} document{'s' if line.documents > 1 else ''}"
            for axes, mean in ((left, line.kl), (right, line.gold_nats_more)):
                axes.axhline(mean, color=_styles(line.documents)[1], linestyle=":", label=name)
    for axes, label, bound in (
        (left, "first token: KL(exact || this), nats", report.kl_bound),
        (right, "right answer: nats per token, more than exact", report.gold_nats_bound),
    ):
        axes.axhline(bound, color="black", linestyle="--", label=f"bound {bound:g}")
        axes.set(xlabel="document tokens computed (%)", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
    _pyplot().close(figure)


def _styles(documents: int) -> tuple[str, str]:
    """Of a method's line, and the grey of cache order."""
    return ("-", "0.3") if documents == 1 else ("-.", "0.6")


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError("the plot needs matplotlib: pip install matplotlib, or give --no-plot") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
