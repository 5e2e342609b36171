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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type, or out of range."""


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
    tied_embeddings: bool = True
    """the output projection is the token embedding"""
    dropout: float = 0.0
    """share of the activations dropped while training"""
    initializer_range: float = 0.02
    """standard deviation of the initial weights; that of the projections into the residual stream
    is divided by sqrt(2 x num_layers)"""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "embedding_dim",
            "num_layers",
            "num_heads",
            "max_sequence_length",
        ):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
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
        _require(self.head_dim >= 1, "head_dim must be at least 1", self.head_dim)
        _require(
            self.positions != "rotary" or self.head_dim % 2 == 0,
            "head_dim must be even for rotary positions",
            self.head_dim,
        )
        _require(0 <= self.dropout < 1, "dropout must lie in [0, 1)", self.dropout)
        _require(self.norm_epsilon > 0, "norm_epsilon must be positive", self.norm_epsilon)
        _require(self.rope_theta > 0, "rope_theta must be positive", self.rope_theta)


@dataclass(frozen=True)
class PrepareConfig:
    """How text becomes token shards."""

    vocab_size: int = 8192
    """size of the tokenizer to train, special tokens included"""
    tokenizer: str | None = None
    """a tokenizer.json (or a folder that holds one) to use instead of training one"""
    validation_fraction: float = 0.02
    """share of the text kept out of training, in whole documents, chosen by a hash"""
    text_field: str = "text"
    """the key of a JSON line that holds the text"""
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
        _require(
            0 <= self.validation_fraction < 1,
            "validation_fraction must lie in [0, 1)",
            self.validation_fraction,
        )
        _require(self.shard_tokens >= 1, "shard_tokens must be at least 1", self.shard_tokens)
        _require(self.num_processes >= 0, "num_processes must be at least 0", self.num_processes)


@dataclass(frozen=True)
class TrainingConfig:
    """One run of training."""

    sequence_length: int = 512
    """tokens in a row"""
    batch_size: int = 16
    """rows in an update of the weights, over all devices"""
    gradient_accumulation: int = 1
    """micro-batches that a batch is computed in, one after the other, to save memory"""
    steps: int | None = None
    """updates of the weights; default: as many as `epochs` makes"""
    epochs: float = 1.0
    """passes over the training text, when `steps` is not given"""
    learning_rate: float = 1e-3
    """the highest learning rate"""
    warmup_steps: int | None = None
    """steps of linear warm-up; default: 2 % of the steps, at least 10"""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """after warm-up: cosine decay, or constant and then linear decay (warmup-stable-decay)"""
    decay_fraction: float = 0.2
    """wsd: the share of the steps, at the end, in which the learning rate decays"""
    final_learning_rate: float = 0.1
    """the last learning rate, as a share of the highest"""
    weight_decay: float = 0.1
    """decoupled decay, of matrices only"""
    beta_1: float = 0.9
    """AdamW's decay of the mean gradient"""
    beta_2: float = 0.95
    """AdamW's decay of the mean squared gradient"""
    epsilon: float = 1e-8
    """AdamW's epsilon"""
    clip_norm: float | None = 1.0
    """the gradients' global norm is clipped to this"""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """of the products; weights stay float32. auto: bfloat16 where it is measured to be faster"""
    rematerialize: bool = False
    """recompute each block in the backward pass instead of keeping its activations"""
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
        for name in (
            "sequence_length",
            "batch_size",
            "gradient_accumulation",
            "steps_per_execution",
            "validate_every",
            "checkpoint_every",
            "keep_checkpoints",
        ):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        _require(
            self.validation_batches >= 0,
            "validation_batches must not be negative",
            self.validation_batches,
        )
        _require(self.steps is None or self.steps >= 1, "steps must be at least 1", self.steps)
        _require(self.epochs > 0, "epochs must be positive", self.epochs)
        _require(
            self.batch_size % self.gradient_accumulation == 0,
            f"gradient_accumulation must divide batch_size ({self.batch_size})",
            self.gradient_accumulation,
        )
        _require(self.learning_rate > 0, "learning_rate must be positive", self.learning_rate)
        _require(
            self.warmup_steps is None or self.warmup_steps >= 0,
            "warmup_steps must not be negative",
            self.warmup_steps,
        )
        _require(
            0 < self.decay_fraction <= 1, "decay_fraction must lie in (0, 1]", self.decay_fraction
        )
        _require(
            0 <= self.final_learning_rate <= 1,
            "final_learning_rate is a share of learning_rate and must lie in [0, 1]",
            self.final_learning_rate,
        )
        _require(self.weight_decay >= 0, "weight_decay must not be negative", self.weight_decay)
        _require(
            self.clip_norm is None or self.clip_norm > 0,
            "clip_norm must be positive or none",
            self.clip_norm,
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

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        elif isinstance(self.stop, list):
            object.__setattr__(self, "stop", tuple(self.stop))
        _require(self.max_new_tokens >= 1, "max_new_tokens must be at least 1", self.max_new_tokens)
        _require(
            math.isfinite(self.temperature) and self.temperature >= 0,
            "temperature must be a finite number, at least 0",
            self.temperature,
        )
        _require(self.top_k >= 0, "top_k must be at least 0 (0: all tokens)", self.top_k)
        _require(0 < self.top_p <= 1, "top_p must lie in (0, 1]", self.top_p)
        _require(0 <= self.min_p < 1, "min_p must lie in [0, 1)", self.min_p)
        _require(
            math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0,
            "repetition_penalty must be a finite number above 0",
            self.repetition_penalty,
        )
        _require(0 <= self.seed < 2**31, "seed must lie in [0, 2147483648)", self.seed)
        _require(all(self.stop), "a stop string must not be empty", self.stop)
        _require(self.num_samples >= 1, "num_samples must be at least 1", self.num_samples)


def _require(rule_holds: bool, rule: str, received: Any) -> None:
    if not rule_holds:
        raise ConfigError(f"{rule}; received {received!r}")


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
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(i, str) for i in items):
            raise ConfigError(f"{name} must be a list of strings; received {value!r}")
        return tuple(items)
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
