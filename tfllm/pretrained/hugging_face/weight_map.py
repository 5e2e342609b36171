"""Which tensor of a model folder holds which weight of a model: one table a family.

To read a further causal language model, add a table here and its row in
`architectures.py`. Tables of other kinds of models stand in `bert_weight_map.py` and
`encoder_decoder_weight_maps.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tfllm.layers.quantized import SCALE


class Weight(NamedTuple):
    """A weight of ours and the tensors of a file that make it up.

    Args:
        place: where it stands in the model; `{i}` runs over the blocks that stand before it. A
            model that has no such weight (a tied output projection, a bias) skips the row.
        tensors: names in the file, stacked in this order along the rows.
        split: how many rows each tensor has: "heads", those of the query, key and value heads;
            "halves", equal parts; "" where there is one tensor.
        transposed: the file holds `[input, output]` instead of `[output, input]`.
        only: a field of the model's settings that must be true for the row to count.
        unless: one that must be false.
    """

    place: str
    tensors: tuple[str, ...]
    split: str = ""
    transposed: bool = False
    only: str = ""
    unless: str = ""

    def counts(self, config: Any) -> bool:
        """Whether the row is one of a model with these settings."""
        return not (self.only and not getattr(config, self.only)) and not (
            self.unless and getattr(config, self.unless)
        )


OUTPUT = "lm_head.weight"
"""the output projection; a file may hold it although it is tied"""


class WeightMap(NamedTuple):
    """All tensors of a family.

    Args:
        weights: one row a weight.
        prefix: what every name but the output projection's begins with; files that were saved
            without the output projection lack it.
        unread: regular expressions of tensors that hold no weight: constants that old versions
            of a library stored.
        output: the name of the output projection.
        copies: tensors that a file may hold besides, each with the one that it must equal: weights
            that are shared. The output projection is one of the embedding where it is tied.
        renamed: regular expressions of what old files have in a name, and what it is now.
    """

    weights: tuple[Weight, ...]
    prefix: str = ""
    unread: tuple[str, ...] = ()
    output: str = OUTPUT
    copies: tuple[tuple[str, str], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()


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
            "blocks.{i}.attention.query_key_norm.query_scale",
            ("model.layers.{i}.self_attn.q_norm.weight",),
        ),
        Weight(
            "blocks.{i}.attention.query_key_norm.key_scale",
            ("model.layers.{i}.self_attn.k_norm.weight",),
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

# All that differs between them besides is in weights that a model has or has not: biases, norms.
_NAMED_LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "smollm3")

WEIGHT_MAPS: dict[str, WeightMap] = {
    **dict.fromkeys(_NAMED_LIKE_LLAMA, LLAMA),
    "gpt2": GPT2,
    "tfllm": OURS,
}
"""`model_type` of config.json to its table"""


class StoredWeight(NamedTuple):
    """A row of a table for one model and one block.

    Args:
        variable: the model's weight.
        tensors: name in the file and number of rows of each part.
        transposed: the file holds each part transposed.
        scale: of a weight that the model stores as integers, the scale of each row.
    """

    variable: Any
    tensors: tuple[tuple[str, int], ...]
    transposed: bool
    scale: Any = None

    def shape(self, rows: int) -> tuple[int, ...]:
        """The shape in the file of a part with so many rows."""
        shape = (rows, *self.variable.shape[1:])
        return shape[::-1] if self.transposed else shape


def stored_weights(model: Any, table: WeightMap) -> list[StoredWeight]:
    """Each weight of a model with the tensors that hold it, in the table's order.

    Raises:
        ValueError: the model has a weight that the table does not know, or adapters.
    """
    if getattr(model, "adapters", ()):
        raise ValueError(
            f"a model folder has no place for adapters, and the model has {model.adapters}; "
            "merge_adapter() first, or save_adapter() them alone"
        )
    stored = []
    for weight in table.weights:
        if not weight.counts(model.config):
            continue
        blocks, numbered, _ = weight.place.partition(".{i}")
        for i in range(len(_part_at(model, blocks) or ()) if numbered else 1):
            place = weight.place.format(i=i)
            variable = _part_at(model, place)
            if variable is not None:
                names = [name.format(i=i) for name in weight.tensors]
                rows = _rows(weight.split, variable.shape[0], model.config)
                parts = tuple(zip(names, rows, strict=True))
                scale = _part_at(model, place + SCALE)
                stored.append(StoredWeight(variable, parts, weight.transposed, scale))
    known = {id(part) for weight in stored for part in (weight.variable, weight.scale)}
    unknown = [variable.path for variable in model.weights if id(variable) not in known]
    if unknown:
        raise ValueError(
            f"a model folder holds the weights of a {type(model).__name__} and no others; "
            f"received a model that has besides: {', '.join(unknown)}"
        )
    return stored


class StoredRows(NamedTuple):
    """Rows of a projection that are a module of their own for others.

    Args:
        module: its name for others, such as "model.layers.0.self_attn.q_proj".
        place: of the projection in the model, such as "blocks.0.attention.query_key_value".
        begin: the first of the rows.
        end: the row behind the last.
        transposed: the module holds its weights as `[input, output]`.
    """

    module: str
    place: str
    begin: int
    end: int
    transposed: bool


def stored_projections(model: Any, table: WeightMap) -> list[StoredRows]:
    """The modules that the projections of a `CausalLM`'s blocks are for others, block by block."""
    stored = []
    for i in range(model.config.num_layers):
        for weight in table.weights:
            place, _, name = weight.place.format(i=i).rpartition(".")
            if not weight.place.startswith("blocks.") or name != "kernel":
                continue
            total = _part_at(model, place).output_dim
            end = 0
            for tensor, rows in zip(
                weight.tensors, _rows(weight.split, total, model.config), strict=True
            ):
                begin, end = end, end + rows
                module = tensor.format(i=i).removesuffix(".weight").removesuffix(".kernel")
                stored.append(StoredRows(module, place, begin, end, weight.transposed))
    return stored


def _part_at(model: Any, place: str) -> Any:
    """The layer, weight or list of layers at a place of a model, such as "blocks.0.attention"; None
    where there is none."""
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
