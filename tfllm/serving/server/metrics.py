"""Metrics of the server, as a Prometheus page.

Request counts and latencies have the names, labels and bounds of TensorFlow Serving, so that its
dashboards can read them.
"""

from __future__ import annotations

import bisect
import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tfllm.serving.server.servable import Prediction

# In microseconds, from 10 us to about 25 minutes. They are those of TensorFlow Serving, so that the
# histograms of both can be added.
_LATENCY_BOUNDS = [10 * 1.8**k for k in range(33)]


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
    """The metrics of a server. Its methods may be called from many threads.

    Args:
        max_batch_size: most rows in one run of a model.
    """

    def __init__(self, max_batch_size: int) -> None:
        self._lock = threading.Lock()
        sizes = [float(size) for size in range(1, max_batch_size + 1)]
        self._requests: dict[tuple, int] = defaultdict(int)
        self._latency: dict[tuple, _Histogram] = defaultdict(lambda: _Histogram(_LATENCY_BOUNDS))
        self._runtime: dict[tuple, _Histogram] = defaultdict(lambda: _Histogram(_LATENCY_BOUNDS))
        self._batches: dict[tuple, _Histogram] = defaultdict(lambda: _Histogram(sizes))
        self._tokens: dict[tuple, int] = defaultdict(int)

    def request(self, model: str, api: str, entrypoint: str, code: str, seconds: float) -> None:
        """Count a request that ended.

        Args:
            model: name of the model; "" if it is not served, because clients could make the page
                grow without limit by sending other names.
            api: as in TensorFlow Serving: over REST the word in the path ("predict"; "" for status
                and metadata), over gRPC the name of the call ("Predict").
            entrypoint: "REST" or "GRPC".
            code: the canonical status code. The time of a request counts only if it is "OK".
            seconds: time that the request took.
        """
        with self._lock:
            self._requests[model, code] += 1
            if code == "OK":
                self._latency[model, api, entrypoint].add(seconds * 1e6)

    def prediction(self, model: str, api: str, signature: str, prediction: Prediction) -> None:
        """Count the time, the batches and, if the outputs say so, the tokens of a prediction.

        Args:
            model: name of the model.
            api: "Predict", "Classify" or "Regress".
            signature: name of the signature.
            prediction: the outputs and how they were computed.
        """
        with self._lock:
            self._runtime[model, api].add(prediction.seconds * 1e6)
        self.batches(model, signature, prediction.batch_sizes)
        for kind in ("prompt", "generated"):
            counts = prediction.outputs.get(f"{kind}_tokens")
            if counts is not None and np.issubdtype(counts.dtype, np.integer):
                self.tokens(model, kind, int(counts.sum()))

    def batches(self, model: str, signature: str, sizes: list[int]) -> None:
        """Count the batches of a request, from the sizes of the batches of its rows."""
        with self._lock:
            for size, rows in zip(*np.unique(sizes, return_counts=True), strict=True):
                # A row counts as 1/size of a batch, so that a batch counts once over all requests.
                self._batches[model, signature].add(float(size), float(rows) / float(size))

    def tokens(self, model: str, kind: str, count: int) -> None:
        """Count tokens of a kind: "prompt" or "generated"."""
        with self._lock:
            self._tokens[model, kind] += count

    def page(self) -> str:
        """The page in Prometheus' text format."""
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
            name = family(":tensorflow:serving:runtime_latency", "histogram")
            for (model, api), histogram in sorted(self._runtime.items()):
                labels = f'model_name="{_escape(model)}",API="{api}",runtime="TF1"'
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
