"""How many weights a model has, by a closed formula; nothing here imports TensorFlow."""

from __future__ import annotations

from tfllm.config import ModelConfig
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig


def num_parameters(config: ModelConfig | EncoderConfig | EncoderDecoderConfig) -> int:
    """The number of trained weights of a `CausalLM`, an `Encoder` or an `EncoderDecoder`.

    A tied embedding counts once; sinusoidal and rotary positions have no weights. An encoder is
    counted without a head, and without a pooler, which belongs to one.

    Args:
        config: the architecture.
    """
    if isinstance(config, EncoderConfig):
        return _of_encoder(config)
    if isinstance(config, EncoderDecoderConfig):
        return _of_encoder_decoder(config)
    return _of_decoder(config)


def _of_decoder(config: ModelConfig) -> int:
    width, inner, heads = config.embedding_dim, config.feed_forward_dim, config.num_heads
    assert inner is not None and config.head_dim is not None and config.num_kv_heads is not None
    heads_dim = heads * config.head_dim
    projected = heads_dim + 2 * config.num_kv_heads * config.head_dim  # queries, keys and values
    inner_rows = inner * (2 if config.gated else 1)
    block = width * (projected + heads_dim + inner_rows + inner)
    block += projected * config.has_bias("query_key_value")
    block += width * config.has_bias("attention_output")
    block += (inner_rows + width) * config.has_bias("feed_forward")
    block += 2 * config.head_dim * config.query_key_norm
    norm = width * (2 if config.norm == "layer" else 1)
    embedding = config.vocab_size * width
    total = embedding + config.num_layers * (block + 2 * norm)
    if config.positions == "learned":
        total += config.max_sequence_length * width
    if config.norm_first:
        total += norm
    return total if config.tied_embeddings else total + embedding


def _of_encoder(config: EncoderConfig) -> int:
    width, inner = config.embedding_dim, config.feed_forward_dim
    assert inner is not None
    attention = 4 * (width * width + width)
    feed_forward = 2 * width * inner + inner + width
    norm = 2 * width
    embedded = config.vocab_size + config.max_sequence_length + config.num_token_types
    return embedded * width + norm + config.num_layers * (attention + feed_forward + 2 * norm)


def _of_encoder_decoder(config: EncoderDecoderConfig) -> int:
    width, inner, num_decoder = (
        config.embedding_dim,
        config.feed_forward_dim,
        config.num_decoder_layers,
    )
    assert inner is not None and config.head_dim is not None and num_decoder is not None
    heads, bias = config.num_heads * config.head_dim, config.use_bias
    attention = 4 * width * heads + bias * (3 * heads + width)
    inner_rows = inner * (2 if config.gated else 1)
    feed_forward = width * (inner_rows + inner) + bias * (inner_rows + width)
    norm = width * (2 if config.norm == "layer" else 1)
    total = config.vocab_size * width * (1 if config.tied_embeddings else 2)
    total += config.num_layers * (attention + feed_forward + 2 * norm)
    total += num_decoder * (2 * attention + feed_forward + 3 * norm)
    if config.positions == "relative":
        total += 2 * config.num_position_buckets * config.num_heads
    return total + (2 * norm if config.norm_first else 0)
