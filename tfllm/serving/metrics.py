"""Counts of what the server did, as a Prometheus page.

Request counts and latencies carry TensorFlow Serving's names, so its dashboards read them.
"""

from __future__ import annotations

import bisect
import threading
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

_LATENCY_BOUNDS = [100.0 * 2**k for k in range(22)]  # microseconds, 0.1 ms to 7 minutes


class _Histogram:
    def __init__(self, bounds: list[float]) -> None:
        self.bounds = bounds
        self.counts = [0.0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += weight
        self.total += value * weight

    def lines(self, name: str, labels: str) -> Iterable[str]:
        cumulative = 0.0
        for bound, count in zip([*self.bounds, float("inf")], self.counts, strict=True):
            cumulative += count
            shown = "+Inf" if bound == float("inf") else f"{bound:g}"
            yield f'{name}_bucket{{{labels},le="{shown}"}} {cumulative:.12g}'
        yield f"{name}_sum{{{labels}}} {self.total:.12g}"
        yield f"{name}_count{{{labels}}} {cumulative:.12g}"


class Metrics:
    """Safe to call from many threads."""

    def __init__(self, max_batch_size: int) -> None:
        self._lock = threading.Lock()
        sizes = [float(size) for size in range(1, max_batch_size + 1)]
        self._requests: dict[tuple, int] = defaultdict(int)
        self._latency: dict[tuple, _Histogram] = defaultdict(lambda: _Histogram(_LATENCY_BOUNDS))
        self._batches: dict[tuple, _Histogram] = defaultdict(lambda: _Histogram(sizes))
        self._tokens: dict[tuple, int] = defaultdict(int)

    def request(self, model: str, api: str, entrypoint: str, code: str, seconds: float) -> None:
        """One request that ended: `api` such as "Predict", `entrypoint` "REST" or "GRPC"."""
        with self._lock:
            self._requests[model, code] += 1
            if code == "OK":
                self._latency[model, api, entrypoint].add(seconds * 1e6)

    def batches(self, model: str, signature: str, sizes: list[int]) -> None:
        """For each row of a request, how many rows ran together with it."""
        with self._lock:
            for size, rows in zip(*np.unique(sizes, return_counts=True), strict=True):
                # A row is 1/size of its batch, so that the batch counts once over all requests.
                self._batches[model, signature].add(float(size), float(rows) / float(size))

    def tokens(self, model: str, kind: str, count: int) -> None:
        """Tokens read ("prompt") or written ("generated")."""
        with self._lock:
            self._tokens[model, kind] += count

    def page(self) -> str:
        """The Prometheus text format."""
        lines: list[str] = []

        def family(name: str, kind: str) -> str:
            lines.append(f"# TYPE {name} {kind}")
            return name

        with self._lock:
            name = family(":tensorflow:serving:request_count", "counter")
            for (model, code), count in sorted(self._requests.items()):
                lines.append(f'{name}{{model_name="{_escape(model)}",status="{code}"}} {count}')
            name = family(":tensorflow:serving:request_latency", "histogram")
            for (model, api, entrypoint), histogram in sorted(self._latency.items()):
                labels = f'model_name="{_escape(model)}",API="{api}",entrypoint="{entrypoint}"'
                lines.extend(histogram.lines(name, labels))
            name = family("tfllm_batch_size", "histogram")
            for (model, signature), histogram in sorted(self._batches.items()):
                labels = f'model_name="{_escape(model)}",signature="{_escape(signature)}"'
                lines.extend(histogram.lines(name, labels))
            name = family("tfllm_tokens_total", "counter")
            for (model, kind), count in sorted(self._tokens.items()):
                lines.append(f'{name}{{model_name="{_escape(model)}",kind="{kind}"}} {count}')
        return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
