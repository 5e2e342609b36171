"""Weights in and out: folders in the Hugging Face layout, GGUF files, KerasHub's presets.

A folder contains `config.json` (the architecture), `model.safetensors` (the weights, or an index
and shards), `tokenizer.json` with `tokenizer_config.json` and `special_tokens_map.json`,
`generation_config.json`, and `tfllm.json` (what has no place in the other files). A GGUF file
contains all of that in one; `hf://ORGANISATION/NAME` is either, on the Hugging Face Hub or in its
cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfllm.lazy_names import lazy_names

__all__, __getattr__, __dir__ = lazy_names(__name__)

if TYPE_CHECKING:  # the names, for type checkers and for `lazy_names`
    from tfllm.pretrained.keras_hub.models import load_keras_hub as load_keras_hub
    from tfllm.pretrained.loading import Pretrained as Pretrained
    from tfllm.pretrained.loading import load as load
    from tfllm.pretrained.loading import load_encoder as load_encoder
    from tfllm.pretrained.saving import save as save
    from tfllm.pretrained.task_information import task_of as task_of
    from tfllm.pretrained.tokenizer_files import load_tokenizer as load_tokenizer
