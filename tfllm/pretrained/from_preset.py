"""A model object of a given class, by the name of a size or from a pretrained one."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

from tfllm.config import ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
from tfllm.models.encoder_decoder_presets import PRESETS as ENCODER_DECODER_PRESETS
from tfllm.models.encoder_decoder_presets import encoder_decoder_preset
from tfllm.models.heads.encoder_head import EncoderHead
from tfllm.models.presets import PRESETS, preset
from tfllm.pretrained.loading import load, load_encoder

_SIZES: tuple[tuple[Any, Any, Any, Any], ...] = (
    (CausalLM, PRESETS, preset, ModelConfig),
    (EncoderDecoder, ENCODER_DECODER_PRESETS, encoder_decoder_preset, EncoderDecoderConfig),
)
_LOAD_OPTIONS = ("dtype", "rematerialize", "dropout", "seed")


def from_preset(cls: Any, source: str | Path, *, sizes: bool = True, **options: Any) -> Any:
    """See `tfllm.models.verbs.ModelVerbs.from_preset`.

    Args:
        cls: the class of the model.
        source: a size or a pretrained model.
        sizes: whether it may be a size.
        options: as there.
    """
    for base, names, preset_of, config_class in _SIZES:
        if not issubclass(cls, base) or source not in names or Path(source).exists():
            continue
        if not sizes:
            raise ValueError(
                f"{source} is a size, and has no weights: {cls.__name__}.from_preset({source!r}) "
                "makes a new model of it; from_pretrained takes a folder, a .gguf file or hf://..."
            )
        fields = {field.name for field in dataclasses.fields(config_class)}
        config = {name: options.pop(name) for name in list(options) if name in fields}
        return base(preset_of(source, **config), **options)
    how = {name: options.pop(name) for name in _LOAD_OPTIONS if name in options}
    if issubclass(cls, Encoder) or (issubclass(cls, EncoderHead) and options):
        encoder, tokenizer = load_encoder(source, **how)
        model = encoder if issubclass(cls, Encoder) else cls(encoder, **options)
        model.attach(tokenizer)
        return model
    model = load(source, **how).model
    wanted = next((base for base, *_ in _SIZES if issubclass(cls, base)), cls)
    if isinstance(model, wanted) and not options:
        return model
    if options:
        raise ValueError(
            f"a pretrained {wanted.__name__} takes {', '.join(_LOAD_OPTIONS)}; received "
            f"{', '.join(options)}"
        )
    if not issubclass(cls, EncoderHead) or not hasattr(model, "encoder"):
        raise ValueError(
            f"{source} holds a {type(model).__name__}, which {type(model).__name__}.from_preset "
            f"gives; received {cls.__name__}"
        )
    encoder, tokenizer = load_encoder(source, **how)
    made = cls(encoder)  # one that needs a number of labels says so
    if made.weights[len(encoder.weights) :]:
        warnings.warn(
            f"{source} holds a {type(model).__name__}: the head of the {cls.__name__} is new, and "
            "has to be trained",
            stacklevel=4,
        )
    made.attach(tokenizer)
    return made
