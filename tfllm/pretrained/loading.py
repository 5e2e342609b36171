"""Reading a model folder into a `CausalLM`, a tokenizer and generation settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf

from tfllm.atomic_folder import earlier_version
from tfllm.config import GenerationConfig, ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.pretrained import generation_settings, hugging_face_config
from tfllm.pretrained.replaced_folder import OURS
from tfllm.pretrained.tensor_files import DTYPES, TensorFiles
from tfllm.pretrained.weight_map import OUTPUT, WEIGHT_MAPS, StoredWeight, WeightMap, stored_weights

if TYPE_CHECKING:
    from tfllm.tokenizers import BytePairTokenizer


class Pretrained(NamedTuple):
    """What a model folder holds.

    Args:
        model: token ids to logits; it knows no text.
        tokenizer: text to token ids, or None where the folder has none.
        generation: how text is drawn from the model unless one says otherwise.
    """

    model: CausalLM
    tokenizer: BytePairTokenizer | None
    generation: GenerationConfig


def load(
    folder: str | Path,
    *,
    dtype: Any = None,
    rematerialize: bool = False,
    dropout: float | None = None,
    seed: int = 0,
) -> Pretrained:
    """The model, the tokenizer and the generation settings of a model folder.

    Args:
        folder: a folder in the Hugging Face layout, written by `save`, or by `transformers` for a
            `LlamaForCausalLM` or `GPT2LMHeadModel`.
        dtype: dtype policy of the model ("float32", "bfloat16", "mixed_bfloat16", ...). "auto":
            bfloat16 where all the weights are stored so, else float32. Default float32.
        rematerialize: recompute each block in the backward pass.
        dropout: what to train with instead of what config.json says.
        seed: of dropout.

    Raises:
        FileNotFoundError: the folder or a file that it needs is not there.
        ValueError: a file is cut short; an architecture or an option that is not supported; a
            weight that is missing, one too many, or of another shape; a tokenizer with more ids
            than the model.
    """
    folder = _existing(Path(folder))
    where = str(folder / "config.json")
    values = _read_json(folder / "config.json")
    model_type, config = hugging_face_config.from_hugging_face(values, where=where, dropout=dropout)
    ours = _read_json(folder / OURS, {})
    if dropout is None and model_type == "llama" and config.dropout != ours.get("dropout", 0.0):
        raise ValueError(
            f"{where}: attention_dropout drops attention weights alone, and dropout here acts on "
            f"each sublayer's result too; received {config.dropout}. Give dropout=... "
            "(it acts in training alone)"
        )
    files = TensorFiles(folder)
    tokenizer = load_tokenizer(folder) if (folder / "tokenizer.json").exists() else None
    if tokenizer is not None:
        check_vocabulary(tokenizer, config, str(folder))
    generation = generation_settings.from_hugging_face(
        _read_json(folder / "generation_config.json", {}), ours.get("generation", {}), str(folder)
    )
    if dtype is None or dtype == "auto":
        stored = {info.dtype for info in files.tensors.values()}
        dtype = "bfloat16" if dtype == "auto" and stored == {"BF16"} else "float32"

    model = _uninitialized(config, dtype=dtype, rematerialize=rematerialize, seed=seed)
    table = WEIGHT_MAPS[model_type]
    weights = stored_weights(model, table)
    names = _matched(weights, table, files, model)
    for weight in weights:
        weight.variable.assign(_value(weight, names, files))
    return Pretrained(model, tokenizer, generation)


def load_tokenizer(folder: str | Path) -> BytePairTokenizer:
    """The tokenizer of a model folder.

    Raises:
        FileNotFoundError: the folder has no `tokenizer.json`.
    """
    from tfllm.tokenizers import BytePairTokenizer

    folder = _existing(Path(folder))
    if not (folder / "tokenizer.json").exists():
        raise FileNotFoundError(
            f"{folder} has no tokenizer.json; have transformers write the tokenizer into it with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    return BytePairTokenizer.load(folder)


def _existing(folder: Path) -> Path:
    if folder.is_dir():
        return folder
    if folder.exists():
        raise NotADirectoryError(f"a model is a folder; received the file {folder}")
    earlier = earlier_version(folder)
    hint = (
        f"a save was interrupted: the model before it is {earlier}; rename it back"
        if earlier
        else "give the path of a folder that holds config.json and model.safetensors"
    )
    raise FileNotFoundError(f"there is no folder {folder}; {hint}")


def _read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    if default is not None and not path.exists():
        return default
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path.parent} is no model folder: it has no {path.name}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object; received {type(values).__name__}")
    return values


def check_vocabulary(tokenizer: BytePairTokenizer, config: ModelConfig, where: str) -> None:
    """Refuse a tokenizer that has ids which the model does not know.

    Raises:
        ValueError: it has.
    """
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{where}: the tokenizer does not fit the model: it has {tokenizer.vocab_size:,} ids, "
            f"and the model's vocab_size is {config.vocab_size:,}. Use the tokenizer that the "
            "model was trained with"
        )


def _uninitialized(config: ModelConfig, **options: Any) -> CausalLM:
    """A model whose weights are whatever memory held: random ones would be overwritten at once."""
    with keras.StatelessScope():  # variables made in here get their values when it ends
        model = CausalLM(config, **options)
        for variable in model.weights:
            variable._initializer = _empty
    return model


def _empty(shape: tuple[int, ...], dtype: str) -> tf.Tensor:
    return tf.raw_ops.Empty(shape=shape, dtype=dtype)


def _matched(
    weights: list[StoredWeight], table: WeightMap, files: TensorFiles, model: CausalLM
) -> dict[str, str]:
    """The name in the files of each tensor of the table, once all of them are there and fit."""
    in_files = {_full_name(name, table, files): name for name in files.tensors}
    wanted = {name: w.shape(rows) for w in weights for name, rows in w.tensors}
    tied_output = model.output_kernel is None and OUTPUT in in_files
    extra = [
        in_files[name]
        for name in in_files.keys() - wanted.keys()
        if not any(re.fullmatch(pattern, name) for pattern in table.unread)
        and not (tied_output and name == OUTPUT)
    ]
    missing = sorted(wanted.keys() - in_files.keys())
    if missing:
        raise ValueError(_listed("lack weights of the model", missing, files))
    if extra:
        raise ValueError(
            _listed("hold weights that config.json leaves no place for", sorted(extra), files)
        )
    for name, shape in wanted.items():
        info = files.tensors[in_files[name]]
        if info.shape != shape:
            raise ValueError(
                f"{info.file}: {in_files[name]} must have the shape {list(shape)}, as config.json "
                f"says; received {list(info.shape)}"
            )
        if info.dtype not in DTYPES:
            raise ValueError(
                f"{info.file}: {in_files[name]} must be one of {', '.join(DTYPES)}; "
                f"received {info.dtype}"
            )
    if tied_output:
        embedding = in_files[weights[0].tensors[0][0]]
        if not np.array_equal(files.read(in_files[OUTPUT]), files.read(embedding)):
            raise ValueError(
                f"{files.tensors[embedding].file}: tie_word_embeddings says that {OUTPUT} is "
                f"{embedding}, and the two differ; set tie_word_embeddings to false in config.json"
            )
    return {name: in_files[name] for name in wanted}


def _full_name(name: str, table: WeightMap, files: TensorFiles) -> str:
    without_prefix = not any(n.startswith(table.prefix) for n in files.tensors)
    return table.prefix + name if without_prefix and name != OUTPUT else name


def _listed(what: str, names: list[str], files: TensorFiles) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    paths = sorted({str(info.file) for info in files.tensors.values()})
    return f"{paths[0] if paths else 'the files'}{' ...' if len(paths) > 1 else ''} {what}: {shown}"


def _value(weight: StoredWeight, names: Mapping[str, str], files: TensorFiles) -> np.ndarray:
    variable = weight.variable
    dtype = ml_dtypes.bfloat16 if variable.dtype == "bfloat16" else variable.dtype
    value = np.empty(variable.shape, dtype)
    end = 0
    for name, rows in weight.tensors:
        begin, end = end, end + rows
        part = files.read(names[name])
        value[begin:end] = part.T if weight.transposed else part
    return value
