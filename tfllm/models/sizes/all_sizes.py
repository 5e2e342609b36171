"""The sizes of every kind of model, by name and as a list; nothing here imports TensorFlow."""

from __future__ import annotations

from typing import Any

from tfllm.config import ConfigError, ModelConfig, unknown_name
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
from tfllm.models.parameter_count import num_parameters
from tfllm.models.sizes.decoders import DECODER_SIZES
from tfllm.models.sizes.encoder_decoders import ENCODER_DECODER_SIZES
from tfllm.models.sizes.encoders import ENCODER_SIZES
from tfllm.models.sizes.size_table import SizeTable

ALL_SIZES: tuple[SizeTable[Any], ...] = (DECODER_SIZES, ENCODER_SIZES, ENCODER_DECODER_SIZES)
"""no name is in two of them"""


def size(name: str, **fields: Any) -> ModelConfig | EncoderConfig | EncoderDecoderConfig:
    """The architecture of a size, with some of its fields given. It has no weights.

    Args:
        name: of the size, such as "llama-4m", "bert-mini" or "t5-small"; `tfllm sizes` lists them.
        fields: of the architecture, over the size's, such as `vocab_size`.

    Returns:
        a `ModelConfig`, an `EncoderConfig` or an `EncoderDecoderConfig`, by the size.

    Raises:
        ConfigError: no size of that name, no such field, or values that do not fit together.
    """
    for table in ALL_SIZES:
        if name in table:
            return table.config(name, **fields)
    raise ConfigError(unknown_name("size", name, size_names()))


def size_names() -> list[str]:
    """The names of all sizes."""
    return [name for table in ALL_SIZES for name in table]


def size_listing() -> str:
    """All sizes as text, a part for each kind of model, with their parameters.

    The parameters are those at the size's own vocabulary, of an encoder without a head; the layers
    of an encoder-decoder are those of its two sides.
    """
    parts = [_rows(table) for table in ALL_SIZES]
    widths = [max(map(len, cells)) for cells in zip(*(r for p in parts for r in p), strict=True)]
    return "\n\n".join("\n".join(_line(row, widths) for row in part) for part in parts)


def _rows(table: SizeTable[Any]) -> list[tuple[str, ...]]:
    head = (table.kind, "parameters", "vocabulary", "layers", "width", "heads/kv", "context")
    rows: list[tuple[str, ...]] = [head]
    for name in table:
        config = table.config(name)
        layers = [config.num_layers]
        if isinstance(config, EncoderDecoderConfig):
            layers.append(config.num_decoder_layers)
        rows.append(
            (
                name,
                f"{num_parameters(config):,}",
                f"{config.vocab_size:,}",
                "+".join(map(str, layers)),
                str(config.embedding_dim),
                f"{config.num_heads}/{config.num_kv_heads}",
                f"{config.max_sequence_length:,}",
            )
        )
    return rows


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [row[0].ljust(widths[0])]
    cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join(cells).rstrip()
