"""Convert the metadata of a GGUF file to the config.json of a Hugging Face folder.

llama.cpp has an architecture for each kind of computation, whose name its keys begin with:
`llama.block_count`. A key means what llama.cpp does with it. An unknown key is refused, since it
may change what is computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tfllm.config import ConfigError
from tfllm.pretrained.gguf.header import Header
from tfllm.pretrained.gguf.rope import llama3_scaling
from tfllm.pretrained.gguf.weight_map import (
    EMBEDDING,
    GGUF_GPT2,
    GGUF_LLAMA,
    OUTPUT,
    ROPE_FACTORS,
)
from tfllm.pretrained.hugging_face.weight_map import WeightMap


class GGUFArchitecture(NamedTuple):
    """The keys and tensors of one `general.architecture`.

    Args:
        model_type: The corresponding `model_type` of config.json.
        keys: Keys of config.json by key (without the architecture).
        table: Its tensors.
        rotary: Whether it has rotary positions. Defaults to True.
        interleaved: Whether the rows of queries and keys are stored in pairs. Defaults to False.
        biases: Tensors by key of config.json, which is true if the tensor exists. Defaults to none.
    """

    model_type: str
    keys: dict[str, str]
    table: WeightMap
    rotary: bool = True
    interleaved: bool = False
    biases: dict[str, str] = {}  # noqa: RUF012 (not changed)


_REQUIRED = ("embedding_length", "block_count", "attention.head_count", "context_length")
_LIKE_LLAMA = {
    "vocab_size": "vocab_size",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_ATTENTION_BIAS = {"attention_bias": "blk.0.attn_q.bias"}
_BIASES = {**_ATTENTION_BIAS, "mlp_bias": "blk.0.ffn_gate.bias"}

GGUF_ARCHITECTURES: dict[str, GGUFArchitecture] = {
    # Mistral, too, is a Llama here, with a window if the file says so.
    "llama": GGUFArchitecture(
        "llama",
        {**_LIKE_LLAMA, "attention.sliding_window": "sliding_window"},
        GGUF_LLAMA,
        interleaved=True,
        biases=_BIASES,
    ),
    "smollm3": GGUFArchitecture(
        "smollm3", _LIKE_LLAMA, GGUF_LLAMA, interleaved=True, biases=_BIASES
    ),
    "qwen2": GGUFArchitecture("qwen2", _LIKE_LLAMA, GGUF_LLAMA),
    "qwen3": GGUFArchitecture("qwen3", _LIKE_LLAMA, GGUF_LLAMA, biases=_ATTENTION_BIAS),
    "gpt2": GGUFArchitecture(
        "gpt2",
        {
            "vocab_size": "vocab_size",
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "attention.head_count": "n_head",
            "feed_forward_length": "n_inner",
            "context_length": "n_positions",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        GGUF_GPT2,
        rotary=False,
    ),
}
"""The row of each `general.architecture`."""

_HARMLESS: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "attention.scale": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "use_parallel_residual": (False,),
    "pooling_type": (0,),
    "tensor_data_layout": ("Meta AI original pth", "reference"),
}
"""Keys that may change what is computed, and the values that do not."""

_ROPE = ("rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear")
_ROPE_SIZES = ("rope.dimension_count", "attention.value_length")
_UNREAD = ("rope.scaling.finetuned", "rope.scaling.original_context_length")
"""Keys of scalings that are refused, and notes."""


def architecture_of(header: Header, where: str) -> GGUFArchitecture:
    """Find the row of the file's architecture.

    Raises:
        ConfigError: If the file contains something other than a model, or an unsupported one.
    """
    metadata = header.metadata
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise ConfigError(f"{where} must contain a model; received general.type={kind!r}")
    if metadata.get("split.count", 1) > 1:
        raise ConfigError(
            f"{where} is one of the {metadata['split.count']} files of a model; "
            "join them with llama.cpp's `llama-gguf-split --merge`"
        )
    name = metadata.get("general.architecture")
    if name not in GGUF_ARCHITECTURES:
        raise ConfigError(
            f"{where}: unknown general.architecture {name!r}; "
            f"supported: {', '.join(GGUF_ARCHITECTURES)}"
        )
    return GGUF_ARCHITECTURES[name]


def to_hugging_face_config(
    header: Header, rope_factors: np.ndarray | None, tied_output: bool, where: str
) -> dict[str, Any]:
    """Build the equivalent of config.json.

    Args:
        header: Header of the file.
        rope_factors: Values of the tensor `rope_freqs.weight`; None if there is none.
        tied_output: Whether the output projection, although it is stored, is the token embedding.
        where: Name of the file, for errors.

    Raises:
        ConfigError: If an option is not supported, or a key is missing.
    """
    architecture = architecture_of(header, where)
    name = header.metadata["general.architecture"]
    given = {
        key.removeprefix(f"{name}."): value
        for key, value in header.metadata.items()
        if key.startswith(f"{name}.")
    }
    for key in _REQUIRED:
        if key not in given:
            raise ConfigError(f"{where} has no {f'{name}.{key}'!r}, which a {name} needs")
    _check_known(given, architecture, name, where)
    values = {
        theirs: _same_in_all_blocks(given[key], f"{name}.{key}", where)
        for key, theirs in architecture.keys.items()
        if key in given
    }
    values["model_type"] = architecture.model_type
    values.setdefault("vocab_size", _vocab_size(header, where))
    values["tie_word_embeddings"] = tied_output or OUTPUT not in header.tensors
    for key, tensor in architecture.biases.items():
        values[key] = tensor in header.tensors
    if not architecture.rotary:
        return values
    heads, width = values["num_attention_heads"], values["hidden_size"]
    values.setdefault("num_key_value_heads", heads)
    if _is_count(heads) and _is_count(width):
        values.setdefault("head_dim", width // heads)
        for key in _ROPE_SIZES:
            if given.get(key, values["head_dim"]) != values["head_dim"]:
                raise ConfigError(
                    f"{where}: {name}.{key} must be the size of a head, {values['head_dim']}; "
                    f"received {given[key]!r}. Another value would change what the model computes, "
                    "so it is not loaded"
                )
    if values.get("sliding_window") == 0:
        del values["sliding_window"]
    if "sliding_window" in values:
        values["model_type"] = "mistral"
        for key in architecture.biases:
            del values[key]  # a Mistral has no biases; the tensor of one is then unexpected
    values["rope_parameters"] = _rope(given, rope_factors, name, where)
    return values


def _check_known(
    given: Mapping[str, Any], architecture: GGUFArchitecture, name: str, where: str
) -> None:
    known = {*architecture.keys, *_UNREAD, *((*_ROPE, *_ROPE_SIZES) if architecture.rotary else ())}
    for key, value in given.items():
        if key not in known and value not in _HARMLESS.get(key, ()):
            supported = " or ".join(map(repr, _HARMLESS.get(key, ())))
            raise ConfigError(
                f"{where}: {name}.{key} is "
                + (f"only supported with the value {supported}" if supported else "not supported")
                + f"; received {value!r}. It may change what the model computes, so it is not "
                "loaded"
            )


def _same_in_all_blocks(value: Any, key: str, where: str) -> Any:
    if not isinstance(value, list):
        return value
    if not value or any(other != value[0] for other in value):
        raise ConfigError(f"{where}: {key} must be the same in all blocks; received {value}")
    return value[0]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _vocab_size(header: Header, where: str) -> int:
    if EMBEDDING not in header.tensors:
        raise ConfigError(f"{where} lacks weights of the model: {EMBEDDING}")
    return header.tensors[EMBEDDING].shape[0]


def _rope(
    given: Mapping[str, Any], factors: np.ndarray | None, name: str, where: str
) -> dict[str, Any]:
    """Build `rope_parameters`."""
    theta, factor = 10_000.0, 1.0
    for key in ("rope.freq_base", "rope.scale_linear", "rope.scaling.factor"):
        value = given.get(key) or None  # 0 means no factor
        if value is None:
            continue
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ConfigError(f"{where}: {name}.{key} must be above 0; received {value!r}")
        if key == "rope.freq_base":
            theta = float(value)
        else:
            factor = float(value)
    kind = given.get("rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise ConfigError(
            f"{where}: {name}.rope.scaling.type must be none or linear; received {kind!r}. Another "
            "one would rotate by other angles, so the model is not loaded"
        )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if kind == "linear" and factor != 1.0:
        rope |= {"rope_type": "linear", "factor": factor}
    if factors is not None and np.any(factors != 1.0):
        if rope["rope_type"] != "default":
            raise ConfigError(
                f"{where}: the rotary frequencies can only have one scaling; received "
                f"{name}.rope.scaling.factor={factor} and the tensor {ROPE_FACTORS}"
            )
        try:
            rope |= {"rope_type": "llama3", **llama3_scaling(factors, theta)}
        except ValueError as error:
            raise ConfigError(f"{where}: {ROPE_FACTORS} {error}") from None
    return rope
