"""Which tensor of a model folder holds which weight of a `CausalLM`: one table a family.

To read a further architecture, add a table here and its row in `hugging_face_config.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Weight(NamedTuple):
    """A weight of ours and the tensors of a file that make it up.

    Args:
        place: where it stands in the model; `{i}` runs over the blocks. A model that has no such
            weight (a tied output projection, a bias) skips the row.
        tensors: names in the file, stacked in this order along the rows.
        split: how many rows each tensor has: "heads", those of the query, key and value heads;
            "halves", equal parts; "" where there is one tensor.
        transposed: the file holds `[input, output]` instead of `[output, input]`.
    """

    place: str
    tensors: tuple[str, ...]
    split: str = ""
    transposed: bool = False


class WeightMap(NamedTuple):
    """All tensors of a family.

    Args:
        weights: one row a weight.
        prefix: what every name but the output projection's begins with; files that were saved
            without the output projection lack it.
        unread: regular expressions of tensors that hold no weight: constants that old versions
            of a library stored.
    """

    weights: tuple[Weight, ...]
    prefix: str = ""
    unread: tuple[str, ...] = ()


OUTPUT = "lm_head.weight"
"""the output projection; a file may hold it although it is tied"""

LLAMA = WeightMap(
    prefix="model.",
    unread=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    weights=(
        Weight("token_embedding.embeddings", ("model.embed_tokens.weight",)),
        Weight("blocks.{i}.attention_norm.scale", ("model.layers.{i}.input_layernorm.weight",)),
        Weight(
            "blocks.{i}.attention.query_key_value.kernel",
            (
                "model.layers.{i}.self_attn.q_proj.weight",
                "model.layers.{i}.self_attn.k_proj.weight",
                "model.layers.{i}.self_attn.v_proj.weight",
            ),
            split="heads",
        ),
        Weight(
            "blocks.{i}.attention.query_key_value.bias",
            (
                "model.layers.{i}.self_attn.q_proj.bias",
                "model.layers.{i}.self_attn.k_proj.bias",
                "model.layers.{i}.self_attn.v_proj.bias",
            ),
            split="heads",
        ),
        Weight(
            "blocks.{i}.attention.output_projection.kernel",
            ("model.layers.{i}.self_attn.o_proj.weight",),
        ),
        Weight(
            "blocks.{i}.attention.output_projection.bias",
            ("model.layers.{i}.self_attn.o_proj.bias",),
        ),
        Weight(
            "blocks.{i}.feed_forward_norm.scale",
            ("model.layers.{i}.post_attention_layernorm.weight",),
        ),
        Weight(
            "blocks.{i}.feed_forward.inner.kernel",
            ("model.layers.{i}.mlp.gate_proj.weight", "model.layers.{i}.mlp.up_proj.weight"),
            split="halves",
        ),
        Weight(
            "blocks.{i}.feed_forward.inner.bias",
            ("model.layers.{i}.mlp.gate_proj.bias", "model.layers.{i}.mlp.up_proj.bias"),
            split="halves",
        ),
        Weight("blocks.{i}.feed_forward.outer.kernel", ("model.layers.{i}.mlp.down_proj.weight",)),
        Weight("blocks.{i}.feed_forward.outer.bias", ("model.layers.{i}.mlp.down_proj.bias",)),
        Weight("final_norm.scale", ("model.norm.weight",)),
        Weight("output_kernel", (OUTPUT,)),
    ),
)

# GPT-2's projections were written as convolutions: [input, output], and one for queries, keys and
# values.
GPT2 = WeightMap(
    prefix="transformer.",
    unread=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
    weights=(
        Weight("token_embedding.embeddings", ("transformer.wte.weight",)),
        Weight("position_embedding.table", ("transformer.wpe.weight",)),
        Weight("blocks.{i}.attention_norm.scale", ("transformer.h.{i}.ln_1.weight",)),
        Weight("blocks.{i}.attention_norm.bias", ("transformer.h.{i}.ln_1.bias",)),
        Weight(
            "blocks.{i}.attention.query_key_value.kernel",
            ("transformer.h.{i}.attn.c_attn.weight",),
            transposed=True,
        ),
        Weight(
            "blocks.{i}.attention.query_key_value.bias", ("transformer.h.{i}.attn.c_attn.bias",)
        ),
        Weight(
            "blocks.{i}.attention.output_projection.kernel",
            ("transformer.h.{i}.attn.c_proj.weight",),
            transposed=True,
        ),
        Weight(
            "blocks.{i}.attention.output_projection.bias", ("transformer.h.{i}.attn.c_proj.bias",)
        ),
        Weight("blocks.{i}.feed_forward_norm.scale", ("transformer.h.{i}.ln_2.weight",)),
        Weight("blocks.{i}.feed_forward_norm.bias", ("transformer.h.{i}.ln_2.bias",)),
        Weight(
            "blocks.{i}.feed_forward.inner.kernel",
            ("transformer.h.{i}.mlp.c_fc.weight",),
            transposed=True,
        ),
        Weight("blocks.{i}.feed_forward.inner.bias", ("transformer.h.{i}.mlp.c_fc.bias",)),
        Weight(
            "blocks.{i}.feed_forward.outer.kernel",
            ("transformer.h.{i}.mlp.c_proj.weight",),
            transposed=True,
        ),
        Weight("blocks.{i}.feed_forward.outer.bias", ("transformer.h.{i}.mlp.c_proj.bias",)),
        Weight("final_norm.scale", ("transformer.ln_f.weight",)),
        Weight("final_norm.bias", ("transformer.ln_f.bias",)),
        Weight("output_kernel", (OUTPUT,)),
    ),
)

_ALL_PLACES = dict.fromkeys(
    weight.place
    for table in (LLAMA, GPT2)
    for weight in (*table.weights, Weight("final_norm.bias", ()))
)

OURS = WeightMap(tuple(Weight(place, (place,)) for place in _ALL_PLACES))
"""for an architecture that no family expresses: each weight under its own name, as it is"""

WEIGHT_MAPS: dict[str, WeightMap] = {"llama": LLAMA, "gpt2": GPT2, "tfllm": OURS}
"""`model_type` of config.json to its table"""


class StoredWeight(NamedTuple):
    """A row of a table for one model and one block.

    Args:
        variable: the model's weight.
        tensors: name in the file and number of rows of each part.
        transposed: the file holds each part transposed.
    """

    variable: Any
    tensors: tuple[tuple[str, int], ...]
    transposed: bool

    def shape(self, rows: int) -> tuple[int, ...]:
        """The shape in the file of a part with so many rows."""
        shape = (rows, *self.variable.shape[1:])
        return shape[::-1] if self.transposed else shape


def stored_weights(model: Any, table: WeightMap) -> list[StoredWeight]:
    """Each weight of a `CausalLM` with the tensors that hold it, in the table's order.

    Raises:
        ValueError: the model has a weight that the table does not know.
    """
    stored = []
    for weight in table.weights:
        for i in range(model.config.num_layers if "{i}" in weight.place else 1):
            variable = _resolve(model, weight.place.format(i=i))
            if variable is not None:
                names = [name.format(i=i) for name in weight.tensors]
                rows = _rows(weight.split, variable.shape[0], model.config)
                parts = tuple(zip(names, rows, strict=True))
                stored.append(StoredWeight(variable, parts, weight.transposed))
    known = {id(weight.variable) for weight in stored}
    unknown = [variable.path for variable in model.weights if id(variable) not in known]
    if unknown:
        raise ValueError(
            "a model folder holds the weights of a CausalLM and no others; "
            f"received a model that has besides: {', '.join(unknown)}"
        )
    return stored


def _resolve(model: Any, place: str) -> Any:
    value = model
    for name in place.split("."):
        value = value[int(name)] if name.isdigit() else getattr(value, name, None)
        if value is None:
            return None
    return value


def _rows(split: str, total: int, config: Any) -> list[int]:
    if split == "heads":
        query, key = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
        return [query, key, key]
    if split == "halves":
        return [total // 2, total // 2]
    return [total]
