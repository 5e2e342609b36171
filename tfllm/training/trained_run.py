"""What a run gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tfllm.distribution.strategy import BatchPlan
from tfllm.evaluation.measured import Measured
from tfllm.optimization.training_step import TrainingStep
from tfllm.training.callbacks import exp


@dataclass(frozen=True)
class TrainedRun:
    """What a run gave."""

    folder: Path
    """of the run"""
    model_folder: Path | None
    """the finished model; None where the run was interrupted"""
    adapter_folder: Path | None
    """the finished adapter, alone; None without one"""
    model: TrainingStep
    """the `CausalLM`, or what the task trains, with the weights of the best validation, or of the
    last step (of which alone on a worker that is not the chief)"""
    step: int
    """updates of the weights"""
    num_parameters: int
    num_trained: int
    """of the parameters, those that are trained"""
    tokens_per_second: float
    """of all replicas together"""
    flops_utilization: float
    """share of the measured matmul peak"""
    precision: str
    validation_loss: float | None
    """the best, natural logarithm a token (of preferences: the mean a pair); None without
    validation data"""
    interrupted_by: str | None
    """the signal that ended the run early"""
    batch: BatchPlan
    """how a batch was divided among the replicas"""
    skipped_steps: int
    """updates that float16 left out, since gradients were not finite"""
    time_shares: dict[str, float]
    """of this process' time: "tracing", "input", "compute", "checkpoint", "validation", "other";
    empty without steps"""
    is_chief: bool
    """whether this process wrote the run's files"""
    is_log_loss: bool = True
    """whether the loss is a mean of negative log-probabilities, so that there is a perplexity"""
    validation_measures: dict[str, float] = field(default_factory=dict)
    """what else the last validation of this process measured: of preferences accuracy and margin"""
    task_measures: tuple[Measured, ...] = ()
    """of a task: the finished model's answers to the validation records, measured; on the chief"""

    history: dict[str, list[float]] = field(default_factory=dict)
    """as Keras' `History.history`: `step`, `loss`, `val_loss` and what else is measured, a list
    each with an entry for each validation, from the beginning of the run also where it went on"""
    stopped_early: bool = False
    """whether a callback ended the run, or patience that ran out, before its last step"""

    @property
    def validation_perplexity(self) -> float | None:
        """exp of the best validation loss, where it is one of tokens."""
        if self.validation_loss is None or not self.is_log_loss:
            return None
        return exp(self.validation_loss)
