"""The result of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tfllm.distribution.strategy import BatchPlan
from tfllm.evaluation.metric_values import MetricValue
from tfllm.optimization.training_step import TrainingStep
from tfllm.training.callbacks import exp


@dataclass(frozen=True)
class TrainedRun:
    """The result of a training run, as `tfllm.train` returns it.

    Examples:
        >>> from pathlib import Path
        >>> import tfllm
        >>> _ = Path("text.txt").write_text("To be, or not to be: that is the question.\\n" * 200)
        >>> run = tfllm.train(
        ...     "text.txt",
        ...     "run",
        ...     tfllm.ModelConfig(vocab_size=300, embedding_dim=16, num_layers=1, num_heads=2),
        ...     prepare=tfllm.PrepareConfig(vocab_size=300, validation_fraction=0.2),
        ...     sequence_length=16,
        ...     steps=2,
        ...     verbose=False,
        ... )
        >>> run.step, run.model_folder.name, sorted(run.history)
        (2, 'model', ['loss', 'perplexity', 'step', 'val_loss', 'val_perplexity'])
    """

    folder: Path
    """folder of the run"""
    model_folder: Path | None
    """folder of the finished model; None if the run was interrupted"""
    adapter_folder: Path | None
    """folder of the finished adapter, without its base; None if no adapter was trained"""
    model: TrainingStep
    """the trained model, such as a `CausalLM`, with the weights of the best validation, or of the
    last step without validation (on workers other than the chief always those of the last step)"""
    step: int
    """number of steps"""
    num_parameters: int
    num_trained: int
    """number of parameters that were trained"""
    tokens_per_second: float
    """tokens per second of all replicas together"""
    flops_utilization: float
    """fraction of the measured matmul peak"""
    precision: str
    validation_loss: float | None
    """best validation loss, in nats per token (for preferences: the mean per pair); None without
    validation data"""
    interrupted_by: str | None
    """name of the signal that ended the run early, or None"""
    batch: BatchPlan
    """how a batch was divided among the replicas"""
    skipped_steps: int
    """number of updates that float16 skipped because gradients were not finite"""
    time_shares: dict[str, float]
    """fractions of this process' time: "tracing", "input", "compute", "checkpoint", "validation"
    and "other"; empty without steps"""
    is_chief: bool
    """whether this process wrote the run's files"""
    is_log_loss: bool = True
    """whether the loss is a mean of negative log-probabilities, so that it has a perplexity"""
    validation_metrics: dict[str, float] = field(default_factory=dict)
    """further metrics of this process' last validation: for preferences, accuracy and margin"""
    task_metrics: tuple[MetricValue, ...] = ()
    """metrics of the finished model on the validation records of a task; only on the chief"""

    history: dict[str, list[float]] = field(default_factory=dict)
    """`step`, `loss`, `val_loss` and further metrics, as in Keras' `History.history`: a list each,
    with an entry per validation since the start of the run, also if it was resumed"""
    stopped_early: bool = False
    """whether a callback or patience ended the run before its last step"""

    @property
    def validation_perplexity(self) -> float | None:
        """Exponential of the best validation loss; None if that is not a mean over tokens."""
        if self.validation_loss is None or not self.is_log_loss:
            return None
        return exp(self.validation_loss)
