"""The training cases that must give the same numbers on any number of replicas and workers."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from tests.optimization import reference

CONFIG = {
    "vocab_size": 61,
    "embedding_dim": 16,
    "num_layers": 1,
    "num_heads": 4,
    "num_kv_heads": 2,
    "feed_forward_dim": 40,
    "max_sequence_length": 8,
}


@dataclass(frozen=True)
class Case:
    """One training of 20 steps on rows whose tokens repeat and weigh very unevenly."""

    accumulation: int = 1
    dtype: str = "float32"
    xla: bool = False
    rows: int = 24
    last_rows: int | None = 13
    dropout: float = 0.0
    frozen: bool = False
    regularized: bool = False
    metrics: bool = False
    shards: bool = False
    steps_per_execution: int = 1
    poison: float | None = None
    """weight of one token of the last row, which one replica alone has, in the sixth batch"""

    @property
    def exact(self) -> bool:
        """Whether only the order of sums differs from the independent loop."""
        return self.dtype == "float32" and not self.dropout


def matrix() -> dict[str, Case]:
    """accumulation x precision x XLA, and what else changes how a step is computed."""
    cases = {
        f"{dtype.removeprefix('mixed_')}-{accumulation}-micro{'-xla' * xla}": Case(
            # XLA compiles every number of rows that a part of an uneven batch has.
            accumulation,
            dtype,
            xla,
            last_rows=None if xla and accumulation > 1 else 13,
        )
        for dtype in ("float32", "mixed_bfloat16", "mixed_float16")
        for accumulation in (1, 2, 4)
        for xla in (False, True)
    }
    every = Case(accumulation=2)
    return cases | {
        "frozen": dataclasses.replace(every, frozen=True),
        "frozen-bfloat16-xla": Case(dtype="mixed_bfloat16", xla=True, frozen=True),
        "regularized": dataclasses.replace(every, regularized=True),
        "metrics": dataclasses.replace(every, metrics=True),
        "several-steps-a-call": dataclasses.replace(every, steps_per_execution=4),
        "even-last-batch": Case(last_rows=None),
        "a-replica-without-rows": Case(last_rows=1),
        "shards": Case(accumulation=2, shards=True),
        "shards-frozen": Case(shards=True, frozen=True),
        "shards-bfloat16": Case(dtype="mixed_bfloat16", shards=True),
        "nan-on-one-replica": Case(last_rows=None, poison=float("nan")),
        "overflow-on-one-replica": Case(dtype="mixed_float16", last_rows=None, poison=1e30),
        "a-rest-of-steps": dataclasses.replace(every, last_rows=None, steps_per_execution=3),
        "dropout": Case(accumulation=2, dropout=0.3, last_rows=None),
        "dropout-again": Case(accumulation=2, dropout=0.3, last_rows=None),
        "dropout-xla": Case(dropout=0.3, xla=True),
    }


def batches_of(case: Case) -> list:
    """Its 20 batches."""
    rng = np.random.default_rng(0)
    batches = reference.make_batches(rng, num=20, rows=case.rows, last_rows=case.last_rows)
    if case.poison is not None:
        batches[5][2][-1, 0] = case.poison
    return batches
