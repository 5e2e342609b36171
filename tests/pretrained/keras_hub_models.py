"""Tiny KerasHub models of every architecture, random, made from their backbones' constructors."""

import functools
import inspect
import io
import json
from typing import Any

import keras
import keras_hub
import numpy as np
import sentencepiece
import tokenizers
import tokenizers.models
import tokenizers.pre_tokenizers
import tokenizers.trainers

from tests.generation.toy_text_models import TEXTS

VOCABULARY = 97
"""ids of the models that have no tokenizer"""

SIZES = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 24,
    "intermediate_dim": 36,
}
HEADS = {**{n: v for n, v in SIZES.items() if "heads" not in n}, "num_heads": 4}
EXPERTS = {"num_experts": 3, "top_k": 2}
QWEN_3_5 = {
    **SIZES,
    "head_dim": 8,
    "num_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 8,
}

BACKBONES: dict[str, dict[str, Any]] = {
    "Bloom": HEADS,
    "Falcon": {
        **{n: v for n, v in HEADS.items() if n != "num_heads"},
        "num_attention_heads": 4,
    },
    "GPT2": {**HEADS, "max_sequence_length": 40},
    "GPTNeoX": {**HEADS, "rotary_percentage": 0.5, "hidden_dim": 32},
    "Gemma": {
        **SIZES,
        "head_dim": 6,
        "final_logit_soft_cap": 30.0,
        "attention_logit_soft_cap": 50.0,
        "use_sliding_window_attention": True,
        "sliding_window_size": 5,
    },
    "Gemma3": {
        **SIZES,
        "num_layers": 7,
        "head_dim": 6,
        "image_size": 8,
        "use_sliding_window_attention": True,
        "sliding_window_size": 5,
    },
    "Gemma3n": {
        "text_vocab_size": VOCABULARY,
        "text_hidden_size": 24,
        "num_hidden_layers": 4,
        "pad_token_id": 0,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "intermediate_size": [36] * 4,
        "hidden_activation": "gelu_approximate",
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 40,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 4,
        "altup_num_inputs": 2,
        "laurel_rank": 3,
    },
    "Gemma4": {
        **SIZES,
        "head_dim": 6,
        "image_size": 8,
        "sliding_window_size": 5,
        "sliding_window_pattern": 2,
        "global_head_dim": 8,
    },
    "GptOss": {**SIZES, **EXPERTS, "sliding_window": 5, "head_dim": 6},
    "Llama": SIZES,
    "Llama3": {
        **SIZES,
        "tie_word_embeddings": True,
        "rope_frequency_adjustment_factor": 8.0,
        "rope_low_freq_factor": 1.0,
        "rope_high_freq_factor": 4.0,
        "rope_pretraining_sequence_length": 16,
    },
    "Mistral": {**SIZES, "sliding_window": 5},
    "Mixtral": {**SIZES, **EXPERTS, "sliding_window": 5},
    "OPT": {**HEADS, "max_sequence_length": 40},
    "PaliGemma": {
        **SIZES,
        "head_dim": 6,
        "image_size": 8,
        "vit_patch_size": 4,
        "vit_num_heads": 2,
        "vit_hidden_dim": 8,
        "vit_num_layers": 1,
    },
    "Phi3": SIZES,
    "Qwen": SIZES,
    "Qwen3": {**SIZES, "head_dim": 10},
    "Qwen3Moe": {**SIZES, **EXPERTS, "moe_intermediate_dim": 20, "head_dim": 10},
    "Qwen3_5": QWEN_3_5,
    "Qwen3_5Moe": {
        **{n: v for n, v in QWEN_3_5.items() if n != "intermediate_dim"},
        **EXPERTS,
        "moe_intermediate_dim": 20,
        "shared_expert_intermediate_size": 20,
    },
    "QwenMoe": {
        **SIZES,
        **EXPERTS,
        "moe_intermediate_dim": 20,
        "shared_expert_intermediate_dim": 20,
    },
    "RWKV7": {
        "vocabulary_size": VOCABULARY,
        "num_layers": 2,
        "hidden_size": 24,
        "head_size": 8,
        "intermediate_dim": 36,
    },
    "SmolLM3": {
        **{n: v for n, v in SIZES.items() if n != "num_query_heads"},
        "num_attention_heads": 4,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rope_layer_enabled_list": [True, False],
        "layer_types": ["full_attention"] * 2,
        "mlp_bias": False,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": 40,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
    },
}
"""architecture to the constructor's arguments of its backbone"""

