"""Tables from the weights of an `Encoder` and its heads to the tensors of a BERT folder."""

from __future__ import annotations

from tfllm.pretrained.hugging_face.weight_map import Weight, WeightMap

_PREFIX = "bert."


def _pair(place: str, tensor: str, *, ours: str = "kernel") -> tuple[Weight, Weight]:
    """A matrix, or a norm's scale, with its bias."""
    return (
        Weight(f"{place}.{ours}", (f"{tensor}.weight",)),
        Weight(f"{place}.bias", (f"{tensor}.bias",)),
    )


_LAYER = "encoder.layer.{i}"

_ENCODER: tuple[Weight, ...] = (
    Weight("token_embedding.embeddings", ("embeddings.word_embeddings.weight",)),
    Weight("position_embedding.table", ("embeddings.position_embeddings.weight",)),
    Weight("token_type_embedding.embeddings", ("embeddings.token_type_embeddings.weight",)),
    *_pair("embedding_norm", "embeddings.LayerNorm", ours="scale"),
    *(
        Weight(
            f"blocks.{{i}}.attention.query_key_value.{ours}",
            tuple(f"{_LAYER}.attention.self.{name}.{theirs}" for name in ("query", "key", "value")),
            split="heads",
        )
        for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
    ),
    *_pair("blocks.{i}.attention.output_projection", f"{_LAYER}.attention.output.dense"),
    *_pair("blocks.{i}.attention_norm", f"{_LAYER}.attention.output.LayerNorm", ours="scale"),
    *_pair("blocks.{i}.feed_forward.inner", f"{_LAYER}.intermediate.dense"),
    *_pair("blocks.{i}.feed_forward.outer", f"{_LAYER}.output.dense"),
    *_pair("blocks.{i}.feed_forward_norm", f"{_LAYER}.output.LayerNorm", ours="scale"),
    *_pair("pooler", "pooler.dense"),
)

# A constant that old versions stored, and the names that the first versions gave to norms.
_UNREAD = (r"(bert\.)?embeddings\.position_ids",)
_RENAMED = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))

POOLER = "pooler.dense.weight"
"""The tensor that shows whether a folder contains a pooler."""

BERT = WeightMap(_ENCODER, unread=_UNREAD, output="", renamed=((rf"^{_PREFIX}", ""), *_RENAMED))
"""The encoder without a head."""


def _within(weights: tuple[Weight, ...], place: str, prefix: str) -> tuple[Weight, ...]:
    return tuple(
        weight._replace(
            place=f"{place}{weight.place}",
            tensors=tuple(f"{prefix}{name}" for name in weight.tensors),
        )
        for weight in weights
    )


BERT_IN_SENTENCE_ENCODER = BERT._replace(weights=_within(_ENCODER, "encoder.", ""))
"""The encoder of a model that has no other weights."""


def _with_head(*head: Weight, unread: tuple[str, ...] = (), **options: object) -> WeightMap:
    return WeightMap(
        (*_within(_ENCODER, "encoder.", _PREFIX), *head),
        prefix=_PREFIX,
        unread=(*_UNREAD, *unread),
        output="",
        renamed=_RENAMED,
        **options,  # type: ignore[arg-type]
    )


BERT_SEQUENCE_CLASSIFIER = _with_head(*_pair("classifier", "classifier"))

# Pretraining had a pooler for its second task besides masked tokens; fine-tuned models may not.
_NO_POOLER = (r"bert\.pooler\.dense\.(weight|bias)",)
BERT_TOKEN_CLASSIFIER = _with_head(*_pair("classifier", "classifier"), unread=_NO_POOLER)
BERT_SPAN_CLASSIFIER = _with_head(*_pair("classifier", "qa_outputs"), unread=_NO_POOLER)
BERT_MASKED_LANGUAGE_MODEL = _with_head(
    *_pair("transform", "cls.predictions.transform.dense"),
    *_pair("transform_norm", "cls.predictions.transform.LayerNorm", ours="scale"),
    Weight("output_bias", ("cls.predictions.bias",)),
    unread=(*_NO_POOLER, r"cls\.seq_relationship\.(weight|bias)"),
    copies=(
        ("cls.predictions.decoder.weight", f"{_PREFIX}embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ),
)
