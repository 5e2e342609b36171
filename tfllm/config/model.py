"""The architecture of a decoder-only Transformer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tfllm.config.reading import read_fields
from tfllm.config.rules import check, check_finite, require


@dataclass(frozen=True)
class RopeScaling:
    """Lower rotary frequencies, for texts longer than those a model was first trained on.

    The names are those of `rope_parameters` in a Hugging Face config.json.

    Examples:
        >>> RopeScaling("linear", factor=4).factor
        4.0
    """

    rope_type: Literal["linear", "llama3"]
    """linear: all frequencies are divided by factor (Chen et al., 2023); llama3: only low
    frequencies, whose wavelengths are long compared with the original context, with a smooth
    transition (Grattafiori et al., 2024)"""
    factor: float
    """divisor of the frequencies"""
    low_freq_factor: float | None = None
    """llama3: wavelengths above the original context divided by this are scaled in full"""
    high_freq_factor: float | None = None
    """llama3: wavelengths below the original context divided by this are not scaled"""
    original_max_position_embeddings: int | None = None
    """llama3: original context length, in tokens"""

    def __post_init__(self) -> None:
        read_fields(self)
        check(self, "must be positive", "factor", "low_freq_factor", "high_freq_factor")
        check(self, "must be at least 1", "original_max_position_embeddings")
        check_finite(self)
        names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        for name in names:
            value = getattr(self, name)
            if self.rope_type == "llama3":
                require(value is not None, f"a llama3 rope_scaling needs {name}", value)
            else:
                require(value is None, f"a {self.rope_type} rope_scaling has no {name}", value)
        if self.low_freq_factor is not None and self.high_freq_factor is not None:
            require(
                self.low_freq_factor < self.high_freq_factor,
                f"high_freq_factor must be above low_freq_factor ({self.low_freq_factor})",
                self.high_freq_factor,
            )


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of a decoder-only Transformer.

    A model family (GPT-2, Llama, ...) is a choice of these values.

    Examples:
        >>> config = ModelConfig(vocab_size=256, embedding_dim=64, num_layers=2, num_heads=4)
        >>> config.head_dim, config.feed_forward_dim, config.positions
        (16, 192, 'rotary')
    """

    vocab_size: int
    """vocabulary size: number of token ids"""
    embedding_dim: int
    """hidden size: width of the residual stream"""
    num_layers: int
    """number of Transformer blocks"""
    num_heads: int
    """number of attention (query) heads"""
    num_kv_heads: int | None = None
    """number of key/value heads, a divisor of num_heads (grouped-query attention); default:
    num_heads"""
    head_dim: int | None = None
    """size of each attention head; default: embedding_dim / num_heads"""
    feed_forward_dim: int | None = None
    """inner size of the feed-forward layer; default: 4 x embedding_dim, or 8/3 of it if gated"""
    max_sequence_length: int = 1024
    """context length: maximum number of tokens"""
    positions: Literal["rotary", "learned", "sinusoidal", "none"] = "rotary"
    """kind of position encoding"""
    rope_theta: float = 10000.0
    """base of the rotary frequencies"""
    rope_scaling: RopeScaling | None = None
    """scaling of the rotary frequencies for longer contexts, as JSON; default: none"""
    rope_layers: tuple[int, ...] | None = None
    """indices of the blocks with rotary positions, counted from 0; default: all"""
    sliding_window: int | None = None
    """size of the attention window in tokens, the current token included; default: no window"""
    window_layers: tuple[int, ...] | None = None
    """indices of the blocks with the sliding window, counted from 0; default: all"""
    query_key_norm: bool = False
    """apply RMSNorm to the queries and keys of each head, before rotary positions"""
    norm: Literal["rms", "layer"] = "rms"
    """normalization layer: RMSNorm (rms) or LayerNorm (layer)"""
    norm_epsilon: float = 1e-5
    """added to the variance in normalization layers, for numerical stability"""
    norm_first: bool = True
    """normalize before each sublayer (pre-norm); false: after the residual sum (post-norm)"""
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    """activation function of the feed-forward layer"""
    gated: bool = True
    """use a gated feed-forward layer, such as SwiGLU"""
    use_bias: bool = False
    """add biases to the projections"""
    query_key_value_bias: bool | None = None
    """add biases to the query, key and value projections; default: use_bias"""
    attention_output_bias: bool | None = None
    """add a bias to the output projection of attention; default: use_bias"""
    feed_forward_bias: bool | None = None
    """add biases to the feed-forward layer; default: use_bias"""
    tied_embeddings: bool = True
    """use the token embedding as the output projection, too"""
    dropout: float = 0.0
    """dropout rate during training"""
    initializer_range: float = 0.02
    """standard deviation of the initial weights; for projections into the residual stream it is
    divided by sqrt(2 x num_layers)"""

    def __post_init__(self) -> None:
        read_fields(self)
        sizes = ("vocab_size", "embedding_dim", "num_layers", "num_heads", "max_sequence_length")
        check(self, "must be at least 1", *sizes)
        # The blocks are built in a Python loop, which a corrupt number must not keep running.
        require(self.num_layers <= 10_000, "num_layers must be at most 10000", self.num_layers)
        if self.num_kv_heads is None:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if self.head_dim is None:
            require(
                self.embedding_dim % self.num_heads == 0,
                f"embedding_dim must be divisible by num_heads ({self.num_heads}), "
                "or head_dim must be given",
                self.embedding_dim,
            )
            object.__setattr__(self, "head_dim", self.embedding_dim // self.num_heads)
        if self.feed_forward_dim is None:
            width = 4 * self.embedding_dim
            if self.gated:  # three matrices instead of two: 2/3 of the width, as many parameters
                width = 32 * math.ceil(2 * width / 3 / 32)
            object.__setattr__(self, "feed_forward_dim", width)
        assert self.num_kv_heads is not None and self.head_dim is not None
        require(
            self.num_kv_heads >= 1 and self.num_heads % self.num_kv_heads == 0,
            f"num_kv_heads must divide num_heads ({self.num_heads})",
            self.num_kv_heads,
        )
        check(self, "must be at least 1", "head_dim", "feed_forward_dim")
        require(
            self.positions != "rotary" or self.head_dim % 2 == 0,
            "head_dim must be even for rotary positions",
            self.head_dim,
        )
        require(
            self.positions != "sinusoidal" or self.embedding_dim % 2 == 0,
            "embedding_dim must be even for sinusoidal positions",
            self.embedding_dim,
        )
        check(self, "must lie in [0, 1)", "dropout")
        check(self, "must be positive", "norm_epsilon", "rope_theta")
        check(self, "must not be negative", "initializer_range")
        check(self, "must be at least 1", "sliding_window")
        if self.positions != "rotary":
            for name in ("rope_scaling", "rope_layers"):
                value = getattr(self, name)
                require(value is None, f"{name} is for rotary positions only", value)
        require(
            self.sliding_window is not None or self.window_layers is None,
            "window_layers are the blocks that use sliding_window, which is not given",
            self.window_layers,
        )
        self._set_layers("rope_layers")
        self._set_layers("window_layers")
        require(
            self.window_layers != (),
            "window_layers must name a block; for a model without a window, leave out "
            "sliding_window",
            self.window_layers,
        )
        self._set_biases()
        check_finite(self)

    def has_bias(self, part: str) -> bool:
        """Whether a part has biases: "query_key_value", "attention_output" or "feed_forward"."""
        own = getattr(self, f"{part}_bias")
        return self.use_bias if own is None else own

    def rotates(self, block: int) -> bool:
        """Whether the block with this index uses rotary positions."""
        if self.positions != "rotary":
            return False
        return self.rope_layers is None or block in self.rope_layers

    def has_window(self, block: int) -> bool:
        """Whether tokens in the block with this index attend only to a sliding window."""
        if self.sliding_window is None or self.sliding_window >= self.max_sequence_length:
            return False
        return self.window_layers is None or block in self.window_layers

    def _set_layers(self, name: str) -> None:
        """Store the indices of blocks sorted; None if they are all blocks."""
        layers = getattr(self, name)
        if layers is None:
            return
        require(
            all(0 <= i < self.num_layers for i in layers),
            f"{name} must lie in [0, num_layers={self.num_layers})",
            layers,
        )
        layers = tuple(sorted(set(layers)))
        everywhere = len(layers) == self.num_layers
        object.__setattr__(self, name, None if everywhere else layers)

    def _set_biases(self) -> None:
        """Store the biases in one canonical form: use_bias, and only what differs from it."""
        parts = ("query_key_value", "attention_output", "feed_forward")
        biases = [self.has_bias(part) for part in parts]
        if len(set(biases)) == 1:
            object.__setattr__(self, "use_bias", biases[0])
        for part, bias in zip(parts, biases, strict=True):
            object.__setattr__(self, f"{part}_bias", None if bias == self.use_bias else bias)
