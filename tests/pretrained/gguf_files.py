"""GGUF files made from Hugging Face folders, as llama.cpp's converter makes them.

Names come from the `gguf` package's own table, so that nothing depends on the tables under test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import load_file

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "smollm3": "smollm3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gpt2": "gpt2",
}
INTERLEAVED = ("llama", "smollm3")


class NotExpressible(ValueError):
    """The folder has an option for which GGUF has no place."""


def folder_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def folder_tensors(folder: Path) -> dict[str, np.ndarray]:
    return {k: v for path in folder.glob("*.safetensors") for k, v in load_file(path).items()}


def write_gguf(
    folder: Path,
    path: Path,
    kind: str = "F32",
    *,
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray | None] | None = None,
    tokenizer: Any = None,
) -> Path:
    """Write the model of a folder as a GGUF file.

    Args:
        folder: config.json and safetensors.
        path: the file.
        kind: of the matrices.
        metadata: added or (None) left out in the end; a name without a dot before it is of the
            architecture.
        tensors: the same, as float32.
        tokenizer: called with the writer.
    """
    config = folder_config(folder)
    architecture = ARCHITECTURES[config["model_type"]]
    refuse_what_has_no_place(config)
    named = gguf_tensors(folder) | (tensors or {})
    writer = gguf.GGUFWriter(path, architecture)
    values = dict(described(config, architecture))
    values |= {
        key
        if key.split(".")[0] in ("general", "tokenizer", "split")
        else f"{architecture}.{key}": v
        for key, v in (metadata or {}).items()
    }
    for key, value in values.items():
        add(writer, key, value)
    if tokenizer is not None:
        tokenizer(writer)
    for name, array in named.items():
        if array is not None:
            add_tensor(writer, name, np.asarray(array), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if value is None:
        return
    if key == "general.architecture":
        writer.kv_data[0].pop(key)
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    kinds |= {str: writer.add_string, list: writer.add_array}
    kinds[type(value)](key, value)


def add_tensor(writer: gguf.GGUFWriter, name: str, array: np.ndarray, kind: str) -> None:
    array = array.astype(np.float32)
    if array.ndim < 2 or name == "position_embd.weight":
        kind = "F32"
    elif array.shape[-1] % gguf.GGML_QUANT_SIZES[Kind[kind]][0]:
        kind = "F16"  # rows that blocks do not divide
    if kind == "F32":
        writer.add_tensor(name, array)
    elif kind == "F16":
        writer.add_tensor(name, array.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(array, Kind[kind]), raw_dtype=Kind[kind])


def refuse_what_has_no_place(config: dict[str, Any]) -> None:
    mistral = config["model_type"] == "mistral"
    if not mistral and config.get("use_sliding_window"):
        raise NotExpressible("a window of some layers")
    if config.get("hidden_act", "silu") != "silu":
        raise NotExpressible("an activation")


def described(config: dict[str, Any], architecture: str):
    """Key and value of what the architecture is made of."""
    if architecture == "gpt2":
        yield "gpt2.block_count", config["n_layer"]
        yield "gpt2.context_length", config["n_positions"]
        yield "gpt2.embedding_length", config["n_embd"]
        yield "gpt2.feed_forward_length", config["n_inner"]
        yield "gpt2.attention.head_count", config["n_head"]
        yield "gpt2.attention.layer_norm_epsilon", config["layer_norm_epsilon"]
        return
    rope = config.get("rope_parameters") or {"rope_theta": config["rope_theta"]}
    heads, width = config["num_attention_heads"], config["hidden_size"]
    head_dim = config.get("head_dim") or width // heads
    yield f"{architecture}.block_count", config["num_hidden_layers"]
    yield f"{architecture}.context_length", config["max_position_embeddings"]
    yield f"{architecture}.embedding_length", width
    yield f"{architecture}.feed_forward_length", config["intermediate_size"]
    yield f"{architecture}.attention.head_count", heads
    yield f"{architecture}.attention.head_count_kv", config["num_key_value_heads"]
    yield f"{architecture}.attention.layer_norm_rms_epsilon", config["rms_norm_eps"]
    yield f"{architecture}.rope.freq_base", rope["rope_theta"]
    if config.get("head_dim"):
        yield f"{architecture}.attention.key_length", head_dim
        yield f"{architecture}.attention.value_length", head_dim
    if architecture in INTERLEAVED:
        yield f"{architecture}.vocab_size", config["vocab_size"]
        yield f"{architecture}.rope.dimension_count", head_dim
    if rope.get("rope_type") == "linear":
        yield f"{architecture}.rope.scaling.type", "linear"
        yield f"{architecture}.rope.scaling.factor", rope["factor"]
    if config["model_type"] == "mistral" and config.get("sliding_window"):
        yield f"{architecture}.attention.sliding_window", config["sliding_window"]


def gguf_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The folder's tensors under the names and in the order of rows that GGUF files have."""
    config = folder_config(folder)
    architecture = ARCHITECTURES[config["model_type"]]
    number = next(n for n, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config.get("num_hidden_layers", config.get("n_layer")))
    tensors = {}
    for name, array in folder_tensors(folder).items():
        if architecture == "gpt2" and name.endswith(
            ("c_attn.weight", "c_proj.weight", "c_fc.weight")
        ):
            array = array.T
        if architecture in INTERLEAVED and ".q_proj." in name:
            array = interleaved(array, config["num_attention_heads"])
        if architecture in INTERLEAVED and ".k_proj." in name:
            array = interleaved(array, config["num_key_value_heads"])
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, name
        tensors[new] = array
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = llama3_factors(config, rope)
    return tensors


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Row i of a head's first half, then row i of its second half, and so on."""
    rows = []
    size = len(array) // heads
    for head in range(heads):
        for i in range(size // 2):
            rows += [array[head * size + i], array[head * size + size // 2 + i]]
    return np.array(rows)


def llama3_factors(config: dict[str, Any], rope: dict[str, Any]) -> np.ndarray:
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    first_context = rope["original_max_position_embeddings"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    factors = []
    for i in range(0, size, 2):
        turns = first_context * rope["rope_theta"] ** (-i / size) / (2 * np.pi)
        smooth = (turns - low) / (high - low)
        if turns > high:
            factors.append(1.0)
        elif turns < low:
            factors.append(factor)
        else:
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)
