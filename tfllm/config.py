"""Settings as frozen dataclasses: what a model, a corpus, a run and a generation are made of.

Nothing here imports TensorFlow, so the command line can check and print every setting at once.
Each field says its meaning and unit in the string beneath it; the command line's help is read
from there. An unknown or ill-typed key is refused with the nearest right name.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import json
import math
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type, or out of range."""


@dataclass(frozen=True)
class RopeScaling:
    """Rotary frequencies lowered, for texts longer than those a model was first trained on.

    The names are those of `rope_parameters` in a Hugging Face config.json.
    """

    rope_type: Literal["linear", "llama3"]
    """linear: all frequencies are divided by factor (Chen et al., 2023); llama3: only the low ones,
    whose waves are long beside the first context, with a smooth passage (Grattafiori et al.,
    2024)"""
    factor: float
    """what frequencies are divided by"""
    low_freq_factor: float | None = None
    """llama3: waves longer than the first context divided by this are lowered in full"""
    high_freq_factor: float | None = None
    """llama3: waves shorter than the first context divided by this stay as they are"""
    original_max_position_embeddings: int | None = None
    """llama3: the first context, in tokens"""

    def __post_init__(self) -> None:
        _check(self, "must be positive", "factor", "low_freq_factor", "high_freq_factor")
        _check(self, "must be at least 1", "original_max_position_embeddings")
        _check_finite(self)
        names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        for name in names:
            value = getattr(self, name)
            if self.rope_type == "llama3":
                _require(value is not None, f"a llama3 rope_scaling needs {name}", value)
            else:
                _require(value is None, f"a {self.rope_type} rope_scaling has no {name}", value)
        if self.low_freq_factor is not None and self.high_freq_factor is not None:
            _require(
                self.low_freq_factor < self.high_freq_factor,
                f"high_freq_factor must be above low_freq_factor ({self.low_freq_factor})",
                self.high_freq_factor,
            )


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only Transformer. A family (GPT-2, Llama, ...) is a row of these values."""

    vocab_size: int
    """number of token ids"""
    embedding_dim: int
    """width of the residual stream"""
    num_layers: int
    """number of Transformer blocks"""
    num_heads: int
    """number of query heads of each attention"""
    num_kv_heads: int | None = None
    """number of key/value heads, a divisor of num_heads (grouped queries); default num_heads"""
    head_dim: int | None = None
    """size of one head; default embedding_dim / num_heads"""
    feed_forward_dim: int | None = None
    """inner width of the feed-forward; default 4 x embedding_dim, or 8/3 of it when gated"""
    max_sequence_length: int = 1024
    """longest sequence, in tokens: the model's context"""
    positions: Literal["rotary", "learned", "sinusoidal", "none"] = "rotary"
    """how a token knows its place"""
    rope_theta: float = 10000.0
    """base of the rotary frequencies"""
    rope_scaling: RopeScaling | None = None
    """how rotary frequencies are lowered for longer texts; default: they are not"""
    rope_layers: tuple[int, ...] | None = None
    """blocks that rotate queries and keys, counted from 0; default: all"""
    sliding_window: int | None = None
    """how many tokens a token sees, itself the last of them; default: all before it"""
    window_layers: tuple[int, ...] | None = None
    """blocks that the sliding window holds for, counted from 0; default: all"""
    query_key_norm: bool = False
    """RMSNorm of each head's query and key, before they are rotated"""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm or LayerNorm"""
    norm_epsilon: float = 1e-5
    """added to the variance before the square root"""
    norm_first: bool = True
    """normalise before each sublayer (pre-norm) or after its residual sum (post-norm)"""
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    """the feed-forward's non-linearity"""
    gated: bool = True
    """gate the feed-forward (SwiGLU and its kin)"""
    use_bias: bool = False
    """biases in projections"""
    query_key_value_bias: bool | None = None
    """biases in the query, key and value projections; default: as use_bias says"""
    attention_output_bias: bool | None = None
    """biases in the attention's output projection; default: as use_bias says"""
    feed_forward_bias: bool | None = None
    """biases in the feed-forward; default: as use_bias says"""
    tied_embeddings: bool = True
    """the output projection is the token embedding"""
    dropout: float = 0.0
    """share of the activations dropped while training"""
    initializer_range: float = 0.02
    """standard deviation of the initial weights; that of the projections into the residual stream
    is divided by sqrt(2 x num_layers)"""

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "embedding_dim", "num_layers", "num_heads", "max_sequence_length")
        _check(self, "must be at least 1", *sizes)
        # Each block is made in Python: a damaged number must not run for ever.
        _require(self.num_layers <= 10_000, "num_layers must be at most 10000", self.num_layers)
        if self.num_kv_heads is None:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if self.head_dim is None:
            _require(
                self.embedding_dim % self.num_heads == 0,
                f"embedding_dim must be divisible by num_heads ({self.num_heads}), "
                "or head_dim must be given",
                self.embedding_dim,
            )
            object.__setattr__(self, "head_dim", self.embedding_dim // self.num_heads)
        if self.feed_forward_dim is None:
            width = 4 * self.embedding_dim
            if self.gated:  # three matrices instead of two: 2/3 of the width keeps the count
                width = 32 * math.ceil(2 * width / 3 / 32)
            object.__setattr__(self, "feed_forward_dim", width)
        assert self.num_kv_heads is not None and self.head_dim is not None
        _require(
            self.num_kv_heads >= 1 and self.num_heads % self.num_kv_heads == 0,
            f"num_kv_heads must divide num_heads ({self.num_heads})",
            self.num_kv_heads,
        )
        _check(self, "must be at least 1", "head_dim", "feed_forward_dim")
        _require(
            self.positions != "rotary" or self.head_dim % 2 == 0,
            "head_dim must be even for rotary positions",
            self.head_dim,
        )
        _require(
            self.positions != "sinusoidal" or self.embedding_dim % 2 == 0,
            "embedding_dim must be even for sinusoidal positions",
            self.embedding_dim,
        )
        _check(self, "must lie in [0, 1)", "dropout")
        _check(self, "must be positive", "norm_epsilon", "rope_theta")
        _check(self, "must not be negative", "initializer_range")
        _check(self, "must be at least 1", "sliding_window")
        if isinstance(self.rope_scaling, Mapping):
            scaling = build(RopeScaling, self.rope_scaling, where="rope_scaling")
            object.__setattr__(self, "rope_scaling", scaling)
        if self.positions != "rotary":
            for name in ("rope_scaling", "rope_layers"):
                value = getattr(self, name)
                _require(value is None, f"{name} is for rotary positions only", value)
        _require(
            self.sliding_window is not None or self.window_layers is None,
            "window_layers are those that sliding_window holds for, and it is not given",
            self.window_layers,
        )
        self._set_layers("rope_layers")
        self._set_layers("window_layers")
        _require(
            self.window_layers != (),
            "window_layers must name a block; without any, sliding_window is not to be given",
            self.window_layers,
        )
        self._set_biases()
        _check_finite(self)

    def has_bias(self, part: str) -> bool:
        """Whether "query_key_value", "attention_output" or "feed_forward" has biases."""
        own = getattr(self, f"{part}_bias")
        return self.use_bias if own is None else own

    def rotates(self, block: int) -> bool:
        """Whether a block's queries and keys are rotated."""
        if self.positions != "rotary":
            return False
        return self.rope_layers is None or block in self.rope_layers

    def has_window(self, block: int) -> bool:
        """Whether a block's tokens see less than the whole context before them."""
        if self.sliding_window is None or self.sliding_window >= self.max_sequence_length:
            return False
        return self.window_layers is None or block in self.window_layers

    def _set_layers(self, name: str) -> None:
        """Numbers of blocks in order; None where they are all."""
        layers = getattr(self, name)
        if layers is None:
            return
        _require(
            all(0 <= i < self.num_layers for i in layers),
            f"{name} must lie in [0, num_layers={self.num_layers})",
            layers,
        )
        layers = tuple(sorted(set(layers)))
        everywhere = len(layers) == self.num_layers
        object.__setattr__(self, name, None if everywhere else layers)

    def _set_biases(self) -> None:
        """One way to say where biases are: use_bias, and only what differs from it."""
        parts = ("query_key_value", "attention_output", "feed_forward")
        biases = [self.has_bias(part) for part in parts]
        if len(set(biases)) == 1:
            object.__setattr__(self, "use_bias", biases[0])
        for part, bias in zip(parts, biases, strict=True):
            object.__setattr__(self, f"{part}_bias", None if bias == self.use_bias else bias)


@dataclass(frozen=True)
class LoraConfig:
    """A low-rank adapter: W + (alpha / rank) B A, of which A and B alone are trained.

    After Hu et al. (2021); the projections have the names that PEFT and Hugging Face know.
    """

    rank: int = 8
    """rows of A and columns of B"""
    alpha: float = 16.0
    """the update is multiplied by alpha / rank"""
    dropout: float = 0.0
    """share of the adapter's inputs dropped while training"""
    targets: tuple[str, ...] = ("all",)
    """projections that are adapted: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj
    (all of them: all), or c_attn (q_proj, k_proj and v_proj as one), c_fc, c_proj"""
    layers: tuple[int, ...] | None = None
    """blocks that are adapted, counted from 0; default: all"""

    def __post_init__(self) -> None:
        targets = self.targets
        if isinstance(targets, str):
            targets = (targets,)
        names = [name.strip() for target in targets for name in str(target).split(",")]
        object.__setattr__(self, "targets", tuple(dict.fromkeys(filter(None, names))))
        _require(bool(self.targets), "targets must name a projection, or be all", targets)
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
            _require(bool(self.layers), "layers must name a block", self.layers)
        _check(self, "must be at least 1", "rank")
        _check(self, "must be positive", "alpha")
        _check(self, "must lie in [0, 1)", "dropout")
        _check_finite(self)


@dataclass(frozen=True)
class PrepareConfig:
    """How text, or examples, become token shards."""

    records: Literal["auto", "text", "examples", "preference"] = "auto"
    """what JSON lines hold: text to be packed end to end; examples (messages, prompt and response,
    instruction and output, or text) that are learned one by one; preferences (prompt, chosen and
    rejected). auto: what their keys say"""
    vocab_size: int = 8192
    """size of the tokenizer to train, special tokens included"""
    tokenizer: str | None = None
    """whose tokenizer to use instead of training one: a model folder, a GGUF file or a
    tokenizer.json; examples and preferences need the model's that is to learn from them"""
    validation_fraction: float = 0.02
    """share of the text kept out of training, in whole documents or examples, chosen by a hash"""
    validation: tuple[str, ...] = ()
    """files, folders or globs that are the validation set; nothing else is kept out then"""
    text_field: str = "text"
    """the key of a JSON line that holds the text"""
    skip_bad_records: bool = False
    """pass over JSON lines that are broken or lack something, and count them"""
    fill_in_the_middle: float = 0.0
    """share of the training text that is written as prefix, suffix, middle, so that a model learns
    to fill in what stands between (Bavarian et al., 2022); for code 0.5 is usual"""
    fill_suffix_first: float = 0.5
    """of these, the share that begins with the suffix: then the middle goes on where the prefix
    ends, which a small model learns sooner"""
    fill_chars: int = 2048
    """characters of such a piece at most: all of it should fit into a row"""
    shard_tokens: int = 50_000_000
    """tokens in one shard file"""
    num_processes: int = 0
    """processes that tokenize; 0: one a core, at most one for each 4 MB"""
    seed: int = 0
    """decides which documents are kept for validation"""

    def __post_init__(self) -> None:
        _require(
            self.vocab_size >= 257,
            "vocab_size must be at least 257 (256 bytes and the end token)",
            self.vocab_size,
        )
        # The trainer takes memory for all of them at once, and ends the process where it gets none.
        _require(self.vocab_size <= 2**20, "vocab_size must be at most 1048576", self.vocab_size)
        _check(self, "must lie in [0, 1)", "validation_fraction")
        for name in ("fill_in_the_middle", "fill_suffix_first"):
            share = getattr(self, name)
            _require(0 <= share <= 1, f"{name} must lie in [0, 1]", share)
        _require(
            not self.fill_in_the_middle or self.records in ("auto", "text"),
            "fill_in_the_middle is for text; records must then be auto or text",
            self.records,
        )
        _check(self, "must be at least 1", "shard_tokens", "fill_chars")
        _check(self, "must be at least 0", "num_processes")


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
        _check(self, "must be at least 1", *counts, "lora_rank", "top_layers")
        _check(self, "must not be negative", "validation_batches", "warmup_steps", "weight_decay")
        positive = ("epochs", "learning_rate", "epsilon", "lora_alpha", "dpo_beta")
        _check(self, "must be positive", *positive)
        _check(self, "must lie in [0, 1)", "beta_1", "beta_2", "lora_dropout")
        _require(
            self.batch_size is None or self.batch_size % self.gradient_accumulation == 0,
            f"gradient_accumulation must divide batch_size ({self.batch_size})",
            self.gradient_accumulation,
        )
        self._check_trainable()
        _require(
            0 < self.decay_fraction <= 1, "decay_fraction must lie in (0, 1]", self.decay_fraction
        )
        _require(
            0 <= self.final_learning_rate <= 1,
            "final_learning_rate is a share of learning_rate and must lie in [0, 1]",
            self.final_learning_rate,
        )
        _require(
            self.clip_norm is None or self.clip_norm > 0,
            "clip_norm must be positive or none",
            self.clip_norm,
        )
        _check_finite(self)

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

    def resolved(self, *, pretrained: bool, preferences: bool = False) -> TrainingConfig:
        """The same with a value for each setting whose default depends on others.

        What is measured, `precision` and `base_dtype`, stays open.

        Args:
            pretrained: whether the run begins with a pretrained model.
            preferences: whether it learns from preferences.

        Raises:
            ConfigError: only a pretrained model can be trained in part, or learn preferences.
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
            _require(trainable == "all", f"trained in part: {advice}", trainable)
            _require(not preferences, f"tuned on preferences: {advice}", None)
        values: dict[str, Any] = {
            "trainable": trainable,
            "batch_size": 8 if pretrained else 16,
            "learning_rate": 1e-3,
            "weight_decay": 0.1,
        }
        if pretrained:
            rates = (1e-6, 1e-5) if preferences else (1e-5, 2e-4)
            values |= {"learning_rate": rates[lora], "weight_decay": 0.0 if lora else 0.01}
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
            _require(
                lora or getattr(self, name) == default,
                f"{name} is for trainable=lora (or a lora_rank)",
                getattr(self, name),
            )
        _require(
            (self.trainable in ("top", "auto") and not lora) or self.top_layers is None,
            "top_layers is for trainable=top, without LoRA",
            self.top_layers,
        )
        _require(
            self.base_dtype != "bfloat16" or self.precision in ("auto", "bfloat16"),
            "a base in bfloat16 is multiplied in bfloat16: precision must be auto or bfloat16",
            self.precision,
        )
        _require(
            self.base_dtype != "int8" or self.precision != "float16",
            "a base in int8 is multiplied in float32 or bfloat16: precision must be one of them",
            self.precision,
        )


@dataclass(frozen=True)
class GenerationConfig:
    """How text is drawn from a model."""

    max_new_tokens: int = 64
    """the most tokens that are generated"""
    temperature: float = 0.0
    """0: always the likeliest token; 1: sample from the model's own distribution"""
    top_k: int = 0
    """sample from the k likeliest tokens only; 0: all"""
    top_p: float = 1.0
    """sample from the likeliest tokens that together have this probability"""
    min_p: float = 0.0
    """drop tokens less likely than this share of the likeliest token's probability"""
    repetition_penalty: float = 1.0
    """divides the scores of tokens that the prompt or the text already has; 1: none"""
    seed: int = 0
    """of the sampling; the same seed gives the same text"""
    stop: tuple[str, ...] = ()
    """the text ends before the first of these strings"""
    num_samples: int = 1
    """samples for each prompt, with the seeds seed, seed + 1, ..."""
    num_beams: int = 1
    """search the likeliest whole text with so many unfinished ones (beam search); needs
    temperature 0, repetition_penalty 1, no stop and one sample"""
    length_penalty: float = 1.0
    """of the beams: a text's score is its log-probability by its number of tokens to this power"""
    no_repeat_ngram_size: int = 0
    """of the beams: no sequence of so many tokens comes twice, the prompt included; 0: it may"""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        elif isinstance(self.stop, list):
            object.__setattr__(self, "stop", tuple(self.stop))
        _check(self, "must be at least 1", "max_new_tokens", "num_samples")
        _require(
            math.isfinite(self.temperature) and self.temperature >= 0,
            "temperature must be a finite number, at least 0",
            self.temperature,
        )
        _require(self.top_k >= 0, "top_k must be at least 0 (0: all tokens)", self.top_k)
        _require(0 < self.top_p <= 1, "top_p must lie in (0, 1]", self.top_p)
        _check(self, "must lie in [0, 1)", "min_p")
        _require(
            math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0,
            "repetition_penalty must be a finite number above 0",
            self.repetition_penalty,
        )
        _require(0 <= self.seed < 2**31, "seed must lie in [0, 2147483648)", self.seed)
        _check(self, "must be at least 1", "num_beams")
        _check(self, "must be at least 0", "no_repeat_ngram_size")
        _require(
            math.isfinite(self.length_penalty),
            "length_penalty must be a finite number",
            self.length_penalty,
        )
        if self.searches:
            for name, neutral in (
                ("temperature", 0), ("repetition_penalty", 1), ("stop", ()), ("num_samples", 1),
            ):  # fmt: skip
                _require(
                    getattr(self, name) == neutral,
                    f"{name} must be {neutral} where num_beams is above 1 or no_repeat_ngram_size "
                    "above 0, as the likeliest text is searched",
                    getattr(self, name),
                )
        _require(all(self.stop), "a stop string must not be empty", self.stop)

    @property
    def searches(self) -> bool:
        """Whether it is beam search (of one beam, with sequences that may not repeat)."""
        return self.num_beams > 1 or self.no_repeat_ngram_size > 0


def _require(rule_holds: bool, rule: str, received: Any) -> None:
    if not rule_holds:
        raise ConfigError(f"{rule}; received {received!r}")


_RULES: dict[str, Callable[[Any], bool]] = {
    "must be at least 1": lambda value: value >= 1,
    "must be at least 0": lambda value: value >= 0,
    "must not be negative": lambda value: value >= 0,
    "must be positive": lambda value: value > 0,
    "must lie in [0, 1)": lambda value: 0 <= value < 1,
}


def _check(config: Any, rule: str, *names: str) -> None:
    """Hold fields against a rule; None, where a field may be None, keeps them all."""
    for name in names:
        value = getattr(config, name)
        _require(value is None or _RULES[rule](value), f"{name} {rule}", value)


def _check_finite(config: Any) -> None:
    for name, value in vars(config).items():
        if isinstance(value, float):
            _require(math.isfinite(value), f"{name} must be a finite number", value)


# ------------------------------------------------------------------ reading


def build(cls: type[T], settings: Mapping[str, Any], *, where: str = "") -> T:
    """An instance of dataclass `cls` from named settings.

    Args:
        cls: a dataclass of this module.
        settings: field name to value; strings are read as the field's type.
        where: what the settings came from, for the error.

    Raises:
        ConfigError: a key that `cls` does not have, or a value of another type.
    """
    known = field_types(cls)  # type: ignore[arg-type]
    values = {}
    for key, value in settings.items():
        if key not in known:
            raise ConfigError(unknown_name("setting", key, known, where))
        values[key] = read_value(key, value, known[key])
    missing = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{cls.__name__} needs {', '.join(missing)}; received {sorted(values)}")
    return cls(**values)


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> str:
    """The error text for a name that is not among `known`, with the nearest one that is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}{f' in {where}' if where else ''}{hint}"


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Field name to resolved type, in order."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """Field name to the string that stands beneath the field in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for node, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            docs[node.target.id] = " ".join(str(after.value.value).split())
    return docs


def read_value(name: str, value: Any, kind: Any) -> Any:
    """`value` as the type `kind`; a string (from the command line) is parsed.

    Raises:
        ConfigError: the value is of another type.
    """
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        options = typing.get_args(kind)
        if type(None) in options and (value is None or str(value).lower() in ("none", "null", "")):
            return None
        (kind,) = [o for o in options if o is not type(None)]
    origin = typing.get_origin(kind)
    if origin is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, 1, 0.5)
            raise ConfigError(
                f"{name} must be one of {', '.join(choices)}; received {value!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        return value
    if origin is tuple:
        return _read_list(name, value, typing.get_args(kind)[0])
    if dataclasses.is_dataclass(kind):
        return _read_nested(name, value, kind)
    try:
        if kind is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                str(value).lower() if isinstance(value, str) else "?"
            ]
        if isinstance(value, bool):
            raise ValueError
        if kind is int:
            if isinstance(value, str):
                value = value.replace("_", "")
                return int(value) if value.lstrip("+-").isdigit() else _whole(float(value))
            return _whole(value)
        if kind is float:
            return float(value)
        if kind is str and isinstance(value, str):
            return value
    except (ValueError, KeyError, TypeError, OverflowError):
        pass
    noun = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[kind]
    raise ConfigError(f"{name} must be {noun}; received {value!r}")


