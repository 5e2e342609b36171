"""What attention and a Transformer block compute, as values.

A family of models is a row of these values; nothing in a layer asks for a family's name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Config = TypeVar("Config")


@dataclass(frozen=True)
class AttentionConfig:
    """What `MultiHeadAttention` computes.

    Raises:
        ValueError: values that are out of range or do not fit together.

    Examples:
        >>> config = tfllm.layers.AttentionConfig(num_heads=8, num_kv_heads=2, causal=True)
        >>> layer = tfllm.layers.MultiHeadAttention(config)
    """

    num_heads: int
    """number of query heads N"""
    head_dim: int | None = None
    """size of a head D; default: the input's width / num_heads"""
    num_kv_heads: int | None = None
    """number of key/value heads K, a divisor of num_heads (Ainslie et al., 2023); default:
    num_heads"""
    causal: bool = False
    """a token attends to itself and to earlier tokens only; has no effect in cross-attention"""
    sliding_window: int | None = None
    """number of tokens that a token attends to, itself the last of them (Beltagy et al., 2020);
    None: no limit. Only with causal"""
    cross_attention: bool = False
    """keys and values come from a context and not from the input"""
    rope_theta: float | None = None
    """base of the rotary frequencies; None: no rotary positions"""
    rope_scaling: Mapping[str, Any] | None = None
    """how the rotary frequencies are scaled; see `rotary_frequencies`"""
    query_key_norm: bool = False
    """apply RMSNorm to each head's query and key, before they are rotated"""
    norm_epsilon: float = 1e-5
    """added to the variance in that norm"""
    use_bias: bool = False
    """add biases to the projections"""
    output_bias: bool | None = None
    """add a bias to the output projection; default: use_bias"""
    scaled: bool = True
    """divide the scores by √D; false: the initial weights of the queries are divided instead, as
    in T5 (Raffel et al., 2020)"""
    dropout: float = 0.0
    """rate of dropout of the attention weights during training"""

    def __post_init__(self) -> None:
        if self.num_kv_heads is None:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if self.rope_scaling is not None:
            object.__setattr__(self, "rope_scaling", dict(self.rope_scaling))
        kv_heads, window = self.num_kv_heads, self.sliding_window
        assert kv_heads is not None
        if self.num_heads < 1 or kv_heads < 1 or self.num_heads % kv_heads:
            raise ValueError(
                "num_kv_heads must divide num_heads, both at least 1; "
                f"received num_heads={self.num_heads}, num_kv_heads={kv_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); received {self.dropout}")
        if window is not None and (window < 1 or not self.causal):
            raise ValueError(
                "sliding_window must be at least 1, and needs causal=True; "
                f"received sliding_window={window}, causal={self.causal}"
            )
        if self.query_key_norm and self.cross_attention:
            raise ValueError(
                "query_key_norm is for self-attention only; "
                "received query_key_norm=True, cross_attention=True"
            )


@dataclass(frozen=True)
class BlockConfig:
    """What `TransformerBlock` computes.

    Raises:
        ValueError: values that are out of range or do not fit together.

    Examples:
        >>> config = tfllm.layers.BlockConfig(num_heads=8, hidden_dim=2048, causal=True)
        >>> block = tfllm.layers.TransformerBlock(config)
    """

    num_heads: int
    """number of query heads"""
    hidden_dim: int | None = None
    """inner width of the feed-forward layer; default: 4 x the input's width"""
    num_kv_heads: int | None = None
    """number of key/value heads, a divisor of num_heads; default: num_heads"""
    head_dim: int | None = None
    """size of a head; default: the input's width / num_heads"""
    causal: bool = False
    """a token attends to itself and to earlier tokens only"""
    sliding_window: int | None = None
    """number of tokens that a token attends to, itself the last of them; None: no limit"""
    cross_attention: bool = False
    """a third sublayer, between the two, attends to a context"""
    rope_theta: float | None = None
    """base of the rotary frequencies; None: no rotary positions"""
    rope_scaling: Mapping[str, Any] | None = None
    """how the rotary frequencies are scaled; see `rotary_frequencies`"""
    query_key_norm: bool = False
    """apply RMSNorm to each head's query and key, before they are rotated"""
    norm: str = "rms"
    """normalization layer: "rms" (RMSNorm) or "layer" (LayerNorm)"""
    norm_epsilon: float = 1e-5
    """added to the variance in normalization layers"""
    norm_first: bool = True
    """normalize before each sublayer (pre-norm); false: after the residual sum (post-norm)"""
    activation: str = "silu"
    """activation function of the feed-forward layer"""
    gated: bool = True
    """use a gated feed-forward layer"""
    use_bias: bool = False
    """add biases to the projections"""
    query_key_value_bias: bool | None = None
    """add biases to the query, key and value projections; default: use_bias"""
    attention_output_bias: bool | None = None
    """add a bias to the output projection of attention; default: use_bias"""
    feed_forward_bias: bool | None = None
    """add biases to the feed-forward layer; default: use_bias"""
    scaled_attention: bool = True
    """divide attention's scores by the square root of the head size"""
    dropout: float = 0.0
    """rate of dropout of the attention weights and of each sublayer's result during training"""
    attention_dropout: float | None = None
    """rate of dropout of the attention weights; default: dropout"""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); received {self.dropout}")
        if self.rope_scaling is not None:
            object.__setattr__(self, "rope_scaling", dict(self.rope_scaling))

    def attention(self, *, cross: bool = False) -> AttentionConfig:
        """The configuration of the block's self-attention, or of its cross-attention.

        Args:
            cross: whether it is cross-attention, which sees the whole context and has no positions.
        """
        own: dict[str, Any] = {
            "causal": self.causal,
            "sliding_window": self.sliding_window,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
            "query_key_norm": self.query_key_norm,
            "norm_epsilon": self.norm_epsilon,
        }
        return AttentionConfig(
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            num_kv_heads=self.num_kv_heads,
            use_bias=self.has_bias("query_key_value"),
            output_bias=self.has_bias("attention_output"),
            scaled=self.scaled_attention,
            dropout=self.dropout if self.attention_dropout is None else self.attention_dropout,
            **({"cross_attention": True} if cross else own),
        )

    def has_bias(self, part: str) -> bool:
        """Whether "query_key_value", "attention_output" or "feed_forward" has biases."""
        own = getattr(self, f"{part}_bias")
        return self.use_bias if own is None else own


def config_of(kind: type[Config], given: tuple[Any, ...], options: dict[str, Any]) -> Config:
    """A layer's configuration, from the arguments of its constructor.

    Args:
        kind: `AttentionConfig` or `BlockConfig`.
        given: the positional arguments: a configuration, or values of its first fields.
        options: the keyword arguments; those that are fields are removed from it.

    Raises:
        TypeError: a configuration and fields, or fields that are missing or given twice.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    fields = {name: options.pop(name) for name in names if name in options}
    if given and isinstance(given[0], kind):
        if len(given) > 1 or fields:
            raise TypeError(
                f"a layer takes a {kind.__name__} or its fields, not both; received a "
                f"{kind.__name__} and {', '.join(fields) or given[1:]}"
            )
        return given[0]
    return kind(*given, **fields)
