"""Training: a run folder, its checkpoints and logs, around `model.fit`; reports on runs.

The names load on first use: a report on a run's logs needs no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "AdamW": "tfllm.optimization.adamw",
    "CheckpointError": "tfllm.training.checkpoints.checkpoints",
    "LossIsNaN": "tfllm.training.callbacks",
    "TrainedRun": "tfllm.training.trained_run",
    "TrainingStep": "tfllm.optimization.training_step",
    "WarmupSchedule": "tfllm.optimization.schedules",
    "WorkerLost": "tfllm.distribution.worker_lost",
    "WorkersDisagree": "tfllm.distribution.agreement",
    "report": "tfllm.training.reports.run_report",
    "strategy": "tfllm.distribution.strategy",
    "train": "tfllm.training.training_run",
}

__all__ = [
    "AdamW",
    "CheckpointError",
    "LossIsNaN",
    "TrainedRun",
    "TrainingStep",
    "WarmupSchedule",
    "WorkerLost",
    "WorkersDisagree",
    "report",
    "strategy",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'tfllm.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:  # what an editor and a type checker see
    from tfllm.distribution.agreement import WorkersDisagree
    from tfllm.distribution.strategy import strategy
    from tfllm.distribution.worker_lost import WorkerLost
    from tfllm.optimization.adamw import AdamW
    from tfllm.optimization.schedules import WarmupSchedule
    from tfllm.optimization.training_step import TrainingStep
    from tfllm.training.callbacks import LossIsNaN
    from tfllm.training.checkpoints.checkpoints import CheckpointError
    from tfllm.training.reports.run_report import report
    from tfllm.training.trained_run import TrainedRun
    from tfllm.training.training_run import train
