"""Weights in and out: folders in the Hugging Face layout, GGUF files, KerasHub's presets.

A folder holds `config.json` (the architecture), `model.safetensors` (the weights, or an index and
shards), `tokenizer.json` with `tokenizer_config.json` and `special_tokens_map.json`,
`generation_config.json`, and `tfllm.json` (what no other file has a place for). A GGUF file holds
all of that in one; `hf://ORGANISATION/NAME` is either, from the Hugging Face Hub or its cache.
"""

from tfllm.pretrained.keras_hub.models import load_keras_hub
from tfllm.pretrained.loading import Pretrained, load, load_encoder
from tfllm.pretrained.saving import save
from tfllm.pretrained.task_information import task_of
from tfllm.pretrained.tokenizer_files import load_tokenizer

__all__ = [
    "Pretrained",
    "load",
    "load_encoder",
    "load_keras_hub",
    "load_tokenizer",
    "save",
    "task_of",
]
