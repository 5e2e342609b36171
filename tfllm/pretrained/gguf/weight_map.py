"""Tables from the weights of a `CausalLM` to the tensors of a GGUF file: those of Hugging Face
folders with llama.cpp's names.

To support another architecture, add its names here and its row in `config.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from tfllm.pretrained.hugging_face.weight_map import GPT2, LLAMA, WeightMap

OUTPUT = "output.weight"
EMBEDDING = "token_embd.weight"
ROPE_FACTORS = "rope_freqs.weight"
"""The divisors of the rotary frequencies, which belong to the architecture rather than the
weights."""

_LIKE_LLAMA = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LIKE_GPT2 = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def _names(blocks: str, inside: Mapping[str, str], outside: Mapping[str, str]) -> dict[str, str]:
    """Map the names in a Hugging Face folder to those in a GGUF file, without the endings."""
    return {f"{blocks}.{{i}}.{a}": f"blk.{{i}}.{b}" for a, b in inside.items()} | dict(outside)


def _renamed(table: WeightMap, names: Mapping[str, str]) -> WeightMap:
    """A table with other names. All matrices of a GGUF file are `[output, input]`."""

    def renamed(name: str) -> str:
        stem, ending = name.rsplit(".", 1)
        return f"{names[stem]}.{ending}"

    weights = tuple(
        weight._replace(tensors=tuple(map(renamed, weight.tensors)), transposed=False)
        for weight in table.weights
    )
    # Old files contain the frequencies of each block as well.
    return WeightMap(
        weights, unread=(r"rope_freqs\.weight", r"blk\.\d+\.attn_rot_embd\.weight"), output=OUTPUT
    )


GGUF_LLAMA = _renamed(
    LLAMA,
    _names(
        "model.layers",
        _LIKE_LLAMA,
        {
            "model.embed_tokens": "token_embd",
            "model.norm": "output_norm",
            "lm_head": "output",
        },
    ),
)
GGUF_GPT2 = _renamed(
    GPT2,
    _names(
        "transformer.h",
        _LIKE_GPT2,
        {
            "transformer.wte": "token_embd",
            "transformer.wpe": "position_embd",
            "transformer.ln_f": "output_norm",
            "lm_head": "output",
        },
    ),
)
