"""Save models so that every version of `transformers` reads their tokenizer in the same way."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfllm.config import ModelConfig
from tfllm.pretrained.hugging_face.decoder_config import to_hugging_face
from tfllm.pretrained.hugging_face.tensor_files import NewTensor
from tfllm.tokenizers.base import Tokenizer

_log = logging.getLogger("tfllm")
_BIAS = "model.layers.{i}.self_attn.o_proj.bias"


def as_llama(
    values: Mapping[str, Any], config: Any, tokenizer: Tokenizer | None
) -> tuple[dict[str, Any], list[NewTensor]] | None:
    """Convert a Qwen 2 with a tokenizer of another kind to an equivalent Llama.

    AutoTokenizer of transformers 5 does not read the tokenizer.json of a Qwen 2 but combines Qwen's
    own rules with its vocabulary, and so would cut text differently than in training. A Llama with
    `attention_bias` has the biases of a Qwen 2 and one more, which is zero.

    Args:
        values: Contents of config.json.
        config: Configuration of the model.
        tokenizer: Tokenizer for the folder.

    Returns:
        The new contents of config.json, and the tensors that the model does not have; None if the
        folder needs no change, or if no Llama is equivalent to the model.
    """
    if values.get("model_type") != "qwen2" or not isinstance(config, ModelConfig):
        return None
    if tokenizer is None or getattr(tokenizer, "follows_qwen2", False):
        return None
    written, _ = to_hugging_face(dataclasses.replace(config, attention_output_bias=True))
    if written["model_type"] != "llama":
        _log.warning(
            "AutoTokenizer of transformers 5 does not read the tokenizer of a qwen2 model that is "
            "not Qwen's, and tokenizes text differently than tfllm; load it there with "
            "PreTrainedTokenizerFast. A tokenizer trained with split='qwen2' is read correctly"
        )
        return None
    _log.warning(
        "The model is saved as a Llama with attention_bias and output biases of zero, which "
        "computes the same: AutoTokenizer of transformers 5 does not read the tokenizer of a qwen2 "
        "model. With a tokenizer trained with split='qwen2' it stays a Qwen 2"
    )
    width = config.embedding_dim
    tensors = [
        NewTensor(_BIAS.format(i=i), (width,), lambda: np.zeros(width, np.float32))
        for i in range(config.num_layers)
    ]
    return written, tensors
