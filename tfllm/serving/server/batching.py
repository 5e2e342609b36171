"""Concurrent requests of one signature, run together by TensorFlow's own batch scheduler.

`BatchFunction` is the op behind `tf.nondifferentiable_batch_function` and the same scheduler as
TensorFlow Serving's: it joins the rows of waiting calls, runs the model once and hands each call
its own rows. It is used as a raw op because the Python wrapper gives every batched function the
same `shared_name`, and two models would then meet in one queue.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from tfllm.serving.batching_options import BatchingOptions
from tfllm.serving.protocol.errors import ServingError


def batched_function(
    run: Callable[..., Sequence[tf.Tensor]],
    input_specs: Sequence[tf.TensorSpec],
    options: BatchingOptions,
    *,
    scheduler: str,
    queue: str,
) -> Callable[..., list[tf.Tensor]]:
    """`run` behind TensorFlow's batch scheduler.

    Args:
        run: tensors to tensors, all with the batch as dimension 0.
        input_specs: of its inputs, dimension 0 open.
        options: sizes and limits.
        scheduler: name of the threads that run batches. Calls with one name share them.
        queue: name of the queue in that scheduler. Only calls of one function may share it.

    Returns:
        A function of the same inputs. It blocks until its rows are done and returns the outputs of
        `run` and, last, an int32 of shape [rows]: how many rows ran together with each.
    """

    def with_batch_size(*inputs: tf.Tensor) -> list[tf.Tensor]:
        rows = tf.shape(inputs[0])[0]
        return [*run(*inputs), tf.fill([rows], rows)]

    computation = tf.function(with_batch_size, autograph=False).get_concrete_function(*input_specs)
    # With every size from 1 to the maximum allowed, no row is added to fill a batch, and the
    # scheduler splits larger requests; `max_batch_size` is then its limit of one request's rows.
    sizes = list(range(1, options.max_batch_size + 1))

    def call(*inputs: tf.Tensor) -> list[tf.Tensor]:
        return tf.raw_ops.BatchFunction(
            in_tensors=list(inputs),
            captured_tensors=computation.captured_inputs,
            f=computation,
            num_batch_threads=options.num_batch_threads,
            max_batch_size=2**31 - 1,
            # Calls come in groups that were let in together, but one after the other: each needs
            # Python's lock. A group that is cut in two costs a whole run; a full one never waits.
            batch_timeout_micros=options.batch_timeout_micros,
            Tout=[output.dtype for output in computation.outputs],
            max_enqueued_batches=options.max_enqueued_batches,
            allowed_batch_sizes=sizes,
            shared_name=scheduler,
            batching_queue=queue,
            enable_large_batch_splitting=True,
        )

    return tf.function(call, autograph=False).get_concrete_function(*input_specs)


class RequestLimit:
    """At most `limit` holders at once; one more is refused, not queued."""

    def __init__(self, limit: int, code: str, message: str) -> None:
        self.limit = limit
        self._code = code
        self._message = message
        self._count = 0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Holders now."""
        return self._count

    @contextmanager
    def hold(self) -> Iterator[None]:
        """One place, while the block runs.

        Raises:
            ServingError: every place is taken.
        """
        with self._lock:
            if self._count >= self.limit:
                raise ServingError(self._code, self._message)
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1


class _Group:
    """Tickets that were let in together."""

    def __init__(self) -> None:
        self.tickets = 0
        self.pending = 0
        self.rows = 0
        self.started = time.monotonic()


class _Ticket:
    """A request that waits to be let in."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.arrived = time.monotonic()
        self.group: _Group | None = None
        self.wake = threading.Event()


class BatchGate:
    """Lets requests into the batch scheduler in groups, so that callers in a loop stay together.

    The scheduler alone starts whatever waits the moment a run ends. Of eight clients that each
    send their next request when the last is answered, one that came late would then forever run
    alone, and the seven others after it. The gate holds requests while a run is under way; when
    it ends, it waits for the callers that were just answered, at most `batch_timeout_micros` and
    no longer than a run takes, and lets all in at once. A first request waits no longer than a
    tenth of a run, so a single client loses next to nothing.
    """

    def __init__(self, options: BatchingOptions) -> None:
        self._max_rows = options.max_batch_size
        self._slots = options.num_batch_threads
        self._timeout = options.batch_timeout_micros / 1e6
        self._lock = threading.Lock()
        self._waiting: collections.deque[_Ticket] = collections.deque()
        self._waiting_rows = 0
        self._running = 0
        self._expected = 1  # rows of callers that were running or waiting when the last run ended
        self._return_until = float("-inf")  # till then they are waited for
        self._last_run_seconds = float("inf")

    def run(self, rows: int, alone: Callable[[], Any], together: Callable[[], Any]) -> Any:
        """The result of `alone()` if this request is let in by itself, else of `together()`."""
        ticket = self._enter(rows)
        assert ticket.group is not None
        try:
            return alone() if ticket.group.tickets == 1 else together()
        finally:
            self._leave(ticket.group)

    def _enter(self, rows: int) -> _Ticket:
        ticket = _Ticket(rows)
        with self._lock:
            self._waiting.append(ticket)
            self._waiting_rows += rows
            self._admit()
        while ticket.group is None:
            with self._lock:
                heads = self._running < self._slots and self._waiting[0] is ticket
                wait = max(self._deadline() - time.monotonic(), 0) if heads else None
            ticket.wake.wait(wait)
            ticket.wake.clear()
            with self._lock:
                if ticket.group is None:
                    self._admit()
        return ticket

    def _deadline(self) -> float:
        """When the first of those that wait is let in at the latest, if a slot is free."""
        window = min(self._timeout, 0.1 * self._last_run_seconds)
        return max(self._return_until, self._waiting[0].arrived + window)

    def _admit(self) -> None:
        """Forms groups while there is a free slot. The lock is held."""
        while self._waiting and self._running < self._slots:
            now = time.monotonic()
            wanted = self._max_rows
            if now < self._return_until:
                wanted = min(wanted, self._expected)
            if self._waiting_rows < wanted and now < self._deadline():
                return
            group = _Group()
            while self._waiting and (
                not group.tickets or group.rows + self._waiting[0].rows <= self._max_rows
            ):
                ticket = self._waiting.popleft()
                self._waiting_rows -= ticket.rows
                group.tickets += 1
                group.rows += ticket.rows
                ticket.group = group
                ticket.wake.set()
            group.pending = group.tickets
            self._running += 1
            if self._waiting:  # it watches the deadline from now on
                self._waiting[0].wake.set()

    def _leave(self, group: _Group) -> None:
        with self._lock:
            group.pending -= 1
            if group.pending:
                return
            now = time.monotonic()
            self._running -= 1
            self._last_run_seconds = now - group.started
            self._expected = min(group.rows + self._waiting_rows, self._max_rows)
            if self._expected > 1:
                self._return_until = now + min(self._timeout, self._last_run_seconds)
            if self._waiting:
                self._waiting[0].wake.set()
            self._admit()
