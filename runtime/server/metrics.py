"""Metrics for Prometheus, with the names of text-embeddings-inference where it has them.

The workers of one server write theirs to files in one folder. Whichever worker is asked, the page has the sums of all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from runtime.machine.limits import read_resident_bytes
from runtime.server.dispatcher import BatchReport

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # of all workers; prometheus_client reads it when it is imported
Mode = Literal["livesum", "liveall"]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = tuple(1 << power for power in range(12))
_TOKENS = tuple(1 << power for power in range(4, 18))
_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        """Make metrics that are all 0."""
        registry = self._registry = CollectorRegistry()
        self._watched: list[tuple[Gauge, Callable[[], float]]] = []
        self._counters: list[str] = []
        self.shared = METRICS_FOLDER in os.environ
        if self.shared:  # of each worker, by process id
            self.watch("process_resident_memory_bytes", "Resident memory", read_resident_bytes, mode="liveall")
        else:
            ProcessCollector(registry=registry)  # resident memory and CPU time; nothing but on Linux

        def histogram(name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, meaning, buckets=buckets, registry=registry)

        def counter(name: str, meaning: str, *labels: str) -> Gauge:
            # The class Counter would write `_total` after a name, and these are the names of the dashboards that exist.
            self._counters.append(name)
            return Gauge(name, meaning, labels, registry=registry, multiprocess_mode="sum")

        self.requests = counter("te_request_count", "Requests by path and status", "path", "status")
        self.success = counter("te_request_success", "Requests that succeeded, by path", "path")
        self.failure = counter("te_request_failure", "Requests that failed, by status", "err")
        self.items = counter("te_embed_count", "Items that were embedded")
        self.duration = histogram("te_request_duration", "Seconds of a POST request that succeeded", _SECONDS)
        self.tokenize = histogram("te_request_tokenization_duration", "Seconds to prepare items", _SECONDS)
        self.serialize = histogram("te_request_serialization_duration", "Seconds to write a response", _SECONDS)
        self._inference = histogram("te_request_inference_duration", "Seconds of a batch", _SECONDS)
        self._waits = histogram("te_request_queue_duration", "Seconds of an item in the queue", _SECONDS)
        self._batch_items = histogram("te_batch_next_size", "Items of a batch", _SIZES)
        self._batch_tokens = histogram("te_batch_next_tokens", "Tokens of a batch, with padding", _TOKENS)
        self._padding = histogram("te_batch_padding_share", "Share of a batch that is padding", _SHARES)

    def watch(self, name: str, meaning: str, read: Callable[[], float], mode: Mode = "livesum") -> None:
        """Show the current value of ``read``. With several workers, ``mode`` combines theirs."""
        self._watched.append((Gauge(name, meaning, registry=self._registry, multiprocess_mode=mode), read))

    def refresh(self) -> None:
        """Read the current values."""
        for gauge, read in self._watched:
            gauge.set(read())

    def report_batch(self, report: BatchReport) -> None:
        """Count one batch."""
        self._inference.observe(report.seconds)
        self._batch_items.observe(report.items)
        self._batch_tokens.observe(report.padded)
        self._padding.observe(1 - report.tokens / report.padded)
        for wait in report.waits:
            self._waits.observe(wait)

    def render(self) -> bytes:
        """Return the page that Prometheus reads."""
        self.refresh()
        registry = self._registry
        if self.shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        page = generate_latest(registry)
        for name in self._counters:
            page = page.replace(f"# TYPE {name} gauge\n".encode(), f"# TYPE {name} counter\n".encode())
        return page