def _read_list(name: str, value: Any, kind: type) -> tuple[Any, ...]:
    """A list of strings, or of whole numbers, which one string gives with commas between them."""
    items = value
    if isinstance(value, str):
        items = [value] if kind is str else value.split(",")
    try:
        if not isinstance(items, list | tuple):
            raise ConfigError
        if kind is str and not all(isinstance(item, str) for item in items):
            raise ConfigError
        return tuple(read_value(name, item, kind) for item in items)
    except ConfigError:
        noun = {int: "whole numbers", str: "strings"}[kind]
        raise ConfigError(f"{name} must be a list of {noun}; received {value!r}") from None


def _read_nested(name: str, value: Any, kind: Any) -> Any:
    """A dataclass inside another: an instance, a mapping of its fields, or one as JSON."""
    if isinstance(value, kind):
        return value
    given = value
    if isinstance(value, str):
        try:
            given = json.loads(value)
        except ValueError:
            given = None
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{name} must be a table of {', '.join(field_types(kind))} "
            f"(on the command line: a JSON object); received {value!r}"
        )
    return build(kind, given, where=name)


def _whole(value: Any) -> int:
    if int(value) != value:
        raise ValueError
    return int(value)


def read_file(path: str | Path) -> dict[str, Any]:
    """The settings in a TOML or JSON file, as nested dictionaries.

    Raises:
        ConfigError: the file is not there, or is neither TOML nor JSON.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the settings file {path}: {error}") from None
    try:
        if path.suffix == ".json":
            return json.loads(text)
        try:
            import tomllib
        except ModuleNotFoundError:  # Python 3.10
            import tomli as tomllib  # type: ignore[no-redef]
        return tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"{path} is not valid {path.suffix.lstrip('.') or 'TOML'}: {error}"
        ) from None


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass instance as a dictionary that JSON can hold."""
    return dataclasses.asdict(config)
