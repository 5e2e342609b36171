"""How a model is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from tfllm.config.lora import LoraConfig
from tfllm.config.rules import check, check_finite, require


@dataclass(frozen=True)
class TrainingConfig:
    """One run of training."""

    sequence_length: int = 512
    """tokens in a row"""
    batch_size: int | None = None
    """rows in an update of the weights, over all devices; default: 16; from a pretrained model 8"""
    gradient_accumulation: int = 1
    """micro-batches that a batch is computed in, one after the other, to save memory"""
    steps: int | None = None
    """updates of the weights; default: as many as `epochs` makes"""
    epochs: float = 1.0
    """passes over the training text, when `steps` is not given"""
    learning_rate: float | None = None
    """the highest learning rate; default: 1e-3; from a pretrained model 1e-5, with LoRA 2e-4; to
    learn preferences 1e-6, with LoRA 1e-5"""
    warmup_steps: int | None = None
    """steps of linear warm-up; default: 2 % of the steps, at least 10"""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """after warm-up: cosine decay, or constant and then linear decay (warmup-stable-decay)"""
    decay_fraction: float = 0.2
    """wsd: the share of the steps, at the end, in which the learning rate decays"""
    final_learning_rate: float = 0.1
    """the last learning rate, as a share of the highest"""
    weight_decay: float | None = None
    """decoupled decay, of matrices only; default: 0.1; from a pretrained model 0.01, with LoRA 0"""
    beta_1: float = 0.9
    """AdamW's decay of the mean gradient"""
    beta_2: float = 0.95
    """AdamW's decay of the mean squared gradient"""
    epsilon: float = 1e-8
    """AdamW's epsilon"""
    clip_norm: float | None = 1.0
    """the gradients' global norm is clipped to this"""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """of the products; weights that are trained stay float32. auto: bfloat16 where it is measured
    to be faster"""
    trainable: Literal["auto", "all", "lora", "top"] = "auto"
    """of a pretrained model: all weights; a low-rank adapter alone (Hu et al., 2021); or the last
    blocks. auto: lora where lora_rank is given, top where top_layers is, else all"""
    lora_rank: int | None = None
    """lora: rank of the adapter's matrices; default: 8"""
    lora_alpha: float | None = None
    """lora: the update is multiplied by lora_alpha / lora_rank; default: twice the rank"""
    lora_dropout: float = 0.0
    """lora: share of the adapter's inputs dropped"""
    lora_targets: tuple[str, ...] = ("all",)
    """lora: projections that are adapted: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj,
    down_proj; all: all of them"""
    lora_layers: tuple[int, ...] | None = None
    """lora: blocks that are adapted, counted from 0; default: all"""
    top_layers: int | None = None
    """top: how many of the last blocks are trained; default: 2"""
    base_dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """lora: of the frozen weights. auto: bfloat16 where precision is, else float32"""
    dpo_beta: float = 0.1
    """preferences: the higher, the closer the model stays to what it was (Rafailov et al., 2023)"""
    rematerialize: bool = False
    """recompute each block in the backward pass instead of keeping its activations"""
    memory_check: Literal["refuse", "warn", "off"] = "refuse"
    """of a run that takes clearly more memory than there is by its estimate: refuse it, or warn;
    off: no estimate"""
    shard_optimizer: bool = False
    """share the optimizer's state among the replicas (ZeRO-1): less memory, one more collective"""
    jit_compile: bool = False
    """compile the step with XLA: helps on accelerators, not on a CPU"""
    steps_per_execution: int = 1
    """steps run in one call of the graph"""
    separate_documents: bool = True
    """no token attends to another document; false: plain concatenation"""
    validate_every: int = 250
    """steps between validations"""
    validation_batches: int = 50
    """batches in a validation; 0: all"""
    patience: int | None = None
    """end the run after so many validations in a row without a better loss; default: never. The
    weights of the best validation are kept in any case"""
    checkpoint_every: int = 250
    """steps between checkpoints"""
    keep_checkpoints: int = 2
    """how many of the last checkpoints are kept; the best is kept besides"""
    seed: int = 0
    """of the initial weights, the order of the data and dropout"""

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
            "final_learning_rate is a share of learning_rate and must lie in [0, 1]",
            self.final_learning_rate,
        )
        require(
            self.clip_norm is None or self.clip_norm > 0,
            "clip_norm must be positive or none",
            self.clip_norm,
        )
        check_finite(self)

    def lora(self) -> LoraConfig:
        """The adapter that the settings describe."""
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
        """The same with a value for each setting whose default depends on others.

        What is measured, `precision` and `base_dtype`, stays open.

        Args:
            pretrained: whether the run begins with a pretrained model.
            fine_tuning_rates: default learning rates of such a model: of all its weights, of an
                adapter.

        Raises:
            ConfigError: only a pretrained model can be trained in part.
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
            advice = "only a pretrained model can be; name one (--model PATH)"
            require(trainable == "all", f"trained in part: {advice}", trainable)
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
        """What is said of a way to train in part belongs to the way that is taken."""
        object.__setattr__(self, "lora_targets", self.lora().targets)  # which has its own rules
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
            "a base in bfloat16 is multiplied in bfloat16: precision must be auto or bfloat16",
            self.precision,
        )
        require(
            self.base_dtype != "int8" or self.precision != "float16",
            "a base in int8 is multiplied in float32 or bfloat16: precision must be one of them",
            self.precision,
        )
