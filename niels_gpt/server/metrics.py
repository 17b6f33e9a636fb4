"""What Prometheus reads at `/metrics`: the engine's own counts, and two histograms over replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine import JobStatistics, Statistics

_FIRST_TOKEN = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BETWEEN = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)

_GAUGES = {
    "queue_jobs": ("Jobs that wait for a place in the batch", "queued"),
    "running_jobs": ("Jobs in the batch", "running"),
    "batch_occupancy_ratio": ("Sequences in a step on average, over the batch's size", "occupancy"),
}
_COUNTERS = {
    "jobs_submitted": ("Jobs that were accepted", "submitted"),
    "jobs_done": ("Jobs that ended with a whole reply", "done"),
    "jobs_cancelled": ("Jobs that were cancelled", "cancelled"),
    "jobs_failed": ("Jobs that failed", "failed"),
    "jobs_rejected": ("Requests that found the queue full", "rejected"),
    "tokens": ("Tokens generated", "tokens"),
    "prompt_tokens": ("Tokens of prompts, of ended jobs", "prompt_tokens"),
    "reused_tokens": ("Of these, tokens that the prefix cache had", "reused_tokens"),
    "steps": ("Steps of the decoder", "steps"),
    "busy_seconds": ("Time that the compute thread spent decoding", "busy_seconds"),
}


class Metrics(Collector):
    """The metrics of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._statistics: Callable[[], Statistics] | None = None
        self._first = Histogram(
            "niels_first_token_seconds",
            "From the request to the first token",
            buckets=_FIRST_TOKEN,
            registry=self._registry,
        )
        self._between = Histogram(
            "niels_inter_token_seconds",
            "Mean time between the tokens of a reply",
            buckets=_BETWEEN,
            registry=self._registry,
        )

    def read_from(self, statistics: Callable[[], Statistics]) -> None:
        """Read an engine's counts from now on."""
        self._statistics = statistics

    def observe(self, job: JobStatistics) -> None:
        """Count a job that has ended."""
        if job.first_token is not None:
            self._first.observe(job.first_token)
            if job.tokens > 1:
                self._between.observe((job.total - job.first_token) / (job.tokens - 1))

    def collect(self) -> Iterator[Metric]:
        """Give the engine's counts."""
        if self._statistics is None:
            return
        now = self._statistics()
        for name, (meaning, field) in _GAUGES.items():
            yield GaugeMetricFamily(f"niels_{name}", meaning, value=getattr(now, field) or 0)
        for name, (meaning, field) in _COUNTERS.items():
            yield CounterMetricFamily(f"niels_{name}", meaning, value=getattr(now, field))

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)
