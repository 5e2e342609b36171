"""Compare the workers of a run before it begins: they must all do the same."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfllm.distribution.strategy import is_multi_worker, num_workers, worker_index
from tfllm.version import __version__


class WorkersDisagree(ValueError):
    """A worker has different code, settings or data from the chief."""


def exchange(value: Any, strategy: tf.distribute.Strategy) -> list[Any]:
    """Collect each worker's value, in the order of the workers; every worker must call this.

    Args:
        value: Value that JSON can represent.
        strategy: Strategy of the run; with one process, nothing is sent.
    """
    if not is_multi_worker(strategy):
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    place, count = worker_index(strategy), num_workers(strategy)
    share = count / strategy.num_replicas_in_sync  # each replica of a worker adds its part

    def everybody(row: np.ndarray) -> np.ndarray:
        table = np.zeros([count, len(row)], np.float64)
        table[place] = row
        table *= share
        summed = _sum(strategy)(tf.constant(table))
        return np.rint(summed.numpy()).astype(np.int64)

    lengths = everybody(np.array([len(data)]))[:, 0]
    padded = np.zeros(max(lengths), np.uint8)
    padded[: len(data)] = data
    rows = everybody(padded).astype(np.uint8)
    return [json.loads(row[:n].tobytes()) for row, n in zip(rows, lengths, strict=True)]


@functools.cache
def _sum(strategy: tf.distribute.Strategy) -> Any:
    @tf.function(reduce_retracing=True)
    def summed(table: tf.Tensor) -> tf.Tensor:
        def reduce(table: tf.Tensor) -> tf.Tensor:
            mine = tf.identity(table)  # on this replica's device
            return tf.distribute.get_replica_context().all_reduce("SUM", mine)

        results = strategy.run(reduce, args=(table,))
        return strategy.experimental_local_results(results)[0]

    return summed


def agree(facts: dict[str, Any], strategy: tf.distribute.Strategy) -> None:
    """Check that all workers have the same facts; every worker must call this.

    Args:
        facts: Facts about a worker, such as its settings, by name.
        strategy: Strategy of the run.

    Raises:
        WorkersDisagree: If they differ; on every worker, with what differs and where.
    """
    of_all = exchange({**facts, "code": code_version()}, strategy)
    chief = of_all[0]
    lines = []
    for number, other in enumerate(of_all[1:], 1):
        lines += [
            f"{name} is {there!r} on worker {number} and {here!r} on the chief"
            for name, here, there in _differing_facts(chief, other)
        ]
    if lines:
        raise WorkersDisagree(
            "all workers must run the same code with the same settings on the same data: "
            + "; ".join(lines)
            + ". Start all of them with the same command from the same installation"
        )


def _differing_facts(one: Any, other: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Where two workers' facts differ: the path of names to a value, and the two values."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = []
        for key in sorted({*one, *other}):
            path = f"{name}.{key}" if name else key
            found += _differing_facts(one.get(key), other.get(key), path)
        return found
    return [] if one == other else [(name, one, other)]


@functools.cache
def code_version() -> str:
    """The versions of the software that computes a run, and a checksum of this package's source."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return (
        f"tfllm {__version__} ({digest.hexdigest()[:12]}), tensorflow {tf.__version__}, "
        f"keras {keras.__version__}"
    )


def on_all(strategy: tf.distribute.Strategy, action: Callable[[], Any], what: str) -> list[Any]:
    """Run `action` on every worker; returns each worker's result, or raises an error on all.

    Args:
        strategy: Strategy of the run.
        action: Function whose result JSON can represent.
        what: Description of the action for the error, such as "read the shards".

    Raises:
        RuntimeError: If another worker's action failed; the message includes that error's. A worker
            whose own action failed raises that error.
    """
    result, error = None, None
    try:
        result = action()
    except Exception as failed:
        error = failed
    said = exchange({"result": result, "error": error and str(error)}, strategy)
    if error is not None:
        raise error
    for number, other in enumerate(said):
        if other["error"] is not None:
            name = "the chief (worker 0)" if number == 0 else f"worker {number}"
            raise RuntimeError(f"{name} could not {what}: {other['error']}")
    return [other["result"] for other in said]


def on_chief(strategy: tf.distribute.Strategy, action: Callable[[], Any], what: str) -> Any:
    """Run `action` only on the chief; returns its result, or raises its error, on every worker.

    For the arguments and errors see `on_all`.
    """
    chief = worker_index(strategy) == 0
    return on_all(strategy, action if chief else lambda: None, what)[0]
