"""A common interface to all kinds of folders and files that contain a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tfllm.config import GenerationConfig
from tfllm.pretrained.hugging_face.weight_map import WeightMap
from tfllm.pretrained.model_folder import existing
from tfllm.pretrained.tensor_source import TensorSource

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer


class ModelSource(Protocol):
    """A model as it is stored."""

    @property
    def where(self) -> str:
        """Name of the source in errors."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The contents of its config.json, or the equivalent."""

    @property
    def dropout(self) -> float | None:
        """The dropout rate that tfllm trained it with; None if unknown."""

    @property
    def tensors(self) -> TensorSource:
        """The weights."""

    def weight_map(self, table: WeightMap) -> WeightMap:
        """The table from weights to tensors, given the table of a Hugging Face folder."""

    def ignore_modules(self) -> None:
        """Ignore the modules that process the outputs of an encoder."""

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None if there is none."""

    def generation(self) -> GenerationConfig:
        """The default generation settings of the model."""


def open_source(path: Path) -> ModelSource:
    """Open a folder in the Hugging Face layout or a GGUF file.

    Raises:
        FileNotFoundError: If there is nothing at the path, or no model.
        ValueError: If a file is damaged or of an unsupported kind.
    """
    path = existing(path)
    if path.is_dir():
        from tfllm.pretrained.hugging_face.folder import HuggingFaceFolder

        return HuggingFaceFolder(path)
    from tfllm.pretrained.gguf.model import GGUFModel

    return GGUFModel(path)
