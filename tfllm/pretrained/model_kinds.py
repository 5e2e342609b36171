"""The kinds of models that a folder can contain, each with its class, config.json and weights.

To support another kind, add a row to `MODEL_KINDS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from tfllm.config import ConfigError
from tfllm.models.causal_lm import CausalLM
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
from tfllm.models.heads.masked_language_model import MaskedLanguageModel
from tfllm.models.heads.sentence_encoder import SentenceEncoder
from tfllm.models.heads.sequence_classifier import SequenceClassifier
from tfllm.models.heads.span_classifier import SpanClassifier
from tfllm.models.heads.token_classifier import TokenClassifier
from tfllm.pretrained.hugging_face import (
    bert_weight_map,
    decoder_config,
    encoder_decoder_weight_maps,
)
from tfllm.pretrained.hugging_face.architectures import ARCHITECTURES
from tfllm.pretrained.hugging_face.bert_config import BERT, read_labels, written_labels
from tfllm.pretrained.hugging_face.config_table import ConfigTable
from tfllm.pretrained.hugging_face.config_values import built
from tfllm.pretrained.hugging_face.marian_config import MARIAN
from tfllm.pretrained.hugging_face.sentence_modules import SENTENCE_TRANSFORMER, SETTINGS
from tfllm.pretrained.hugging_face.t5_config import T5
from tfllm.pretrained.hugging_face.weight_map import WEIGHT_MAPS, WeightMap


class Description(NamedTuple):
    """The model that a config.json describes.

    Args:
        config: Architecture, the first argument of the model's class.
        options: Other arguments of the class. Defaults to none.
    """

    config: Any
    options: Mapping[str, Any] = {}


class ModelKind(NamedTuple):
    """One kind of model.

    Args:
        model_class: Class of the model in tfllm.
        model_types: Values of `model_type` in the config.json files that may be of this kind.
        architectures: Values of `architectures` in these files; the first one is written. If empty,
            files with any value, or with none, are of this kind.
        read: Reads a config.json, given its values, its name for errors, and the dropout rate to
            train with (None for that of the file); raises ConfigError.
        write: Returns the config.json of a model, and why `transformers` cannot read it ("" if it
            can).
        weight_map: Tables of its weights by `model_type`.
        stored_options: Returns additional arguments of the class, given the names of the weights.
        stored_settings: Returns fields of the architecture that the names of the weights determine,
            whatever config.json says.
        unlike_dropouts: Returns the dropout rates of a config.json that our model cannot have,
            given its values and the rate that tfllm trained it with (None if it did not).
        generates: Whether it has generation settings. Defaults to False.
    """

    model_class: type
    model_types: Collection[str]
    architectures: tuple[str, ...]
    read: Callable[[Mapping[str, Any], str, float | None], Description]
    write: Callable[[Any], tuple[dict[str, Any], str]]
    weight_map: Mapping[str, WeightMap]
    stored_options: Callable[[Collection[str]], Mapping[str, Any]] = lambda names: {}
    stored_settings: Callable[[Any, Collection[str]], Mapping[str, Any]] = lambda config, names: {}
    unlike_dropouts: Callable[[Mapping[str, Any], float | None], Mapping[str, float]] = (
        lambda values, known: {}
    )
    generates: bool = False


def kind_of_config(values: Mapping[str, Any], where: str) -> ModelKind:
    """Find the kind of the model that a config.json describes.

    Raises:
        ConfigError: If its `model_type`, or its name in `architectures`, is not supported.
    """
    model_type, named = values.get("model_type"), values.get("architectures")
    kinds = [kind for kind in MODEL_KINDS if model_type in kind.model_types]
    if not isinstance(model_type, str) or not kinds:
        known = dict.fromkeys(t for kind in MODEL_KINDS for t in kind.model_types)
        raise ConfigError(
            f"{where}: unknown model_type {model_type!r}; supported: {', '.join(known)}"
        )
    name = named[0] if isinstance(named, list) and named else None
    for kind in kinds:
        if not kind.architectures or name is None or name in kind.architectures:
            return kind
    names = [name for kind in kinds for name in kind.architectures]
    raise ConfigError(
        f"{where}: architectures of a {model_type} must be one of {', '.join(names)}; "
        f"received {name!r}"
    )


def kind_of_model(model: Any) -> ModelKind:
    """Find the kind of a model.

    Raises:
        ValueError: If there is none.
    """
    for cls in type(model).__mro__:
        for kind in MODEL_KINDS:
            if kind.model_class is cls:
                return kind
    names = ", ".join(f"tfllm.{kind.model_class.__name__}" for kind in MODEL_KINDS)
    raise ValueError(f"the model must be one of {names}; received {type(model).__name__}")


# ------------------------------------------------------------------ causal language models


def _read_causal(values: Mapping[str, Any], where: str, dropout: float | None) -> Description:
    return Description(decoder_config.from_hugging_face(values, where=where, dropout=dropout)[1])


# ------------------------------------------------------------------ BERT


def _read_encoder(values: Mapping[str, Any], where: str, dropout: float | None) -> Description:
    return Description(BERT.read(values, where, dropout))


def _read_labelled(values: Mapping[str, Any], where: str, dropout: float | None) -> Description:
    return Description(BERT.read(values, where, dropout), read_labels(values, where))


def _read_sentence(values: Mapping[str, Any], where: str, dropout: float | None) -> Description:
    return Description(BERT.read(values, where, dropout), values.get(SETTINGS, {}))


def _stored_pooler(names: Collection[str]) -> Mapping[str, Any]:
    return {"pooler": any(name.endswith(bert_weight_map.POOLER) for name in names)}


def _bert(
    model_class: type,
    architectures: tuple[str, ...],
    table: WeightMap,
    written_as: str | None = None,
    **options: Any,
) -> ModelKind:
    def write(model: Any) -> tuple[dict[str, Any], str]:
        names = getattr(model, "label_names", None)
        return {
            **BERT.written(model.config),
            "architectures": [written_as or architectures[0]],
            **({} if names is None else written_labels(names)),
        }, ""

    return ModelKind(
        model_class,
        ("bert",),
        architectures,
        write=write,
        weight_map={"bert": table},
        unlike_dropouts=lambda values, known: BERT.unlike_dropouts(values),
        **{"read": _read_encoder, **options},
    )


# ------------------------------------------------------------------ encoder-decoders

_OURS = "tfllm-encoder-decoder"
_ENCODER_DECODERS: dict[str, ConfigTable] = {table.model_type: table for table in (T5, MARIAN)}


def _read_pairs(values: Mapping[str, Any], where: str, dropout: float | None) -> Description:
    if values.get("model_type") == _OURS:
        settings = {**values.get("tfllm", {}), **({} if dropout is None else {"dropout": dropout})}
        return Description(built(EncoderDecoderConfig, settings, where))
    return Description(_ENCODER_DECODERS[values["model_type"]].read(values, where, dropout))


def _table_of(config: EncoderDecoderConfig) -> ConfigTable | None:
    return next((t for t in _ENCODER_DECODERS.values() if t.expresses(config)), None)


def _written_pairs(model: Any) -> tuple[dict[str, Any], str]:
    table = _table_of(model.config)
    if table is not None:
        return table.written(model.config), ""
    reason = "neither a Marian nor a T5 of `transformers` has this architecture"
    settings = dataclasses.asdict(model.config)
    return {"model_type": _OURS, "architectures": [], "tfllm": settings}, reason


def _stored_settings(config: EncoderDecoderConfig, names: Collection[str]) -> Mapping[str, Any]:
    table = _table_of(config)
    return {} if table is None else table.stored_settings(config, names)


def _unlike_in_pairs(values: Mapping[str, Any], known: float | None) -> Mapping[str, float]:
    table = _ENCODER_DECODERS.get(values["model_type"])
    return {} if table is None else table.unlike_dropouts(values)


MODEL_KINDS: tuple[ModelKind, ...] = (
    ModelKind(
        CausalLM,
        (*ARCHITECTURES, "tfllm"),
        (),
        read=_read_causal,
        write=lambda model: decoder_config.to_hugging_face(model.config),
        weight_map=WEIGHT_MAPS,
        unlike_dropouts=decoder_config.unlike_dropouts,
        generates=True,
    ),
    ModelKind(
        EncoderDecoder,
        (*_ENCODER_DECODERS, _OURS),
        tuple(
            name
            for table in _ENCODER_DECODERS.values()
            for name in (table.class_name, *table.other_class_names)
        ),
        read=_read_pairs,
        write=_written_pairs,
        weight_map={
            "t5": encoder_decoder_weight_maps.T5,
            "marian": encoder_decoder_weight_maps.MARIAN,
            _OURS: encoder_decoder_weight_maps.OURS,
        },
        stored_settings=_stored_settings,
        unlike_dropouts=_unlike_in_pairs,
        generates=True,
    ),
    _bert(Encoder, ("BertModel",), bert_weight_map.BERT, stored_options=_stored_pooler),
    _bert(
        SentenceEncoder,
        (SENTENCE_TRANSFORMER,),
        bert_weight_map.BERT_IN_SENTENCE_ENCODER,
        written_as="BertModel",
        read=_read_sentence,
        stored_options=_stored_pooler,
    ),
    _bert(
        MaskedLanguageModel,
        ("BertForMaskedLM", "BertForPreTraining"),
        bert_weight_map.BERT_MASKED_LANGUAGE_MODEL,
    ),
    _bert(
        SequenceClassifier,
        ("BertForSequenceClassification",),
        bert_weight_map.BERT_SEQUENCE_CLASSIFIER,
        read=_read_labelled,
    ),
    _bert(
        TokenClassifier,
        ("BertForTokenClassification",),
        bert_weight_map.BERT_TOKEN_CLASSIFIER,
        read=_read_labelled,
    ),
    _bert(SpanClassifier, ("BertForQuestionAnswering",), bert_weight_map.BERT_SPAN_CLASSIFIER),
)
