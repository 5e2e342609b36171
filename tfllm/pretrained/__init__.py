"""Weights in and out: model folders in the Hugging Face layout.

A folder holds `config.json` (the architecture), `model.safetensors` (the weights, or an index and
shards), `tokenizer.json` with `tokenizer_config.json` and `special_tokens_map.json`,
`generation_config.json`, and `tfllm.json` (what no other file has a place for).
"""

from tfllm.pretrained.loading import Pretrained, load, load_tokenizer
from tfllm.pretrained.saving import save

__all__ = ["Pretrained", "load", "load_tokenizer", "save"]
