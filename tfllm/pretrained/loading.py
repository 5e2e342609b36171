"""Load a pretrained model: a Keras model, a tokenizer and generation settings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf

from tfllm.config import GenerationConfig
from tfllm.layers.quantized import quantize_rows
from tfllm.models.encoder import Encoder
from tfllm.pretrained.hugging_face.tensor_files import TensorInfo
from tfllm.pretrained.hugging_face.weight_map import StoredWeight, WeightMap, stored_weights
from tfllm.pretrained.keras_hub.models import is_keras_hub_preset
from tfllm.pretrained.model_folder import model_folder
from tfllm.pretrained.model_kinds import kind_of_config
from tfllm.pretrained.model_source import ModelSource, open_source
from tfllm.pretrained.tensor_source import TensorSource, equal, row_chunks

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer


class Pretrained(NamedTuple):
    """The contents of a model folder or file.

    Args:
        model: Keras model, for example from token ids to logits: a `CausalLM` or, for a BERT, the
            class that config.json names (see `model_kinds.py`).
        tokenizer: Tokenizer of the model, or None if there is none.
        generation: Default generation settings of the model.

    Examples:

    >>> import tempfile
    >>> import tfllm
    >>> model = tfllm.Transformer(vocab_size=32, embedding_dim=16, num_heads=2, num_layers=1)
    >>> folder = tfllm.save(model, tempfile.mkdtemp())
    >>> pretrained = tfllm.pretrained.load(folder)
    >>> pretrained.model.config.vocab_size
    32
    """

    model: Any
    tokenizer: Tokenizer | None
    generation: GenerationConfig


def load(
    path: str | Path,
    *,
    dtype: Any = None,
    rematerialize: bool = False,
    dropout: float | None = None,
    seed: int = 0,
) -> Pretrained:
    """Load the model, the tokenizer and the generation settings at a path.

    Tensors are read a few rows at a time, so the memory needed is little more than the model's.

    Args:
        path: Folder in the Hugging Face layout (written by `save`, or by `transformers` for a
            family in docs/pretrained_models.md), folder of a run, .gguf file, or
            `hf://ORGANISATION/NAME[@REVISION][/FILE.gguf]`.
        dtype: Dtype policy of the model ("float32", "bfloat16", "mixed_bfloat16", ...). "auto"
            means bfloat16 if all weights are stored in it, else float32. "int8" stores matrices as
            integers with a scale for each row, and computes in bfloat16 where that is faster on
            this machine, else in float32 ("int8_bfloat16" and "int8_float32" choose one). Defaults
            to float32.
        rematerialize: Whether to recompute each block in the backward pass. Defaults to False.
        dropout: Dropout rate in training. Defaults to that of config.json.
        seed: Random seed of dropout. Defaults to 0.

    Raises:
        FileNotFoundError: If there is no model, or one of its files is missing.
        ValueError: If a file is damaged or cut short; an architecture or an option is not
            supported; a weight is missing, unexpected, or of the wrong shape or dtype; or the
            tokenizer has more ids than the model.
        ConnectionError: If a model of the Hub is not in the cache, and there is no network.
    """
    place = model_folder(path)
    if is_keras_hub_preset(place):
        raise ValueError(
            f"{place} is a preset of KerasHub, which stays a model of KerasHub: "
            "tfllm.TextGeneration.load(path) generates with it, scores and is exported; "
            "tfllm.pretrained.load_keras_hub(path) gives the Keras model, to train it"
        )
    return _load(open_source(place), dtype, rematerialize, dropout, seed)


def load_encoder(
    path: str | Path,
    *,
    dtype: Any = None,
    rematerialize: bool = False,
    dropout: float | None = None,
    seed: int = 0,
) -> tuple[Encoder, Tokenizer | None]:
    """Load the encoder of a model that has one, whatever its head, and the tokenizer.

    Args:
        path: See `load`.
        dtype: See `load`.
        rematerialize: See `load`.
        dropout: See `load`.
        seed: See `load`.

    Raises:
        ValueError: If the model has no encoder; see also `load`.
        OSError: See `load`.
    """
    source = open_source(model_folder(path))
    source.ignore_modules()
    model, tokenizer, _ = _load(source, dtype, rematerialize, dropout, seed)
    encoder = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise ValueError(
            f"{source.where}: an encoder can only be read from a BERT, with or without a head; "
            f"received the class {type(model).__name__}"
        )
    return encoder, tokenizer


def _load(
    source: ModelSource, dtype: Any, rematerialize: bool, dropout: float | None, seed: int
) -> Pretrained:
    model_type = source.config.get("model_type")
    kind = kind_of_config(source.config, source.where)
    config, given = kind.read(source.config, source.where, dropout)
    assert isinstance(model_type, str)
    names = source.tensors.tensors.keys()
    stored = kind.stored_settings(config, names)
    if stored:
        config = dataclasses.replace(config, **stored)
    unlike = kind.unlike_dropouts(source.config, source.dropout) if dropout is None else {}
    stored_dtypes = {info.dtype for info in source.tensors.tensors.values()}
    tokenizer = source.tokenizer()
    if tokenizer is not None:
        check_vocabulary(tokenizer, config, source.where)
    generation = source.generation()
    if dtype is None or dtype == "auto":
        dtype = "bfloat16" if dtype == "auto" and stored_dtypes == {"BF16"} else "float32"

    options = {**given, **kind.stored_options(names)}
    options |= {"dtype": dtype, "rematerialize": rematerialize, "seed": seed}
    model = _uninitialized(kind.model_class, config, options)
    table = source.weight_map(kind.weight_map[model_type])
    weights = stored_weights(model, table)
    in_files = _matched(weights, table, source)
    for weight in weights:
        _assign(weight, in_files, source.tensors)
    model.attach(tokenizer, generation)
    if unlike:
        model.mark_unlike_dropouts(unlike, _why_untrainable(unlike, source.where))
    return Pretrained(model, tokenizer, generation)


def _why_untrainable(unlike: Mapping[str, float], where: str) -> str:
    rates = ", ".join(f"{key}={rate}" for key, rate in unlike.items())
    return (
        f"{where} has {rates}, but a model here has one dropout rate, for attention weights and "
        "for each sublayer's result. It is not trained with other rates unless you choose one: "
        "load it with dropout=..., or write one rate into config.json"
    )


def check_vocabulary(tokenizer: Tokenizer, config: Any, where: str) -> None:
    """Check that the model has all ids of a tokenizer.

    Raises:
        ValueError: If the tokenizer has more ids.
    """
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{where}: the tokenizer does not fit the model: it has {tokenizer.vocab_size:,} ids, "
            f"but the model's vocab_size is {config.vocab_size:,}. Use the tokenizer that the "
            "model was trained with"
        )


def _uninitialized(model_class: Any, config: Any, options: Mapping[str, Any]) -> Any:
    """A model with uninitialized weights: random ones would be overwritten at once."""
    with keras.StatelessScope():  # variables created inside get their values when it ends
        model = model_class(config, **options)
        for variable in model.weights:
            variable._initializer = _empty
    return model


def _empty(shape: tuple[int, ...], dtype: str) -> tf.Tensor:
    return tf.raw_ops.Empty(shape=shape, dtype=dtype)


def _matched(weights: list[StoredWeight], table: WeightMap, source: ModelSource) -> dict[str, str]:
    """Check that the files have all tensors of the table, and return the name of each in the
    files."""
    tensors = source.tensors.tensors
    in_files = {_full_name(name, table, tensors): name for name in tensors}
    wanted = {name: w.shape(rows) for w in weights for name, rows in w.tensors}
    copies = {table.output: weights[0].tensors[0][0], **dict(table.copies)}
    copies = {name: of for name, of in copies.items() if name in in_files and name not in wanted}
    # A file may hold tied weights under any one of their names: `safetensors.torch.save_model`
    # keeps the first in alphabetical order.
    for name, of in copies.items():
        in_files.setdefault(of, in_files[name])
    extra = [
        in_files[name]
        for name in in_files.keys() - wanted.keys() - copies.keys()
        if not any(re.fullmatch(pattern, name) for pattern in table.unread)
    ]
    missing = sorted(wanted.keys() - in_files.keys())
    if missing:
        raise ValueError(_listed("lack weights of the model", missing, tensors))
    if extra:
        what = f"contain weights that the model in {Path(source.where).name} does not have"
        raise ValueError(_listed(what, sorted(extra), tensors))
    for name, shape in wanted.items():
        info = tensors[in_files[name]]
        if info.shape != shape:
            raise ValueError(
                f"{info.file}: {in_files[name]} must have the shape {list(shape)}, as "
                f"{Path(source.where).name} says; received {list(info.shape)}"
            )
        if info.dtype not in source.tensors.readable:
            raise ValueError(
                f"{info.file}: {in_files[name]} must be one of "
                f"{', '.join(source.tensors.readable)}; received {info.dtype}. Have the program "
                "that wrote it use one of those, such as F16"
            )
    for name, of in copies.items():
        same = in_files[name] == in_files[of]
        if not (same or equal(source.tensors, in_files[name], in_files[of])):
            raise ValueError(
                f"{tensors[in_files[of]].file}: tie_word_embeddings says that {name} is equal to "
                f"{in_files[of]}, but they differ; set tie_word_embeddings to false in "
                "config.json"
            )
    return {name: in_files[name] for name in wanted}


def _full_name(name: str, table: WeightMap, tensors: Mapping[str, TensorInfo]) -> str:
    for old, new in table.renamed:
        name = re.sub(old, new, name)
    without_prefix = not any(n.startswith(table.prefix) for n in tensors)
    return table.prefix + name if without_prefix and name != table.output else name


def _listed(what: str, names: list[str], tensors: Mapping[str, TensorInfo]) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    paths = sorted({str(info.file) for info in tensors.values()})
    return f"{paths[0] if paths else 'the files'}{' ...' if len(paths) > 1 else ''} {what}: {shown}"


def _assign(weight: StoredWeight, names: Mapping[str, str], tensors: TensorSource) -> None:
    """Read the parts of a weight into its variable, a few rows at a time."""
    variable, scale = weight.variable, weight.scale
    # Not assigned slice by slice: after the first sliced assignment, TensorFlow copies a variable
    # each time it is read.
    whole = _aligned(variable.shape, _numpy_dtype(variable.dtype if scale is None else "int8"))
    scales = None if scale is None else np.empty(scale.shape, np.float32)
    exact = _numpy_dtype(variable.dtype if scale is None else "float32")
    # The scale of a row needs the whole row, and a row of the weight may be a column of the file.
    columns = np.empty(variable.shape, exact) if weight.transposed and scale is not None else None
    first = 0
    for name, rows in weight.tensors:
        for begin, end in row_chunks(tensors.tensors[names[name]]):
            part = np.asarray(tensors.read(names[name], begin, end), exact)
            place: tuple[slice, ...] = (slice(first + begin, first + end),)
            if weight.transposed:
                part, place = part.T, (slice(None), slice(begin, end))
            if columns is not None:
                columns[place] = part
            elif scales is not None:
                whole[place], scales[place] = quantize_rows(part)
            else:
                whole[place] = part
        first += rows
    if columns is not None:
        whole[...], scales = quantize_rows(columns)
    variable.assign(tf.convert_to_tensor(whole))
    if scale is not None:
        scale.assign(scales)


def _numpy_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that TensorFlow can use as a tensor without copying it."""
    size, alignment = int(np.prod(shape)) * dtype.itemsize, 64
    memory = np.empty(size + alignment, np.uint8)
    begin = -memory.ctypes.data % alignment
    return memory[begin : begin + size].view(dtype).reshape(shape)
