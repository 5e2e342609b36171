"""A model in a GGUF file (see `ModelSource`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfllm.config import ConfigError, GenerationConfig
from tfllm.pretrained.gguf.config import architecture_of, to_hugging_face_config
from tfllm.pretrained.gguf.header import read_header
from tfllm.pretrained.gguf.tensors import GGUFTensors
from tfllm.pretrained.gguf.weight_map import EMBEDDING, OUTPUT, ROPE_FACTORS
from tfllm.pretrained.hugging_face import generation_settings
from tfllm.pretrained.hugging_face.weight_map import WeightMap
from tfllm.pretrained.tensor_source import equal

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

# The names of settings that generation_config.json has, too.
_SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}

_QUERIES_AND_KEYS = re.compile(r"blk\.\d+\.attn_[qk]\.(weight|bias)")


class GGUFModel:
    """The architecture, weights, tokenizer and generation settings in the file.

    Raises:
        ValueError: If the file is damaged, or its architecture or an option is not supported.
    """

    dropout = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self.where = str(path)
        self._header = header = read_header(path)
        self._architecture = architecture_of(header, self.where)
        unread = GGUFTensors(path, header.tensors, {})
        factors = unread.read(ROPE_FACTORS) if ROPE_FACTORS in header.tensors else None
        stored = {OUTPUT, EMBEDDING} <= header.tensors.keys()
        tied = (
            stored
            and header.tensors[OUTPUT].dtype == header.tensors[EMBEDDING].dtype
            and header.tensors[OUTPUT].dtype in unread.readable
            and equal(unread, OUTPUT, EMBEDDING)
        )
        self.config: dict[str, Any] = to_hugging_face_config(header, factors, tied, self.where)
        self.tensors = GGUFTensors(path, header.tensors, self._interleaved_heads())

    def _interleaved_heads(self) -> dict[str, int]:
        """The head size of each tensor whose rows are stored in pairs."""
        if not self._architecture.interleaved:
            return {}
        size = self.config["head_dim"]
        if not isinstance(size, int) or size < 2 or size % 2:
            raise ConfigError(f"{self.where}: the size of a head must be even; received {size!r}")
        return {
            name: size
            for name, tensor in self._header.tensors.items()
            if _QUERIES_AND_KEYS.fullmatch(name) and tensor.shape[0] % size == 0
        }

    def weight_map(self, table: WeightMap) -> WeightMap:
        """The table from weights to tensors."""
        del table  # llama.cpp has fewer architectures, with names of their own
        return self._architecture.table

    def ignore_modules(self) -> None:
        """Do nothing: a file has no such modules."""

    def tokenizer(self) -> Tokenizer | None:
        """The file's tokenizer, with its chat template."""
        from tfllm.pretrained.gguf.tokenizer import read_tokenizer

        return read_tokenizer(self._header.metadata, self.where)

    def generation(self) -> GenerationConfig:
        """The sampling settings, which newer files have."""
        metadata = self._header.metadata
        values = {name: metadata[key] for key, name in _SAMPLING.items() if key in metadata}
        if values:
            values["do_sample"] = values.get("temperature", 1.0) > 0
        return generation_settings.from_hugging_face(values, {}, self.where)
