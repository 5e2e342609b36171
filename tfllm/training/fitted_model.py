"""What a run fits: a new or a pretrained model, compiled with its optimizer and schedule."""

from __future__ import annotations

from tfllm.config import TrainingConfig
from tfllm.data import PreparedData
from tfllm.models.causal_lm import CausalLM
from tfllm.models.preference_tuning import PreferenceTuning
from tfllm.optimization.adamw import AdamW
from tfllm.optimization.precision import dtype_policy
from tfllm.optimization.training_step import TrainingStep
from tfllm.pretrained import Pretrained
from tfllm.training.pretrained_base import load_base
from tfllm.training.run_settings import RunSettings, schedule_of


def fitted_model(
    settings: RunSettings, data: PreparedData, total_steps: int
) -> tuple[TrainingStep, Pretrained | None]:
    """The model, with its optimizer built, and the pretrained one that it is or tunes.

    Args:
        settings: of the run.
        data: of the run: preferences are learned in a step of their own.
        total_steps: of the run.
    """
    config, base = settings.training, None
    model: TrainingStep
    if settings.base is None:
        model = CausalLM(
            settings.model,
            seed=config.seed,
            rematerialize=config.rematerialize,
            dtype=dtype_policy(config.precision),
        )
    else:
        base = load_base(settings.base, config)
        model = base.model
        if data.records == "preference":
            # By the same name, which is taken off the names of weights in checkpoints.
            model = PreferenceTuning(base.model, beta=config.dpo_beta, name=model.name)
    compile_for_run(model, config, total_steps)
    return model, base


def compile_for_run(model: TrainingStep, config: TrainingConfig, total_steps: int) -> None:
    """Give a model the optimizer and the schedule of a run, built.

    Args:
        model: not compiled.
        config: of the run.
        total_steps: of the run.
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
