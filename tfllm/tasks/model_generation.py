"""`model.generate(...)`: generate texts with a model and its tokenizer, or token ids."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.config import ConfigError, GenerationConfig, build
from tfllm.config.rules import require
from tfllm.generation.beam_options import BeamOptions
from tfllm.generation.beam_search import beam_search
from tfllm.generation.causal_lm_decoder import CausalLMDecoder
from tfllm.generation.decoding import decode
from tfllm.generation.encoder_decoder_decoder import EncoderDecoderDecoder
from tfllm.generation.prompt_lookup import advance_to_draft
from tfllm.generation.sampling import SamplingOptions
from tfllm.generation.token_rules import TokenRules
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.models.token_ids import checked_tokens
from tfllm.pretrained.hugging_face.generation_settings import search_settings_of
from tfllm.tasks.language_model.text_generation import TextGeneration
from tfllm.tasks.sequence_to_sequence.sequence_generation import SearchSettings, SequenceGeneration
from tfllm.tokenizers.base import Tokenizer


def generate(model: Any, inputs: Any, *, tokenizer: Tokenizer | None = None, **options: Any) -> Any:
    """See `tfllm.models.verbs.GenerateVerb.generate`.

    Args:
        model: a `CausalLM` or an `EncoderDecoder`.
        inputs: texts or token ids.
        tokenizer: tokenizer, which texts need.
        options: as there.
    """
    own, generation = vars(model).get("_text", (None, None))
    tokenizer = own if tokenizer is None else tokenizer
    several = isinstance(inputs, list | tuple)
    if isinstance(inputs, str) or (several and len(inputs) > 0 and isinstance(inputs[0], str)):
        if tokenizer is None:
            raise ValueError(
                "the model has no tokenizer, and takes token ids only: give tokenizer=..., or "
                "token ids; a model of tfllm.load or from_preset has that of its folder"
            )
        if isinstance(model, EncoderDecoder):
            return _written(model, tokenizer, inputs, {**search_settings_of(generation), **options})
        task = _kept(model, TextGeneration, tokenizer, generation)
        return task.generate(inputs, **options)
    ends = options.pop("end_token_ids", () if tokenizer is None else tokenizer.end_token_ids)
    return _token_ids(model, inputs, np.atleast_1d(ends).astype(np.int32), generation, options)


def _written(model: Any, tokenizer: Tokenizer, sources: Any, options: dict[str, Any]) -> Any:
    """Generate texts with an encoder-decoder."""
    settings = build(SearchSettings, options)
    task = _kept(model, SequenceGeneration, tokenizer, {}, settings)
    single = isinstance(sources, str)
    answers = task.predict([{"text": text} for text in ([sources] if single else sources)])
    for number, answer in enumerate(answers, 1):
        if answer["error"]:
            raise ValueError(f"text {number}: {answer['error']}")
    texts = [answer["generated_text"] for answer in answers]
    return texts[0] if single else texts


def _kept(model: Any, kind: Any, *arguments: Any) -> Any:
    """The object that generates with a model, cached in it, since tracing it takes seconds.

    It is not cached if it runs a copy of the model (with mixed precision), which does not follow
    later training.
    """
    kept = vars(model).setdefault("_generating", {})
    adapters = (getattr(model, "adapter", None), getattr(model, "adapters", ()))
    key = (kind, adapters, *(repr(a) if isinstance(a, dict) else a for a in arguments))
    if key not in kept:
        made = kind(model, *arguments)
        if made.decoder.model is not model:
            return made
        kept[key] = made
    return kept[key]


def _token_ids(
    model: Any,
    inputs: Any,
    end_token_ids: np.ndarray,
    generation: GenerationConfig | None,
    options: dict[str, Any],
) -> Any:
    single = np.ndim(inputs[0]) == 0 if len(inputs) else False
    rows = [np.asarray(row) for row in ([inputs] if single else inputs)]
    if isinstance(model, EncoderDecoder):
        defaults = GenerationConfig(num_beams=4).with_options(search_settings_of(generation))
    else:
        defaults = generation or GenerationConfig()
    config = defaults.with_options(options)
    config.check_supported()
    if config.stop or config.num_samples > 1:
        raise ConfigError(
            "stop and num_samples are for texts; for token ids, give end_token_ids, and repeat "
            f"each prompt for several samples; received {config.stop}, {config.num_samples}"
        )
    if isinstance(model, EncoderDecoder):
        require(
            config.prompt_lookup_tokens == 0,
            "prompt_lookup_tokens must be 0 for an encoder-decoder, whose texts do not continue "
            "their prompt",
            config.prompt_lookup_tokens,
        )
    for number, row in enumerate(rows, 1):
        if row.ndim != 1 or not len(row) or not np.issubdtype(row.dtype, np.integer):
            raise ValueError(
                f"a prompt must be a list of at least one token id; row {number} has shape "
                f"{row.shape} and dtype {row.dtype}"
            )
        checked_tokens(row[np.newaxis], model.config, what="prompt")
        continued = not isinstance(model, EncoderDecoder)
        if continued and config.ends_at_max_length and len(row) >= config.max_length:
            raise ConfigError(
                f"a prompt must be shorter than max_length ({config.max_length}) unless "
                f"max_new_tokens is given; row {number} has {len(row)} tokens"
            )
    if not rows:
        return []
    ragged = tf.RaggedTensor.from_row_lengths(
        tf.constant(np.concatenate(rows), tf.int32), [len(row) for row in rows]
    )
    kind = _SearchedIds if config.searches else _DrawnIds
    if isinstance(model, EncoderDecoder):
        kind = _SearchedIds
    found = _kept(model, kind, tuple(end_token_ids.tolist()), config)(ragged)
    return found[0] if single else found


class _Ids:
    """Base class of functions from prompts of token ids to new token ids.

    Args:
        model: the model.
        end_token_ids: ids at which a row ends.
        config: generation options.
    """

    def __init__(self, model: Any, end_token_ids: Sequence[int], config: GenerationConfig) -> None:
        of = EncoderDecoderDecoder if isinstance(model, EncoderDecoder) else CausalLMDecoder
        self.decoder: Any = of(model)
        self.end_token_ids = tf.constant(list(end_token_ids), tf.int32)
        self.config = config
        specs = [tf.RaggedTensorSpec([None, None], tf.int32, row_splits_dtype=tf.int64)]
        self._function = tf.function(self._generate, input_signature=specs, autograph=False)

    def _generate(self, prompts: tf.RaggedTensor) -> Any:
        raise NotImplementedError

    def _limits(self, prompts: tf.RaggedTensor) -> tf.Tensor:
        if self.config.ends_at_max_length:
            own = tf.cast(prompts.row_lengths(), tf.int32)
            # The output of an encoder-decoder begins with a start token, which is counted.
            before = own if self.decoder.continues_prompts else tf.ones_like(own)
            return self.config.max_length - before
        return tf.fill([prompts.nrows(tf.int32)], self.config.max_new_tokens)


class _DrawnIds(_Ids):
    """Greedy decoding or sampling; the decoding loop's text consists of the ids as bytes here."""

    def _generate(self, prompts: tf.RaggedTensor) -> tf.Tensor:
        size = self.decoder.vocab_size
        state = decode(
            self.decoder,
            prompts,
            self._limits(prompts),
            SamplingOptions.of(self.config, prompts.nrows(tf.int32)),
            end_token_ids=self.end_token_ids,
            token_bytes=tf.constant([struct.pack("<i", number) for number in range(size)]),
            stops=lambda text: tf.zeros(tf.shape(text), tf.bool),
            token_rules=TokenRules.of(self.config),
            advance=advance_to_draft,
        )
        return state.text

    def __call__(self, prompts: tf.RaggedTensor) -> list[np.ndarray]:
        """The new ids of each row."""
        return [np.frombuffer(text, "<i4").copy() for text in self._function(prompts).numpy()]


class _SearchedIds(_Ids):
    """Beam search for the most probable continuation of each row."""

    def _generate(self, prompts: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
        config = self.config
        found = beam_search(
            self.decoder,
            prompts,
            self._limits(prompts),
            BeamOptions(
                width=config.num_beams,
                num_best=1,
                length_penalty=config.length_penalty,
                no_repeat_ngram_size=config.no_repeat_ngram_size,
                token_rules=TokenRules.of(config),
                renormalize=config.renormalize_logits,
                early_stopping=config.early_stopping,
            ),
            end_token_ids=self.end_token_ids,
        )
        return found.token_ids[:, 0], found.lengths[:, 0]

    def __call__(self, prompts: tf.RaggedTensor) -> list[np.ndarray]:
        """The new ids of each row."""
        ids, lengths = self._function(prompts)
        return [row[:n] for row, n in zip(ids.numpy(), lengths.numpy(), strict=True)]
