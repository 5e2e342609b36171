"""Runs concurrent requests of one signature together, with TensorFlow's own batch scheduler.

`BatchFunction` is the op of `tf.nondifferentiable_batch_function` and has the scheduler of
TensorFlow Serving: it joins the rows of waiting calls, runs the model once and returns to each call
its own rows. It is used as a raw op because the Python wrapper gives every batched function the
same `shared_name`, and two models would share one queue.
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
        run: function of tensors to tensors, all with the batch as dimension 0.
        input_specs: specifications of its inputs, with dimension 0 open.
        options: sizes and limits.
        scheduler: name of the threads that run batches. Functions with the same name share them.
        queue: name of the queue in that scheduler. Different functions must not share a queue.

    Returns:
        A function of the same inputs. It blocks until its rows are done and returns the outputs of
        `run`, followed by an int32 tensor of shape [rows]: the size of the batch that each row was
        in.
    """

    def with_batch_size(*inputs: tf.Tensor) -> list[tf.Tensor]:
        rows = tf.shape(inputs[0])[0]
        return [*run(*inputs), tf.fill([rows], rows)]

    computation = tf.function(with_batch_size, autograph=False).get_concrete_function(*input_specs)
    # With all sizes from 1 to the maximum allowed, no row is added to fill a batch, and the
    # scheduler splits larger requests; `max_batch_size` then limits the rows of one request.
    sizes = list(range(1, options.max_batch_size + 1))

    def call(*inputs: tf.Tensor) -> list[tf.Tensor]:
        return tf.raw_ops.BatchFunction(
            in_tensors=list(inputs),
            captured_tensors=computation.captured_inputs,
            f=computation,
            num_batch_threads=options.num_batch_threads,
            max_batch_size=2**31 - 1,
            # The calls of a group that the gate admits arrive one after another, since each needs
            # Python's lock. Splitting a group costs a whole run; a full one never waits.
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
    """Lets at most `limit` requests run at once; further ones are refused, not queued.

    Args:
        limit: the most requests at once.
        code: canonical status code of a refusal.
        message: message of a refusal.
    """

    def __init__(self, limit: int, code: str, message: str) -> None:
        self.limit = limit
        self._code = code
        self._message = message
        self._count = 0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Number of requests that run now."""
        return self._count

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Count a request while the block runs.

        Raises:
            ServingError: the limit is reached.
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
    """Tickets that were admitted together."""

    def __init__(self) -> None:
        self.tickets = 0
        self.pending = 0
        self.rows = 0
        self.started = time.monotonic()


class _Ticket:
    """A request that waits to be admitted."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.arrived = time.monotonic()
        self.group: _Group | None = None
        self.wake = threading.Event()


class BatchGate:
    """Admits requests to the batch scheduler in groups, so that callers in a loop stay together.

    Without the gate, the scheduler starts whatever is waiting at the moment a run ends. If each of
    eight clients sends its next request when the last one is answered, a request that arrives late
    would run as a batch of its own, and the seven others after it, over and over. The gate holds
    requests back during a run. When the run ends, the gate waits for the callers that were just
    answered, for at most `batch_timeout_micros` and no longer than a run takes, and admits all
    requests at once. A first request waits at most a tenth of a run, so that a single client loses
    very little.

    Args:
        options: sizes and limits.
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
        self._return_until = float("-inf")  # until then the gate waits for them
        self._last_run_seconds = float("inf")

    def run(self, rows: int, alone: Callable[[], Any], together: Callable[[], Any]) -> Any:
        """Wait to be admitted, and run a request.

        Args:
            rows: number of rows of the request.
            alone: runs the request by itself.
            together: runs the request through the batch scheduler.

        Returns:
            The result of `alone()` if no other request was admitted with it, else of `together()`.
        """
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
        """When the first request that waits is admitted at the latest, if a slot is free."""
        window = min(self._timeout, 0.1 * self._last_run_seconds)
        return max(self._return_until, self._waiting[0].arrived + window)

    def _admit(self) -> None:
        """Form groups while a slot is free. The caller holds the lock."""
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
            if self._waiting:  # the first of them watches the deadline from now on
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
