"""Writing a `CausalLM`, its tokenizer and generation settings as a model folder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import keras
import ml_dtypes
import numpy as np

from tfllm import __version__
from tfllm.config import GenerationConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.pretrained import generation_settings, hugging_face_config
from tfllm.pretrained.loading import check_vocabulary
from tfllm.pretrained.replaced_folder import OURS, replaced
from tfllm.pretrained.tensor_files import NewTensor, write_json, write_tensors
from tfllm.pretrained.weight_map import WEIGHT_MAPS, StoredWeight, stored_weights

if TYPE_CHECKING:
    from tfllm.tokenizers import BytePairTokenizer

_SPECIAL = ("bos_token", "eos_token", "pad_token")
_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,  # true would drop spaces before punctuation
}


def save(
    model: CausalLM,
    folder: str | Path,
    tokenizer: BytePairTokenizer | None = None,
    *,
    generation: GenerationConfig | None = None,
    training_summary: Mapping[str, Any] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    max_shard_bytes: int = 5_000_000_000,
) -> Path:
    """Write a model folder that `load` and, where it has the architecture, `transformers` open.

    It is written beside and renamed into place. A model folder that tfllm wrote there before is
    replaced; after an error, such as a full disk, it is left as it was.

    Args:
        model: the model.
        folder: where.
        tokenizer: the tokenizer that the model was trained with.
        generation: how text is drawn from the model unless one says otherwise.
        training_summary: what `tfllm.json` is to say of the training; it must fit JSON.
        dtype: of the weights in the file.
        max_shard_bytes: a larger model is written as several files.

    Returns:
        the folder.

    Raises:
        ValueError: a tokenizer with more ids than the model, or another argument that does not fit.
        FileExistsError: `folder` holds something that saving would lose.
        OSError: the disk is full or cannot be written to.
    """
    folder = Path(folder)
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype must be float32 or bfloat16; received {dtype!r}")
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be at least 1; received {max_shard_bytes}")
    if not isinstance(model, CausalLM):
        raise ValueError(f"a tfllm.CausalLM is saved; received {type(model).__name__}")
    if tokenizer is not None:
        check_vocabulary(tokenizer, model.config, str(folder))
    values, reason = hugging_face_config.to_hugging_face(model.config)
    weights = stored_weights(model, WEIGHT_MAPS[values["model_type"]])
    special = _special_tokens(tokenizer)
    ids = {f"{name}_id": special.get(name, (None, None))[1] for name in _SPECIAL}
    sampling, other_generation = generation_settings.to_hugging_face(generation)
    ours: dict[str, Any] = {"tfllm_version": __version__, "transformers": not reason}
    if reason:
        ours["why"] = reason
    ours |= {"dropout": model.config.dropout, "generation": other_generation}
    if training_summary is not None:
        ours["training"] = dict(training_summary)

    with replaced(folder, with_tokenizer=tokenizer is not None) as new:
        write_json(new / "config.json", {**values, **ids, "dtype": dtype, "torch_dtype": dtype})
        write_json(new / "generation_config.json", {**ids, **sampling})
        write_json(new / OURS, ours)
        if tokenizer is not None:
            tokenizer.save(new / "tokenizer.json")
            names = {name: token for name, (token, _) in special.items()}
            write_json(new / "special_tokens_map.json", names)
            write_json(
                new / "tokenizer_config.json",
                {**_TOKENIZER, **names, "model_max_length": model.config.max_sequence_length},
            )
        numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
        write_tensors(new, _new_tensors(weights), numpy_dtype, max_shard_bytes)
    return folder


def _special_tokens(tokenizer: BytePairTokenizer | None) -> dict[str, tuple[str, int]]:
    """The end token, where there is one: it ends a text, and so it begins one and fills rows."""
    try:
        return (
            dict.fromkeys(_SPECIAL, (tokenizer.end_token, tokenizer.end_token_id))
            if tokenizer
            else {}
        )
    except ValueError:
        return {}


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
