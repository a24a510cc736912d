"""The metrics of ``mygo/metrics.py`` as Ray metrics, and all of the cluster's as one text.

Ray's agent on each node collects what its processes record and serves it to Prometheus. ``/metrics``
gathers those pages, so that one scrape target works without knowing the nodes; large clusters scrape
the nodes themselves.
"""

from __future__ import annotations

import asyncio
import logging

import httpx
import ray
from ray.util.metrics import Counter, Gauge, Histogram

from mygo import metrics
from mygo.metrics import Kind, Metric

logger = logging.getLogger(__name__)

SCRAPE_TIMEOUT_S = 3.0
PREFIXES = ("ray_mygo_", "mygo_", "ray_serve_", "serve_", "ray_vllm", "vllm")


class Instruments:
    """One process's metrics. Recording is a few microseconds and never fails the caller."""

    def __init__(self) -> None:
        self._made: dict[str, Counter | Gauge | Histogram] = {}
        for metric in metrics.ALL:
            if metric.kind is Kind.COUNTER:
                self._made[metric.name] = Counter(metric.name, metric.help, metric.labels)
            elif metric.kind is Kind.GAUGE:
                self._made[metric.name] = Gauge(metric.name, metric.help, metric.labels)
            else:
                self._made[metric.name] = Histogram(
                    metric.name, metric.help, list(metric.buckets), metric.labels
                )

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Increase a counter; 0 is not recorded."""
        if amount > 0:
            self._made[metric.name].inc(amount, labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        self._made[metric.name].set(value, labels)

    def observe(self, metric: Metric, value: float) -> None:
        # Ray's histograms refuse 0
        self._made[metric.name].observe(max(value, 1e-6))


async def cluster_metrics() -> str:
    """MyGO's, Ray Serve's and vLLM's metrics of all nodes in Prometheus's text format.

    A node that does not answer is left out and named in a comment.
    """
    targets = [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in await asyncio.to_thread(ray.nodes)
        if node["Alive"] and node.get("MetricsExportPort")
    ]
    async with httpx.AsyncClient(timeout=SCRAPE_TIMEOUT_S, trust_env=False) as client:
        pages = await asyncio.gather(*(_page(client, target) for target in targets))
    return merge(pages)


async def _page(client: httpx.AsyncClient, target: str) -> str:
    try:
        response = await client.get(target)
        response.raise_for_status()
    except httpx.HTTPError as error:
        logger.warning("no metrics from %s: %s", target, error)
        return f"# no answer from {target}\n"
    return response.text


def merge(pages: list[str]) -> str:
    """Join pages family by family: the format allows each family's HELP and TYPE only once."""
    families: dict[str, list[str]] = {}
    comments: list[str] = []
    for page in pages:
        family: list[str] | None = None
        for line in page.splitlines():
            if line.startswith("# HELP "):
                name = line.split(" ", 3)[2]
                family = families.setdefault(name, []) if name.startswith(PREFIXES) else None
                if family == []:
                    family.append(line)
            elif line.startswith("# TYPE "):
                if family is not None and len(family) == 1:
                    family.append(line)
            elif line.startswith("#"):
                comments.append(line)
            elif family is not None and line:
                family.append(line)
    lines = comments + [line for family in families.values() for line in family]
    return "\n".join(lines) + "\n"
