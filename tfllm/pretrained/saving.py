"""Save a model, its tokenizer and its generation settings as a model folder."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import keras
import ml_dtypes
import numpy as np

from tfllm.config import GenerationConfig
from tfllm.layers.quantized import is_int8
from tfllm.models.heads.sentence_encoder import SentenceEncoder
from tfllm.pretrained.hugging_face import generation_settings
from tfllm.pretrained.hugging_face.bert_config import written_labels
from tfllm.pretrained.hugging_face.read_alike import as_llama
from tfllm.pretrained.hugging_face.sentence_modules import write_modules
from tfllm.pretrained.hugging_face.tensor_files import NewTensor, write_json, write_tensors
from tfllm.pretrained.hugging_face.weight_map import StoredWeight, stored_weights
from tfllm.pretrained.loading import check_vocabulary
from tfllm.pretrained.model_kinds import kind_of_model
from tfllm.pretrained.replaced_folder import OURS, replaced
from tfllm.version import __version__

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

_SPECIAL = ("bos_token", "eos_token", "pad_token")
_OF_GENERATION = (
    *(f"{name}_id" for name in _SPECIAL),
    *("decoder_start_token_id", "bad_words_ids"),
)
_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,  # true would drop spaces before punctuation
}


def save(
    model: Any,
    folder: str | Path,
    tokenizer: Tokenizer | None = None,
    *,
    generation: GenerationConfig | None = None,
    training_summary: Mapping[str, Any] | None = None,
    task: Mapping[str, Any] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    max_shard_bytes: int = 5_000_000_000,
) -> Path:
    """Write a model folder that `load` can open, and `transformers` if it has the architecture.

    The folder is written under another name and then renamed. A model folder that tfllm wrote there
    before is replaced; after an error, such as a full disk, it is unchanged.

    Args:
        model: Model of one of the classes in `model_kinds.py`, such as `CausalLM`.
        folder: Folder to write.
        tokenizer: Tokenizer that the model was trained with. Defaults to none.
        generation: Default generation settings of the model.
        training_summary: Description of the training for `tfllm.json`; it must be valid JSON.
        task: What the model was trained for, `{"name": ..., "information": {...}}`, which
            `task_of` returns; it must be valid JSON.
        dtype: Dtype of the weights in the file. Defaults to "float32".
        max_shard_bytes: Maximum size of a file of weights; a larger model is split into several.
            Defaults to 5,000,000,000.

    Returns:
        The folder.

    Raises:
        ValueError: If the tokenizer has more ids than the model, or another argument is not valid.
        FileExistsError: If `folder` contains something that would be lost.
        OSError: If the disk is full or cannot be written to.
    """
    folder = Path(folder)
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype must be float32 or bfloat16; received {dtype!r}")
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be at least 1; received {max_shard_bytes}")
    kind = kind_of_model(model)
    if is_int8(model.dtype_policy):
        raise ValueError(
            "a model folder cannot hold int8 weights, whose scales no other program would "
            "understand; save the model before its weights are converted to int8, or "
            "model.with_dtype('float32'), which has the rounded ones"
        )
    if tokenizer is not None:
        check_vocabulary(tokenizer, model.config, str(folder))
    values, reason = kind.write(model)
    other = as_llama(values, model.config, tokenizer)
    values, more_tensors = other or (values, [])
    values |= {**_named_labels(values, task), **model.unlike_dropouts}
    weights = stored_weights(model, kind.weight_map[values["model_type"]])
    special, ids = _special_tokens(tokenizer)
    sampling, other_generation = generation_settings.to_hugging_face(generation)
    ours: dict[str, Any] = {"tfllm_version": __version__, "transformers": not reason}
    if reason:
        ours["why"] = reason
    ours["dropout"] = None if model.unlike_dropouts else model.config.dropout
    if kind.generates:
        ours["generation"] = other_generation
    if task is not None:
        ours["task"] = {"name": task["name"], "information": dict(task.get("information", {}))}
    if training_summary is not None:
        ours["training"] = dict(training_summary)

    with replaced(folder, with_tokenizer=tokenizer is not None) as new:
        values |= {name: id_ for name, id_ in ids.items() if id_ is not None or name not in values}
        write_json(new / "config.json", {**values, "dtype": dtype, "torch_dtype": dtype})
        if kind.generates:
            kept = {name: values[name] for name in _OF_GENERATION if name in values}
            given = {name: value for name, value in kept.items() if value is not None}
            write_json(new / "generation_config.json", {**kept, **sampling, **given})
        if isinstance(model, SentenceEncoder):
            texts = {**model.text_settings, **(task or {}).get("information", {})}
            length = texts.get("sequence_length", model.config.max_sequence_length)
            write_modules(
                new,
                model.config.embedding_dim,
                length,
                pooling=model.pooling,
                normalize=model.normalize,
                texts=texts,
            )
        write_json(new / OURS, ours)
        if tokenizer is not None:
            tokenizer.save(new)
            given = {name: token for name, token in special.items() if token is not None}
            write_json(new / "special_tokens_map.json", given)
            settings = {**_TOKENIZER, **tokenizer.written_settings(), **special}
            settings["model_max_length"] = model.config.max_sequence_length
            write_json(new / "tokenizer_config.json", settings)
        numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
        write_tensors(new, [*_new_tensors(weights), *more_tensors], numpy_dtype, max_shard_bytes)
    return folder


def _named_labels(values: Mapping[str, Any], task: Mapping[str, Any] | None) -> dict[str, Any]:
    """The entries of config.json for a classifier's labels, if the task names them."""
    names = (task or {}).get("information", {}).get("labels")
    if "id2label" not in values or not names or len(names) != len(values["id2label"]):
        return {}
    return written_labels(tuple(map(str, names)))


def _special_tokens(
    tokenizer: Tokenizer | None,
) -> tuple[dict[str, Any], dict[str, int | list[int] | None]]:
    """The special tokens by name, and the ids of `_SPECIAL`.

    The ones that a tokenizer was loaded with are kept. If they include no padding token, the end
    token is used. No begin token is invented: chat templates and other programs would put it before
    every prompt.
    """
    named: dict[str, Any] = {}
    ends: tuple[int, ...] = ()
    if tokenizer is not None:
        named = {n: token for n, token in tokenizer.written_settings().items() if _names(n, token)}
        with contextlib.suppress(ValueError):  # a tokenizer without an end token can be saved too
            named = {"pad_token": tokenizer.end_token} | named
            named["eos_token"] = tokenizer.end_token
            ends = tokenizer.end_token_ids
    ids: dict[str, int | list[int] | None] = {}
    for name in _SPECIAL:
        token = named.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        ids[f"{name}_id"] = tokenizer.token_id(content) if tokenizer and content else None
    if len(ends) > 1:
        ids["eos_token_id"] = list(ends)
    return named, ids


def _names(name: str, value: Any) -> bool:
    """Whether a key of tokenizer_config.json names special tokens (add_bos_token does not)."""
    is_token = value is None or isinstance(value, str | dict | list)
    return is_token and name.endswith(("_token", "_tokens"))


def _new_tensors(weights: list[StoredWeight]) -> list[NewTensor]:
    tensors = []
    for weight in weights:
        begin = 0
        for name, rows in weight.tensors:
            values = functools.partial(_rows, weight, slice(begin, begin + rows))
            tensors.append(NewTensor(name, weight.shape(rows), values))
            begin += rows
    return tensors


def _rows(weight: StoredWeight, rows: slice) -> np.ndarray:
    value = keras.ops.convert_to_numpy(weight.variable.value[rows])
    return value.T if weight.transposed else value
