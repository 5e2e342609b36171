"""Where a model comes from: one face for every kind of folder and file."""

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
        """What to call it in errors."""

    @property
    def config(self) -> Mapping[str, Any]:
        """What its config.json says, or would say."""

    @property
    def dropout(self) -> float | None:
        """What tfllm trained it with; None where that is not known."""

    @property
    def tensors(self) -> TensorSource:
        """The weights."""

    def weight_map(self, table: WeightMap) -> WeightMap:
        """Which tensor is which weight, given the table of a Hugging Face folder."""

    def ignore_modules(self) -> None:
        """Leave aside what is made of the states of an encoder."""

    def tokenizer(self) -> Tokenizer | None:
        """Text to token ids; None where there is none."""

    def generation(self) -> GenerationConfig:
        """How text is drawn from the model unless one says otherwise."""


def open_source(path: Path) -> ModelSource:
    """What is at a path: a folder in the Hugging Face layout or a GGUF file.

    Raises:
        FileNotFoundError: nothing, or no model.
        ValueError: a file is damaged or of a kind that is not read.
    """
    path = existing(path)
    if path.is_dir():
        from tfllm.pretrained.hugging_face.folder import HuggingFaceFolder

        return HuggingFaceFolder(path)
    from tfllm.pretrained.gguf.model import GGUFModel

    return GGUFModel(path)
