"""How concurrent requests are batched: the one table of options and their defaults.

`tfllm serve` takes its options from here, and so does the `batching.config` that `tfllm export`
writes for TensorFlow Serving. Both servers run TensorFlow's batch scheduler; docs/serving.md
("Batching") lists where an option does not mean the same in both.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchingOptions:
    """How concurrent requests are batched."""

    # More rows raise the throughput, but every row waits for the longest text of its batch.
    max_batch_size: int = 8
    """most rows in one run of the model; a request of more rows is split into several runs"""
    # Short compared with the time of a generated text; callers in a loop return within it.
    batch_timeout_micros: int = 10_000
    """longest time that a request waits for others to fill the batch, in microseconds"""
    # One run already uses every core.
    num_batch_threads: int = 1
    """batches that run at the same time"""
    # A request behind 100 batches of generated text waits for minutes; better refuse it at once.
    max_enqueued_batches: int = 100
    """full batches that may wait; requests beyond that are refused with UNAVAILABLE"""

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
        """Most rows that one request may have."""
        return self.max_enqueued_batches * self.max_batch_size

    @property
    def max_pending_requests(self) -> int:
        """Most requests that may be running or waiting at once, in all of `tfllm serve`."""
        return (self.max_enqueued_batches + self.num_batch_threads) * self.max_batch_size


DEFAULT_BATCHING = BatchingOptions()
"""the defaults of `tfllm serve` and of the deployment files"""
