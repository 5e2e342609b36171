"""Generate texts from texts by an encoder-decoder with beam search, locally and served."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfllm.config import build
from tfllm.config.generation import check_options, check_supported, like, present_names
from tfllm.config.rules import AT_LEAST_0
from tfllm.generation.beam_options import BeamOptions
from tfllm.generation.beam_search import BeamResult, beam_search
from tfllm.generation.encoder_decoder_decoder import EncoderDecoderDecoder
from tfllm.generation.stream_state import valid_text
from tfllm.generation.token_rules import TokenRules
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.tasks.text_model import TextModel, sequence_length_of, text_function
from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.graph.ragged_rows import equal_rows, first_of_rows, joined_rows

_MIN_SCORE = -3.4e38
"""score of a text that was not found, since JSON has no infinity"""


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Settings of beam search."""

    num_beams: int = like("num_beams", 4)
    """number of beams; 1: greedy decoding"""
    length_penalty: float = like("length_penalty", 1.0)
    """the score of a text is its log-probability divided by its number of tokens to this power"""
    no_repeat_ngram_size: int = like("no_repeat_ngram_size", 0)
    """no n-gram of this size occurs twice; 0: no limit"""
    max_new_tokens: int = like("max_new_tokens", 0, AT_LEAST_0)
    """maximum number of generated tokens; 0: twice the number of tokens of the source plus 16"""
    min_new_tokens: int = like("min_new_tokens", 0)
    """minimum number of generated tokens"""
    suppress_tokens: tuple[int, ...] = like("suppress_tokens", ())
    """ids of tokens that are never generated"""
    begin_suppress_tokens: tuple[int, ...] = like("begin_suppress_tokens", ())
    """ids of tokens that are not generated first"""
    forced_eos_token_id: tuple[int, ...] = like("forced_eos_token_id", ())
    """ids of tokens, one of which must be generated last if the text reaches its limit, even if it
    is suppressed"""
    early_stopping: bool = like("early_stopping", False)
    """stop as soon as num_beams texts are complete, even if a better one could follow"""
    renormalize_logits: bool = like("renormalize_logits", False)
    """renormalize the probabilities over the tokens that are still allowed"""
    unsupported_settings: tuple[str, ...] = like("unsupported_settings", ())
    """settings in the model's folder that are not supported and would change the text: nothing is
    generated until this is ()"""

    def __post_init__(self) -> None:
        check_options(self)


