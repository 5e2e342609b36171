"""A model object of a given class, by the name of a size or from a pretrained one."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

from tfllm.models.causal_lm import CausalLM
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.models.heads.encoder_head import EncoderHead
from tfllm.models.sizes.decoders import DECODER_SIZES
from tfllm.models.sizes.encoder_decoders import ENCODER_DECODER_SIZES
from tfllm.models.sizes.encoders import ENCODER_SIZES
from tfllm.models.sizes.size_table import SizeTable
from tfllm.pretrained.loading import load, load_encoder

_SIZES: tuple[tuple[Any, SizeTable[Any]], ...] = (
    (CausalLM, DECODER_SIZES),
    (EncoderDecoder, ENCODER_DECODER_SIZES),
    (Encoder, ENCODER_SIZES),
    (EncoderHead, ENCODER_SIZES),
)
"""class of models to the sizes that its constructor takes the architecture of"""
_LOAD_OPTIONS = ("dtype", "rematerialize", "dropout", "seed")


def from_preset(cls: Any, source: str | Path, *, may_be_size: bool = True, **options: Any) -> Any:
    """See `tfllm.models.verbs.ModelVerbs.from_preset`.

    Args:
        cls: Class of the model.
        source: Name of a size, or a pretrained model.
        may_be_size: Whether `source` may be the name of a size.
        options: Options of the configuration, of the class or of `tfllm.pretrained.load`.
    """
    made_of: Any = CausalLM if issubclass(cls, CausalLM) else cls  # a Transformer is a CausalLM
    for base, sizes in _SIZES:
        if not issubclass(cls, base) or source not in sizes or Path(source).exists():
            continue
        if not may_be_size:
            raise ValueError(
                f"{source} is a size, and has no weights: {cls.__name__}.from_preset({source!r}) "
                "makes a new model of it; from_pretrained takes a folder, a .gguf file or hf://..."
            )
        known = {field.name for field in dataclasses.fields(sizes.config_class)}
        fields = {name: options.pop(name) for name in list(options) if name in known}
        return made_of(sizes.config(str(source), **fields), **options)
    how = {name: options.pop(name) for name in _LOAD_OPTIONS if name in options}
    if issubclass(cls, Encoder) or (issubclass(cls, EncoderHead) and options):
        encoder, tokenizer = load_encoder(source, **how)
        model = encoder if issubclass(cls, Encoder) else cls(encoder, **options)
        model.attach(tokenizer)
        return model
    model = load(source, **how).model
    if isinstance(model, made_of) and not options:
        return model
    if options:
        raise ValueError(
            f"a pretrained {made_of.__name__} takes {', '.join(_LOAD_OPTIONS)}; received "
            f"{', '.join(options)}"
        )
    if not issubclass(cls, EncoderHead) or not hasattr(model, "encoder"):
        raise ValueError(
            f"{source} holds a model of the class {type(model).__name__}, which "
            f"{type(model).__name__}.from_preset gives; received {cls.__name__}"
        )
    encoder, tokenizer = load_encoder(source, **how)
    made = cls(encoder)  # one that needs a number of labels says so
    if made.weights[len(encoder.weights) :]:
        warnings.warn(
            f"{source} holds a model of the class {type(model).__name__}: the head of the "
            f"{cls.__name__} is new, and has to be trained",
            stacklevel=4,
        )
    made.attach(tokenizer)
    return made
