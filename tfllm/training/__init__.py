"""Training runs: `model.fit` with a run folder, checkpoints and logs; reports on runs.

The names load on first use, so that a report can be made without TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfllm.lazy_names import lazy_names

__all__, __getattr__, __dir__ = lazy_names(__name__)

if TYPE_CHECKING:  # the names, for type checkers and for `lazy_names`
    from tfllm.distribution.agreement import WorkersDisagree as WorkersDisagree
    from tfllm.distribution.strategy import strategy as strategy
    from tfllm.distribution.worker_lost import WorkerLost as WorkerLost
    from tfllm.optimization.adamw import AdamW as AdamW
    from tfllm.optimization.schedules import WarmupSchedule as WarmupSchedule
    from tfllm.optimization.training_step import TrainingStep as TrainingStep
    from tfllm.training.callbacks import LossIsNaN as LossIsNaN
    from tfllm.training.checkpoints.checkpoints import CheckpointError as CheckpointError
    from tfllm.training.reports.run_report import report as report
    from tfllm.training.trained_run import TrainedRun as TrainedRun
    from tfllm.training.training_run import train as train
