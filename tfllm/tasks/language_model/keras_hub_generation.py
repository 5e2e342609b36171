"""Use causal language models of KerasHub for text generation, without converting them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfllm.config import ConfigError
from tfllm.generation.keras_hub_decoder import KerasHubDecoder
from tfllm.pretrained.keras_hub.models import is_keras_hub_model, load_keras_hub, with_dtype
from tfllm.pretrained.keras_hub.tokenizer import keras_hub_tokenizer
from tfllm.tokenizers.base import Tokenizer


def keras_hub_parts(
    model: Any,
    *,
    tokenizer: Tokenizer | None = None,
    max_sequence_length: int | None = None,
    dtype: str | None = None,
) -> tuple[KerasHubDecoder, Tokenizer]:
    """The decoder and the tokenizer; arguments are those of `TextGeneration.of_keras_hub`."""
    if isinstance(model, str | Path):
        model = load_keras_hub(model, dtype=dtype)
    if not is_keras_hub_model(model) or _is_encoder_decoder(model):
        raise ValueError(
            "the model must be a CausalLM of KerasHub, or the folder of its preset; received a "
            f"{type(model).__name__}"
        )
    if dtype is not None and dtype != model.backbone.compute_dtype:
        model = with_dtype(model, dtype)
    decoder = KerasHubDecoder(model, _context(model, max_sequence_length))
    return decoder, tokenizer or keras_hub_tokenizer(model)


def _is_encoder_decoder(model: Any) -> bool:
    import keras_hub

    return isinstance(model, keras_hub.models.Seq2SeqLM)


def _context(model: Any, wanted: int | None) -> int:
    """Maximum number of tokens in a text."""
    most = getattr(model.backbone, "max_sequence_length", None)
    if wanted is None:
        return most or getattr(model.preprocessor, "sequence_length", None) or 1024
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 2:
        raise ConfigError(f"max_sequence_length must be at least 2; received {wanted!r}")
    if most is not None and wanted > most:
        raise ConfigError(
            f"max_sequence_length must be at most the model's number of positions ({most}); "
            f"received {wanted}"
        )
    return wanted