REFUSED = {
    "BLIP2": "an answer is about a picture",
    "GPTNeoX": "logits of its forward pass",
    "Gemma4Assistant": "proposes tokens for a Gemma 4 and has no call of its own",
    "PARSeq": "reads a picture of text",
    "PaliGemma": "images or sound",
    "RWKV7": "call_with_cache must take",
}
"""architectures that are not decoded, and why: what the error says, where one is made here"""


def architectures() -> dict[str, type]:
    """Every class of a `CausalLM` that the installed KerasHub has, by its name without "CausalLM";
    encoder-decoders are not among them."""
    base = keras_hub.models.CausalLM
    classes = {
        c
        for c in vars(keras_hub.models).values()
        if inspect.isclass(c) and issubclass(c, base) and c.__name__.endswith("CausalLM")
    }
    return {c.__name__.removesuffix("CausalLM"): c for c in classes if c is not base}


@functools.cache
def causal_lm(name: str, dtype: str = "float32") -> Any:
    """A tiny random model of an architecture, without a preprocessor."""
    cls = architectures()[name]
    keras.utils.set_random_seed(7)
    backbone = cls.backbone_cls(**BACKBONES[name], dtype=dtype)
    spread(backbone)
    return cls(backbone=backbone, preprocessor=None)


def spread(backbone: Any) -> None:
    """Weights far enough apart that logits differ and depend on the context."""
    random = np.random.default_rng(3)
    for weight in backbone.weights:
        if not weight.trainable or "int" in str(weight.dtype):
            continue
        value = np.asarray(weight.value, np.float32)
        scale = 0.3 if len(weight.shape) > 1 else 0.1
        weight.assign(value + random.normal(0, scale, value.shape).astype(np.float32))


SPECIAL_TOKENS = (
    # Not an end first: KerasHub pads with 0, and takes that for an end if it is one.
    *("<pad>", "<|endoftext|>", "</s>", "<|im_end|>", "<s>", "<|im_start|>", "<think>", "</think>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    *("<|start_header_id|>", "<|end_header_id|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
PIECES = (
    *("<start_of_turn>", "<end_of_turn>", "<turn|>", "<mask>", "[multimodal]", "<img>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>", "<|image>", "<|image|>"),
    *("<image|>", "<start_of_audio>", "<end_of_audio>", "<audio_soft_token>", "<|audio>"),
    *("<|audio|>", "<audio|>", "<|video>", "<|video|>", "<video|>"),
)


@functools.cache
def vocabulary_and_merges() -> tuple[dict[str, int], list[str]]:
    """A small byte-level BPE, as KerasHub's tokenizers take it."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=310,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(TEXTS, trainer)
    model = json.loads(library.to_str())["model"]
    return model["vocab"], [" ".join(pair) for pair in model["merges"]]


@functools.cache
def sentence_piece() -> bytes:
    """A small SentencePiece model with Llama's and Gemma's special tokens."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4),
        model_writer=written,
        model_type="bpe",
        vocab_size=340,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        bos_piece="<s>",
        eos_piece="</s>",
        control_symbols=["<bos>", "<eos>", "<|endoftext|>"],
        user_defined_symbols=list(PIECES),
        minloglevel=3,
    )
    return written.getvalue()


def text_tokenizer(name: str) -> Any:
    """The tokenizer class of an architecture with a small vocabulary."""
    cls = architectures()[name].preprocessor_cls.tokenizer_cls
    if issubclass(cls, keras_hub.tokenizers.SentencePieceTokenizer):
        return cls(proto=sentence_piece())
    vocabulary, merges = vocabulary_and_merges()
    return cls(vocabulary=vocabulary, merges=merges)


def text_model(name: str, *, dtype: str = "float32", sequence_length: int = 40) -> Any:
    """A tiny random model with a preprocessor and a small tokenizer."""
    cls = architectures()[name]
    tokenizer = text_tokenizer(name)
    preprocessor = cls.preprocessor_cls(tokenizer=tokenizer, sequence_length=sequence_length)
    keras.utils.set_random_seed(7)
    # A few more ids than tokens.
    sizes = {**BACKBONES[name], "vocabulary_size": tokenizer.vocabulary_size() + 8}
    backbone = cls.backbone_cls(**sizes, dtype=dtype)
    spread(backbone)
    return cls(backbone=backbone, preprocessor=preprocessor)
