"""Tables from the weights of an `EncoderDecoder` to the tensors of a T5 or Marian folder."""

from __future__ import annotations

from tfllm.pretrained.hugging_face.weight_map import OUTPUT, Weight, WeightMap


def _t5_block(stack: str, *, decodes: bool) -> tuple[Weight, ...]:
    block = f"{stack}.block.{{i}}.layer"
    ours = f"{stack}.blocks.{{i}}"
    last = 2 if decodes else 1
    across = f"{block}.1.EncDecAttention"
    inner = f"{block}.{last}.DenseReluDense"
    cross = (
        Weight(f"{ours}.cross_attention_norm.scale", (f"{block}.1.layer_norm.weight",)),
        Weight(f"{ours}.cross_attention.query.kernel", (f"{across}.q.weight",)),
        Weight(
            f"{ours}.cross_attention.key_value.kernel",
            (f"{across}.k.weight", f"{across}.v.weight"),
            split="halves",
        ),
        Weight(f"{ours}.cross_attention.output_projection.kernel", (f"{across}.o.weight",)),
    )
    return (
        Weight(f"{ours}.attention_norm.scale", (f"{block}.0.layer_norm.weight",)),
        Weight(
            f"{ours}.attention.query_key_value.kernel",
            tuple(f"{block}.0.SelfAttention.{name}.weight" for name in "qkv"),
            split="heads",
        ),
        Weight(
            f"{ours}.attention.output_projection.kernel", (f"{block}.0.SelfAttention.o.weight",)
        ),
        *(cross if decodes else ()),
        Weight(f"{ours}.feed_forward_norm.scale", (f"{block}.{last}.layer_norm.weight",)),
        Weight(f"{ours}.feed_forward.inner.kernel", (f"{inner}.wi.weight",), unless="gated"),
        Weight(
            f"{ours}.feed_forward.inner.kernel",
            (f"{inner}.wi_0.weight", f"{inner}.wi_1.weight"),
            split="halves",
            only="gated",
        ),
        Weight(f"{ours}.feed_forward.outer.kernel", (f"{inner}.wo.weight",)),
    )


T5 = WeightMap(
    (
        Weight("token_embedding.embeddings", ("shared.weight",)),
        *(
            Weight(
                f"{stack}.relative_positions.table",
                (f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",),
            )
            for stack in ("encoder", "decoder")
        ),
        *_t5_block("encoder", decodes=False),
        Weight("encoder.final_norm.scale", ("encoder.final_layer_norm.weight",)),
        *_t5_block("decoder", decodes=True),
        Weight("decoder.final_norm.scale", ("decoder.final_layer_norm.weight",)),
        Weight("output_kernel", (OUTPUT,)),
    ),
    copies=(
        ("encoder.embed_tokens.weight", "shared.weight"),
        ("decoder.embed_tokens.weight", "shared.weight"),
    ),
    # Old files contain relative positions between a text and its source, which are never used.
    unread=(r"decoder\.block\.\d+\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
)


def _pair(place: str, tensor: str, *, ours: str = "kernel") -> tuple[Weight, Weight]:
    """A matrix, or a norm's scale, with its bias."""
    return (
        Weight(f"{place}.{ours}", (f"{tensor}.weight",)),
        Weight(f"{place}.bias", (f"{tensor}.bias",)),
    )


def _joined(place: str, tensor: str, names: tuple[str, ...], split: str) -> tuple[Weight, Weight]:
    """Projections that are stored separately but are one weight here, with their biases."""
    kernels, biases = (
        tuple(f"{tensor}.{name}.{part}" for name in names) for part in ("weight", "bias")
    )
    return (
        Weight(f"{place}.kernel", kernels, split=split),
        Weight(f"{place}.bias", biases, split=split),
    )


def _marian_block(stack: str, *, decodes: bool) -> tuple[Weight, ...]:
    layer, ours = f"model.{stack}.layers.{{i}}", f"{stack}.blocks.{{i}}"
    own, across = f"{layer}.self_attn", f"{layer}.encoder_attn"
    cross = (
        *_pair(f"{ours}.cross_attention.query", f"{across}.q_proj"),
        *_joined(f"{ours}.cross_attention.key_value", across, ("k_proj", "v_proj"), "halves"),
        *_pair(f"{ours}.cross_attention.output_projection", f"{across}.out_proj"),
        *_pair(f"{ours}.cross_attention_norm", f"{across}_layer_norm", ours="scale"),
    )
    return (
        *_joined(f"{ours}.attention.query_key_value", own, ("q_proj", "k_proj", "v_proj"), "heads"),
        *_pair(f"{ours}.attention.output_projection", f"{own}.out_proj"),
        *_pair(f"{ours}.attention_norm", f"{own}_layer_norm", ours="scale"),
        *(cross if decodes else ()),
        *_pair(f"{ours}.feed_forward.inner", f"{layer}.fc1"),
        *_pair(f"{ours}.feed_forward.outer", f"{layer}.fc2"),
        *_pair(f"{ours}.feed_forward_norm", f"{layer}.final_layer_norm", ours="scale"),
    )


_SHARED = "model.shared.weight"

MARIAN = WeightMap(
    (
        Weight("token_embedding.embeddings", (_SHARED,)),
        *_marian_block("encoder", decodes=False),
        *_marian_block("decoder", decodes=True),
        Weight("output_bias", ("final_logits_bias",)),
    ),
    copies=(
        ("model.encoder.embed_tokens.weight", _SHARED),
        ("model.decoder.embed_tokens.weight", _SHARED),
    ),
    # Sinusoids, which are computed.
    unread=(r"model\.(encoder|decoder)\.embed_positions\.weight",),
)

FINAL_BIAS = "final_logits_bias"

_PLACES = dict.fromkeys(
    weight.place
    for weight in (
        *T5.weights,
        *MARIAN.weights,
        *(Weight(f"{stack}.final_norm.bias", ()) for stack in ("encoder", "decoder")),
    )
)

OURS = WeightMap(tuple(Weight(place, (place,)) for place in _PLACES), output="")
"""For an architecture that neither family expresses: each weight under its own name."""
