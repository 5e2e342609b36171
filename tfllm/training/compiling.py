"""Compile a model with the optimizer and the learning-rate schedule of a run."""

from __future__ import annotations

from tfllm.config import TrainingConfig
from tfllm.optimization.adamw import AdamW
from tfllm.optimization.training_step import TrainingStep
from tfllm.training.run_settings import schedule_of


def compile_for_run(model: TrainingStep, config: TrainingConfig, total_steps: int) -> None:
    """Compile a model with the optimizer and schedule of a run, and build the optimizer.

    Args:
        model: the model to compile.
        config: training settings of the run.
        total_steps: number of steps of the run.
    """
    assert config.weight_decay is not None
    model.compile(
        AdamW(
            schedule_of(config, total_steps),
            config.weight_decay,
            beta_1=config.beta_1,
            beta_2=config.beta_2,
            epsilon=config.epsilon,
            global_clipnorm=config.clip_norm,
            shards=config.shard_optimizer,
        ),
        steps_per_execution=config.steps_per_execution,
        jit_compile=config.jit_compile,
    )
    model.gradient_accumulation = config.gradient_accumulation
    model.detailed_logs = True
    model.optimizer.build(model.trainable_variables)
