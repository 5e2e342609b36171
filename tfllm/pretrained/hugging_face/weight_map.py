"""Tables from the weights of a model to the tensors of a model folder: one for each family.

To support another causal language model, add a table here and its row in `architectures.py`. The
tables of other kinds of models are in `bert_weight_map.py` and `encoder_decoder_weight_maps.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tfllm.layers.quantized import SCALE


class Weight(NamedTuple):
    """A weight of our model, and the tensors of a file that it consists of.

    Args:
        place: Path of the weight in the model, in which `{i}` is the index of a block. The row is
            skipped if a model has no such weight (a tied output projection, a bias).
        tensors: Names in the file, in the order in which they are stacked along the rows.
        split: Number of rows of each tensor: "heads" for those of the query, key and value heads;
            "halves" for equal parts; "" for a single tensor.
        transposed: Whether the file has `[input, output]` instead of `[output, input]`.
        only: Field of the model's settings that must be true for the row to apply.
        unless: Field that must be false.
    """

    place: str
    tensors: tuple[str, ...]
    split: str = ""
    transposed: bool = False
    only: str = ""
    unless: str = ""

    def counts(self, config: Any) -> bool:
        """Whether the row applies to a model with these settings."""
        return not (self.only and not getattr(config, self.only)) and not (
            self.unless and getattr(config, self.unless)
        )


OUTPUT = "lm_head.weight"
"""The output projection; a file may contain it even if it is tied."""


class WeightMap(NamedTuple):
    """All tensors of a family.

    Args:
        weights: One row for each weight.
        prefix: Beginning of every name but the output projection's; files that were saved without
            the output projection lack it.
        unread: Regular expressions of tensors that are not weights: constants that old versions
            of a library stored.
        output: Name of the output projection.
        copies: Additional tensors that a file may contain, each with the one that it must equal:
            tied weights. A tied output projection is one, of the embedding.
        renamed: Regular expressions of parts of names in old files, and what they are called now.
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

# GPT-2's projections are stored as convolutions: [input, output], with queries, keys and values in
# one.
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
"""For an architecture that no family expresses: each weight under its own name."""

# They differ only in weights that a model may or may not have: biases, norms.
_NAMED_LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "smollm3")

WEIGHT_MAPS: dict[str, WeightMap] = {
    **dict.fromkeys(_NAMED_LIKE_LLAMA, LLAMA),
    "gpt2": GPT2,
    "tfllm": OURS,
}
"""The table of each `model_type` of config.json."""


class StoredWeight(NamedTuple):
    """A row of a table for one model and one block.

    Args:
        variable: Weight of the model.
        tensors: Name in the file and number of rows of each part.
        transposed: Whether the file has each part transposed.
        scale: Scale of each row of a weight that the model stores as integers; None for others.
    """

    variable: Any
    tensors: tuple[tuple[str, int], ...]
    transposed: bool
    scale: Any = None

    def shape(self, rows: int) -> tuple[int, ...]:
        """The shape in the file of a part with this number of rows."""
        shape = (rows, *self.variable.shape[1:])
        return shape[::-1] if self.transposed else shape


def stored_weights(model: Any, table: WeightMap) -> list[StoredWeight]:
    """List each weight of a model with its tensors, in the table's order.

    Raises:
        ValueError: If the model has adapters, or a weight that is not in the table.
    """
    if getattr(model, "adapters", ()):
        raise ValueError(
            f"a model folder cannot hold adapters, but the model has {model.adapters}; "
            "call merge_adapter() first, or save only the adapters with save_adapter()"
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
            f"a model folder only holds the weights of the class {type(model).__name__}; "
            f"received a model with additional ones: {', '.join(unknown)}"
        )
    return stored


class StoredRows(NamedTuple):
    """Rows of a projection that are a module in other libraries.

    Args:
        module: Name of the module there, such as "model.layers.0.self_attn.q_proj".
        place: Path of the projection in our model, such as "blocks.0.attention.query_key_value".
        begin: First of the rows.
        end: Row after the last.
        transposed: Whether the module has its weights as `[input, output]`.
    """

    module: str
    place: str
    begin: int
    end: int
    transposed: bool


def stored_projections(model: Any, table: WeightMap) -> list[StoredRows]:
    """The modules in other libraries of the projections of a `CausalLM`'s blocks, block by
    block."""
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
