"""A model folder in the Hugging Face layout."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfllm.config import GenerationConfig
from tfllm.files import read_json_object
from tfllm.pretrained.hugging_face import generation_settings
from tfllm.pretrained.hugging_face.sentence_modules import (
    SENTENCE_TRANSFORMER,
    SETTINGS,
    has_modules,
    read_modules,
)
from tfllm.pretrained.hugging_face.tensor_files import TensorFiles, other_weights
from tfllm.pretrained.hugging_face.weight_map import WeightMap
from tfllm.pretrained.replaced_folder import OURS
from tfllm.pretrained.tokenizer_files import find_tokenizer

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer


class HuggingFaceFolder:
    """config.json, safetensors and the other files of a folder (see `ModelSource`).

    Raises:
        FileNotFoundError: If config.json or the weights do not exist.
        ValueError: If a file is damaged or cut short.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.where = str(folder / "config.json")
        self._stored_config = self._json("config.json", required=True)
        self._ours = self._json(OURS)
        self._modules = has_modules(folder)
        self.dropout = self._ours.get("dropout")

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The contents of config.json; `architectures` identify a folder of sentence-transformers.

        `bad_words_ids` of an encoder-decoder come from generation_config.json, if there is one:
        `transformers` only reads them from config.json in old folders.

        Raises:
            ValueError: If that library's modules differ from those of a `SentenceEncoder`.
        """
        if not self._modules:
            never = self._json("generation_config.json").get("bad_words_ids")
            if never is None or not self._stored_config.get("is_encoder_decoder"):
                return self._stored_config
            return {**self._stored_config, "bad_words_ids": never}
        modules = read_modules(self._folder)
        settings = {
            "pooling": modules.pooling,
            "normalize": modules.normalize,
            "text_settings": modules.texts,
        }
        kind = {"architectures": [SENTENCE_TRANSFORMER], SETTINGS: settings}
        return {**self._stored_config, **kind}

    def ignore_modules(self) -> None:
        """Read only the encoder of a folder of sentence-transformers."""
        self._modules = False

    @functools.cached_property
    def tensors(self) -> TensorFiles:
        """The weights, opened after the architecture is known to be supported."""
        return TensorFiles(self._folder)

    def weight_map(self, table: WeightMap) -> WeightMap:
        """The table from weights to tensors."""
        return table

    def tokenizer(self) -> Tokenizer | None:
        """The folder's tokenizer, if it has one."""
        return find_tokenizer(self._folder)

    def generation(self) -> GenerationConfig:
        """The settings in generation_config.json."""
        return generation_settings.from_hugging_face(
            self._json("generation_config.json"),
            self._ours.get("generation", {}),
            str(self._folder),
        )

    def _json(self, name: str, *, required: bool = False) -> dict[str, Any]:
        path = self._folder / name
        try:
            return read_json_object(path, required=required)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self._folder} is not a model folder: it has no {name}"
                f"{other_weights(self._folder)}"
            ) from None
