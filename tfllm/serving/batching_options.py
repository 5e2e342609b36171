"""How requests are batched: the one table that `tfllm serve` and the deployment files take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchingOptions:
    """How requests are joined; the names are those of TensorFlow Serving's batching parameters."""

    max_batch_size: int = 8
    """most rows in one run of the model; a request of more rows is split into several runs"""
    batch_timeout_micros: int = 10_000
    """longest that a request waits for others, in microseconds"""
    num_batch_threads: int = 1
    """runs at the same time; one run already uses every core"""
    max_enqueued_batches: int = 100
    """full batches that may wait; beyond that requests are refused with UNAVAILABLE"""

    def __post_init__(self) -> None:
        for name, least in (
            ("max_batch_size", 1),
            ("batch_timeout_micros", 0),
            ("num_batch_threads", 1),
            ("max_enqueued_batches", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; received {getattr(self, name)}")

    @property
    def max_request_rows(self) -> int:
        """Rows that one request may have."""
        return self.max_enqueued_batches * self.max_batch_size

    @property
    def max_pending_requests(self) -> int:
        """Requests that may be under way or waiting at once."""
        return (self.max_enqueued_batches + self.num_batch_threads) * self.max_batch_size


DEFAULT_BATCHING = BatchingOptions()
"""of `tfllm serve` and of the deployment files"""
