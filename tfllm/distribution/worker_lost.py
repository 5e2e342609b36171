"""What it means when a collective of several workers fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

_OF_THE_CONNECTION = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
)
# Each of these may also be a fault of this worker's own; then the message has none of the signs.
_PERHAPS = (
    tf.errors.InternalError,
    tf.errors.UnknownError,
    tf.errors.CancelledError,
    tf.errors.FailedPreconditionError,
)
_SIGNS = ("Collective ops is aborted", "Connection reset by peer", "heartbeat", "coordination")


class WorkerLost(RuntimeError):
    """Another worker of the run went away, froze or failed."""

    exit_status = 75
    """EX_TEMPFAIL: starting all workers again helps"""


@contextmanager
def lost_workers_named(worker: int, *, several: bool) -> Iterator[None]:
    """Say what it means when a collective fails.

    Args:
        worker: number of this one.
        several: whether there are others; else nothing is changed.

    Raises:
        WorkerLost: from TensorFlow's error, which speaks of sockets. An error of this worker's
            own, such as too little memory, stays what it is.
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
            f"worker {worker} stopped, since another worker went away or no longer answers "
            f"({(telling or lines)[0].strip()[:200]}). The other workers' logs tell why; start all "
            "workers again with the same command, and the run goes on from its last checkpoint"
        ) from error
