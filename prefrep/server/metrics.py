"""Counters and histograms for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """What a server counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # What every metric of a server has in front of its name.
        kept = {"registry": self.registry, "namespace": "prefrep"}
        self.requests = Counter("requests", "Requests by path and status.", ["path", "status"], **kept)  # type: ignore[arg-type]
        self.seconds = Histogram("request_seconds", "Time from request to answer.", ["path"], buckets=SECONDS, **kept)  # type: ignore[arg-type]
        self.read = Counter("tokens_read", "Tokens that models have read.", ["model"], **kept)  # type: ignore[arg-type]
        self.shared = Counter("tokens_shared", "Tokens that were not read again, since texts shared them.", ["model"], **kept)  # type: ignore[arg-type]
        self.batches = Histogram("batch_sequences", "Distinct texts of a forward pass.", ["model"], buckets=SIZES, **kept)  # type: ignore[arg-type]
        self.waiting = Gauge("queue_sequences", "Texts that are not answered yet.", ["model"], **kept)  # type: ignore[arg-type]
        self.dropped = Counter("dropped", "Records whose client left before they were read.", ["model"], **kept)  # type: ignore[arg-type]
        self.groups = Counter("groups", "Groups of single responses, by whether they filled.", ["filled"], **kept)  # type: ignore[arg-type]

    def of(self, model: str) -> ModelMetrics:
        """Return the part of a model."""
        return ModelMetrics(self, model)

    def text(self) -> bytes:
        """Return all of it in Prometheus' format."""
        return generate_latest(self.registry)


class ModelMetrics:
    """What the engine of one model counts.

    Args:
        metrics: Those of the server.
        model: Name of the model.
    """

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model

    def batch(self, sequences: int, read: int, asked: int) -> None:
        """See `engine.Meter`."""
        self._metrics.batches.labels(self._model).observe(sequences)
        self._metrics.read.labels(self._model).inc(read)
        self._metrics.shared.labels(self._model).inc(max(asked - read, 0))

    def dropped(self, count: int) -> None:
        """See `engine.Meter`."""
        self._metrics.dropped.labels(self._model).inc(count)
