"""Settings of a training run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from tfllm.config.lora import LoraConfig
from tfllm.config.rules import check, check_finite, require


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run.

    Examples:
        >>> config = TrainingConfig(batch_size=8, steps=1000)
        >>> config.schedule, config.learning_rate
        ('cosine', None)
        >>> config.resolved(pretrained=False).learning_rate
        0.001
    """

    sequence_length: int = 512
    """tokens per training example (row)"""
    batch_size: int | None = None
    """examples per update of the weights, over all devices; default: 16, or 8 for a pretrained
    model"""
    gradient_accumulation: int = 1
    """micro-batches that each batch is split into, to save memory; gradients are accumulated"""
    steps: int | None = None
    """number of updates of the weights; overrides epochs"""
    epochs: float = 1.0
    """passes over the training data, unless steps is given"""
    learning_rate: float | None = None
    """peak learning rate; default: 1e-3, or 1e-5 for a pretrained model (2e-4 with LoRA; for
    preferences 1e-6, with LoRA 1e-5)"""
    warmup_steps: int | None = None
    """steps of linear warmup; default: 2 % of the steps, at least 10"""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """learning rate after warmup: cosine decay, constant and then linear decay (wsd:
    warmup-stable-decay), or constant"""
    decay_fraction: float = 0.2
    """for schedule=wsd: fraction of the steps, at the end, over which the learning rate decays"""
    final_learning_rate: float = 0.1
    """final learning rate, as a fraction of learning_rate"""
    weight_decay: float | None = None
    """decoupled weight decay, applied to matrices only; default: 0.1, or 0.01 for a pretrained
    model (0 with LoRA)"""
    beta_1: float = 0.9
    """AdamW: exponential decay rate of the first moment"""
    beta_2: float = 0.95
    """AdamW: exponential decay rate of the second moment"""
    epsilon: float = 1e-8
    """AdamW: constant for numerical stability"""
    clip_norm: float | None = 1.0
    """maximum global norm of the gradients; none: no clipping"""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """dtype of the matrix products; trained weights stay in float32. auto: bfloat16 where a
    measurement shows it to be faster, else float32"""
    trainable: Literal["auto", "all", "lora", "top"] = "auto"
    """for a pretrained model: train all weights, a LoRA adapter only (Hu et al., 2021), or only the
    last blocks (top). auto: lora if lora_rank is given, top if top_layers is given, else all"""
    lora_rank: int | None = None
    """for LoRA: rank of the adapter matrices; giving it turns LoRA on; default: 8"""
    lora_alpha: float | None = None
    """for LoRA: the update is scaled by lora_alpha / lora_rank; default: twice the rank"""
    lora_dropout: float = 0.0
    """for LoRA: dropout rate of the adapter's inputs"""
    lora_targets: tuple[str, ...] = ("all",)
    """for LoRA: projections to adapt, separated by commas: q_proj, k_proj, v_proj, o_proj,
    gate_proj, up_proj, down_proj, or all"""
    lora_layers: tuple[int, ...] | None = None
    """for LoRA: indices of the blocks to adapt, counted from 0; default: all"""
    top_layers: int | None = None
    """for trainable=top: number of last blocks to train; default: 2"""
    base_dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """for LoRA: dtype of the frozen base weights. auto: bfloat16 if precision is bfloat16, else
    float32"""
    dpo_beta: float = 0.1
    """for preferences: strength of the penalty on moving away from the initial model (Rafailov et
    al., 2023)"""
    rematerialize: bool = False
    """gradient checkpointing: recompute each block in the backward pass instead of storing its
    activations"""
    memory_check: Literal["refuse", "warn", "off"] = "refuse"
    """what to do when a run is estimated to need clearly more memory than is available: refuse to
    start, warn, or skip the estimate (off)"""
    shard_optimizer: bool = False
    """shard the optimizer state over the replicas (ZeRO-1): saves memory, adds one collective
    operation per step"""
    jit_compile: bool = False
    """compile the training step with XLA: faster on accelerators, not on a CPU"""
    steps_per_execution: int = 1
    """training steps per call of the compiled function, as in Model.compile"""
    separate_documents: bool = True
    """tokens attend only to tokens of the same document; false: documents are concatenated"""
    validate_every: int = 250
    """steps between validations"""
    validation_batches: int = 50
    """batches per validation; 0: the whole validation set"""
    patience: int | None = None
    """early stopping: end the run after this many validations in a row without a lower loss;
    default: never. The weights of the best validation are kept in any case"""
    checkpoint_every: int = 250
    """steps between checkpoints"""
    keep_checkpoints: int = 2
    """number of latest checkpoints to keep, besides the best one"""
    seed: int = 0
    """random seed of the initial weights, the order of the data and dropout"""

    def __post_init__(self) -> None:
        counts = (
            *("sequence_length", "batch_size", "gradient_accumulation", "steps"),
            *("steps_per_execution", "validate_every", "checkpoint_every", "keep_checkpoints"),
        )
        check(self, "must be at least 1", *counts, "lora_rank", "top_layers", "patience")
        check(self, "must not be negative", "validation_batches", "warmup_steps", "weight_decay")
        positive = ("epochs", "learning_rate", "epsilon", "lora_alpha", "dpo_beta")
        check(self, "must be positive", *positive)
        check(self, "must lie in [0, 1)", "beta_1", "beta_2", "lora_dropout")
        require(
            self.batch_size is None or self.batch_size % self.gradient_accumulation == 0,
            f"gradient_accumulation must divide batch_size ({self.batch_size})",
            self.gradient_accumulation,
        )
        self._check_trainable()
        require(
            0 < self.decay_fraction <= 1, "decay_fraction must lie in (0, 1]", self.decay_fraction
        )
        require(
            0 <= self.final_learning_rate <= 1,
            "final_learning_rate is a fraction of learning_rate and must lie in [0, 1]",
            self.final_learning_rate,
        )
        require(
            self.clip_norm is None or self.clip_norm > 0,
            "clip_norm must be positive or none",
            self.clip_norm,
        )
        check_finite(self)

    def lora(self) -> LoraConfig:
        """The LoRA adapter that these settings describe."""
        rank = 8 if self.lora_rank is None else self.lora_rank
        return LoraConfig(
            rank=rank,
            alpha=2.0 * rank if self.lora_alpha is None else self.lora_alpha,
            dropout=self.lora_dropout,
            targets=self.lora_targets,
            layers=self.lora_layers,
        )

    def resolved(
        self, *, pretrained: bool, fine_tuning_rates: tuple[float, float] = (1e-5, 2e-4)
    ) -> TrainingConfig:
        """A copy with a value for each setting whose default depends on others.

        `precision` and `base_dtype` stay "auto", since they are chosen by a measurement.

        Args:
            pretrained: whether the run starts from a pretrained model.
            fine_tuning_rates: default learning rates for a pretrained model: for training all its
                weights, and for training a LoRA adapter.

        Raises:
            ConfigError: `trainable` is not "all" for a model that is not pretrained.
        """
        trainable = self.trainable
        if trainable == "auto":
            trainable = "all"
            if self.lora_rank is not None:
                trainable = "lora"
            elif self.top_layers is not None:
                trainable = "top"
        lora = trainable == "lora"
        if not pretrained:
            rule = "only a pretrained model can be trained in part; name one (--model PATH)"
            require(trainable == "all", rule, trainable)
        values: dict[str, Any] = {
            "trainable": trainable,
            "batch_size": 8 if pretrained else 16,
            "learning_rate": 1e-3,
            "weight_decay": 0.1,
        }
        if pretrained:
            values |= {
                "learning_rate": fine_tuning_rates[lora],
                "weight_decay": 0.0 if lora else 0.01,
            }
        if lora:
            values |= {"lora_rank": self.lora().rank, "lora_alpha": self.lora().alpha}
        if trainable == "top":
            values["top_layers"] = 2
        open_ones = {n: v for n, v in values.items() if getattr(self, n) in (None, "auto")}
        return dataclasses.replace(self, **open_ones)

    def _check_trainable(self) -> None:
        """Refuse settings of LoRA or of top_layers that `trainable` does not use."""
        object.__setattr__(self, "lora_targets", self.lora().targets)  # LoraConfig checks them
        lora = self.trainable == "lora" or (self.trainable == "auto" and self.lora_rank is not None)
        defaults: dict[str, Any] = {"lora_rank": None, "lora_alpha": None, "lora_dropout": 0.0}
        defaults |= {"lora_targets": ("all",), "lora_layers": None, "base_dtype": "auto"}
        for name, default in defaults.items():
            require(
                lora or getattr(self, name) == default,
                f"{name} is for trainable=lora (or a lora_rank)",
                getattr(self, name),
            )
        require(
            (self.trainable in ("top", "auto") and not lora) or self.top_layers is None,
            "top_layers is for trainable=top, without LoRA",
            self.top_layers,
        )
        require(
            self.base_dtype != "bfloat16" or self.precision in ("auto", "bfloat16"),
            "a bfloat16 base is multiplied in bfloat16: precision must be auto or bfloat16",
            self.precision,
        )
        require(
            self.base_dtype != "int8" or self.precision != "float16",
            "an int8 base is multiplied in float32 or bfloat16: precision must be one of them",
            self.precision,
        )
