"""Explain the failure of a collective of several workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

_OF_THE_CONNECTION = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
)
# These may also be a fault of this worker itself; then the message has none of the signs.
_PERHAPS = (
    tf.errors.InternalError,
    tf.errors.UnknownError,
    tf.errors.CancelledError,
    tf.errors.FailedPreconditionError,
)
_SIGNS = ("Collective ops is aborted", "Connection reset by peer", "heartbeat", "coordination")


class WorkerLost(RuntimeError):
    """Another worker of the run exited, froze or failed."""

    exit_status = 75
    """EX_TEMPFAIL: restarting all workers helps."""


@contextmanager
def lost_workers_named(worker: int, *, several: bool) -> Iterator[None]:
    """Explain the failure of a collective inside the block.

    Args:
        worker: Number of this worker.
        several: Whether there are others; if not, errors are not changed.

    Raises:
        WorkerLost: Instead of TensorFlow's error, which mentions sockets. An error of this worker
            itself, such as insufficient memory, is not changed.
    """
    try:
        yield
    except tf.errors.OpError as error:
        lines = error.message.splitlines() or ["no reason given"]
        telling = [line for line in lines if any(sign in line for sign in _SIGNS)]
        lost = isinstance(error, _OF_THE_CONNECTION) or (isinstance(error, _PERHAPS) and telling)
        if not (several and lost):
            raise
        raise WorkerLost(
            f"worker {worker} stopped because another worker went away or no longer answers "
            f"({(telling or lines)[0].strip()[:200]}). The logs of the other workers say why; "
            "start all workers again with the same command, and the run continues from its last "
            "checkpoint"
        ) from error
