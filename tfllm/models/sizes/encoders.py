"""The sizes of encoders, as rows of `EncoderConfig` values; nothing here imports TensorFlow."""

from __future__ import annotations

from typing import Any

from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.sizes.size_table import SizeTable

_COLUMNS = ("vocab_size", "num_layers", "embedding_dim", "num_heads")

ROWS: dict[str, dict[str, tuple[Any, ...]]] = {
    # Devlin et al., 2019; the smaller ones are the miniatures of Turc et al., 2019.
    "bert": {
        #           vocab layers width heads
        "bert-tiny": (30_522, 2, 128, 2),
        "bert-mini": (30_522, 4, 256, 4),
        "bert-small": (30_522, 4, 512, 8),
        "bert-base": (30_522, 12, 768, 12),
    },
}
"""family to a size's name to its row: the columns above, then a dictionary of what differs"""

ENCODER_SIZES = SizeTable(
    "encoder", EncoderConfig, families={"bert": {}}, columns=_COLUMNS, rows=ROWS
)
"""size's name to its `EncoderConfig` values"""
