"""One worker's share of the rows of a run, as batches for `model.fit`."""

from __future__ import annotations

import functools
from typing import Any, Literal

import tensorflow as tf

from tfllm.config import TrainingConfig
from tfllm.data import PreparedData, rows_dataset, steps_per_epoch
from tfllm.distribution.strategy import BatchPlan, worker_index


class WorkerRows:
    """Datasets of a worker's share of the rows; the batches of its replicas alternate.

    Args:
        data: data of the run.
        config: training settings, all of them resolved.
        batch: how a batch is divided among the replicas.
        strategy: strategy of the run.
    """

    def __init__(
        self,
        data: PreparedData,
        config: TrainingConfig,
        batch: BatchPlan,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self._data = data
        self._config = config
        self._batch = batch
        self._strategy = strategy

    def training(self, *, start_step: int = 0, num_batches: int | None = None) -> Any:
        """Infinite dataset of the training rows, in an order determined by the seed.

        Args:
            start_step: number of batches to skip.
            num_batches: number of batches after which the dataset ends, if given.
        """
        return self._rows("train", start_step=start_step, num_batches=num_batches)

    def validation(self, num_batches: int) -> Any:
        """The first batches of the validation rows, in their order."""
        return self._rows("validation", shuffle=False, repeat=False, num_batches=num_batches)

    @property
    def num_validation_batches(self) -> int:
        """Number of batches of a validation."""
        config = self._config
        assert config.batch_size is not None
        length, batch_size = config.sequence_length, config.batch_size
        num_batches = steps_per_epoch(self._data, "validation", length, batch_size)
        return min(num_batches, config.validation_batches or num_batches)

    def _rows(self, split: Literal["train", "validation"], **options: Any) -> Any:
        config = self._config
        assert config.batch_size is not None
        rows = functools.partial(
            rows_dataset,
            self._data,
            split,
            sequence_length=config.sequence_length,
            batch_size=config.batch_size,
            seed=config.seed,
            separate_documents=config.separate_documents,
            shard=(worker_index(self._strategy), self._batch.workers),
            parts=self._batch.replicas // self._batch.workers,
            **options,
        )
        if self._batch.replicas == 1:
            return rows()
        # On a CPU there is no device to prefetch to, and the prefetching threads take seconds to
        # end.
        options = tf.distribute.InputOptions(
            experimental_fetch_to_device=has_device("GPU") or has_device("TPU")
        )
        return self._strategy.distribute_datasets_from_function(lambda context: rows(), options)


def has_device(kind: Literal["GPU", "TPU"]) -> bool:
    """Whether this process has devices of that kind."""
    return bool(tf.config.list_logical_devices(kind))
