"""Training: a run folder, its checkpoints and logs, around `model.fit`."""

from tfllm.optimization.adamw import AdamW
from tfllm.optimization.schedules import WarmupSchedule
from tfllm.optimization.training_step import TrainingStep
from tfllm.training.callbacks import LossIsNaN
from tfllm.training.checkpoints import CheckpointError
from tfllm.training.training_run import TrainedRun, train

__all__ = [
    "AdamW",
    "CheckpointError",
    "LossIsNaN",
    "TrainedRun",
    "TrainingStep",
    "WarmupSchedule",
    "train",
]