class SequenceGeneration(TextModel):
    """Text model that generates texts from texts, by an encoder-decoder with beam search.

    Signatures, with the names INPUT and OUTPUT of the task (such as `text` and `translation`):
        serving_default: takes INPUT string [B], and returns OUTPUT string [B], the text with the
            best score that beam search finds; `score` float32 [B], its log-probability divided by
            its number of tokens to the power `length_penalty`; `generated_tokens` int32 [B],
            without the end token; `truncated_tokens` int32 [B], the number of tokens cut off the
            source; `finish_reason` string [B], "stop", or "length" if the text has reached its
            maximum length; `error` string [B].
        n_best: takes INPUT string [B], and returns OUTPUT string [B, num_beams], best first,
            `scores` float32 [B, num_beams] (-3.4e38 if fewer texts were found) and `error` string
            [B].

    Args:
        model: an encoder-decoder.
        tokenizer: tokenizer of the model.
        information: information of the task: `sequence_length`, the maximum number of tokens of a
            source and of a generated text.
        settings: settings of the search. Defaults to `SearchSettings()`.
        input_name: name of the input. Defaults to "text".
        output_name: name of the output. Defaults to "generated_text".
    """

    def __init__(
        self,
        model: EncoderDecoder | EncoderDecoderDecoder,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        settings: SearchSettings | None = None,
        *,
        input_name: str = "text",
        output_name: str = "generated_text",
        name: str = "sequence_generation",
    ) -> None:
        super().__init__(name=name)
        self.task_name = name
        decoder = EncoderDecoderDecoder(model) if isinstance(model, EncoderDecoder) else model
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.information = dict(information)
        self.settings = settings or SearchSettings()
        self.input_name = input_name
        self.output_name = output_name
        self.sequence_length = sequence_length_of(information, decoder.context)
        self._graph = tokenizer.graph()

    @property
    def model(self) -> EncoderDecoder:
        """The Keras model that is run."""
        return self.decoder.model

    @functools.cached_property
    def signatures(self) -> dict[str, Any]:
        """`serving_default` and `n_best`."""
        check_supported(self.settings.unsupported_settings)
        return {
            "serving_default": text_function(self._best, self.input_name),
            "n_best": text_function(self._n_best, self.input_name),
        }

    @property
    def served_state(self) -> dict[str, Any]:
        """The weights and the tokenizer."""
        return {"weights": self.decoder.weights, "tokenizer": self._graph}

    def with_dtype(self, dtype: str) -> SequenceGeneration:
        """A copy with another dtype, or itself if that is its dtype."""
        if dtype == self.decoder.dtype:
            return self
        return self._with(self.decoder.with_dtype(dtype), self.settings)

    def with_settings(self, settings: Mapping[str, Any]) -> SequenceGeneration:
        """A copy with some fields of `SearchSettings` changed."""
        values = {**dataclasses.asdict(self.settings), **present_names(settings)}
        return self._with(self.decoder, build(SearchSettings, values))

    def _with(self, decoder: EncoderDecoderDecoder, settings: SearchSettings) -> SequenceGeneration:
        return SequenceGeneration(
            decoder,
            self.tokenizer,
            self.information,
            settings,
            input_name=self.input_name,
            output_name=self.output_name,
            name=self.name,
        )

    # ------------------------------------------------------------------ in the graph

    def _best(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        result, error, cut = self._searched(text, tf.ones_like(text, tf.int32))
        good = (error == "") & (result.scores[:, 0] > -math.inf)
        return {
            self.output_name: self._texts(result)[:, 0],
            "score": tf.where(good, result.scores[:, 0], 0.0),
            "generated_tokens": result.lengths[:, 0],
            "truncated_tokens": cut,
            "finish_reason": tf.where(
                error != "", "error", tf.gather(["", "stop", "length"], result.ends[:, 0])
            ),
            "error": error,
        }

    def _n_best(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        all_beams = tf.fill(tf.shape(text), self.settings.num_beams)
        result, error, _ = self._searched(text, all_beams)
        return {
            self.output_name: self._texts(result),
            "scores": tf.maximum(result.scores, _MIN_SCORE),
            "error": error,
        }

    @functools.cached_property
    def _searched(self) -> Any:
        """One function for both signatures, so that a SavedModel contains the loop once."""
        specs = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int32)]
        return tf.function(self._search, input_signature=specs, autograph=False)

    def _search(
        self, text: tf.Tensor, num_wanted: tf.Tensor
    ) -> tuple[BeamResult, tf.Tensor, tf.Tensor]:
        """Results of the search; errors of rows, string [B]; tokens cut off, int32 [B]."""
        settings = self.settings
        error = tf.where(tf.strings.strip(text) == "", f"{self.input_name} is empty", "")
        ids = self._graph.tokenize(text, add_special=False, parse_special=False)
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        kept = tf.minimum(lengths, self.sequence_length - 1)
        kept = tf.where(error == "", kept, 0)
        end = equal_rows([self.tokenizer.end_token_id], ids.nrows())
        source = joined_rows(first_of_rows(ids, kept), end)
        most = 2 * kept + 16
        if settings.max_new_tokens:
            most = tf.fill(tf.shape(kept), settings.max_new_tokens)
        result = beam_search(
            self.decoder,
            source,
            tf.where(error == "", tf.minimum(most, self.sequence_length), 0),
            BeamOptions(
                width=settings.num_beams,
                num_wanted=num_wanted,
                length_penalty=settings.length_penalty,
                no_repeat_ngram_size=settings.no_repeat_ngram_size,
                token_rules=TokenRules.of(settings),
                renormalize=settings.renormalize_logits,
                early_stopping=settings.early_stopping,
            ),
            end_token_ids=tf.constant(self.tokenizer.end_token_ids, tf.int32),
        )
        return result, error, tf.where(error == "", lengths - kept, 0)

    def _texts(self, result: BeamResult) -> tf.Tensor:
        """The texts of results, string [B, N]."""
        shape = tf.shape(result.lengths)
        lengths = tf.reshape(result.lengths, [-1])
        width = tf.shape(result.token_ids)[2]
        ids = tf.reshape(result.token_ids, [tf.size(lengths), width])
        ragged = tf.RaggedTensor.from_tensor(ids, lengths=lengths)
        return tf.reshape(valid_text(self._graph.detokenize(ragged)), shape)
