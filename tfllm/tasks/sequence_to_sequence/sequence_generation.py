"""Text to text by an encoder-decoder and beam search, the same function locally and served."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfllm.config import build
from tfllm.config.generation import check_followed, check_options, like
from tfllm.config.rules import AT_LEAST_0
from tfllm.generation.beam_options import BeamOptions
from tfllm.generation.beam_search import BeamResult, beam_search
from tfllm.generation.encoder_decoder_decoder import EncoderDecoderDecoder
from tfllm.generation.stream_state import valid_text
from tfllm.generation.token_rules import TokenRules
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.tasks.encoder.encoder_inputs import first_tokens
from tfllm.tasks.text_model import TextModel, sequence_length_of, text_function
from tfllm.tokenizers.base import Tokenizer

_LEAST_SCORE = -3.4e38
"""of a text that was not found: JSON has no infinity"""


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How texts are searched."""

    num_beams: int = like("num_beams", 4)
    """unfinished texts that are kept; 1 is greedy decoding"""
    length_penalty: float = like("length_penalty", 1.0)
    """a score is the log-probability divided by the number of tokens to this power"""
    no_repeat_ngram_size: int = like("no_repeat_ngram_size", 0)
    """no text has a sequence of so many tokens twice; 0: it may"""
    max_new_tokens: int = like("max_new_tokens", 0, AT_LEAST_0)
    """the most tokens of a text; 0: twice as many as its source has, and 16"""
    min_new_tokens: int = like("min_new_tokens", 0)
    """no text ends before it has so many tokens"""
    suppress_tokens: tuple[int, ...] = like("suppress_tokens", ())
    """ids of tokens that no text has"""
    begin_suppress_tokens: tuple[int, ...] = like("begin_suppress_tokens", ())
    """ids of tokens that no text begins with"""
    forced_eos_token_id: tuple[int, ...] = like("forced_eos_token_id", ())
    """the last token that a text may have, at its limit, is one of these ids, suppressed or not"""
    early_stopping: bool = like("early_stopping", False)
    """stop at the num_beams-th complete text, whether or not a better one can follow"""
    renormalize_logits: bool = like("renormalize_logits", False)
    """the probabilities of the tokens that may come add up to 1, and not those of all"""
    not_followed: tuple[str, ...] = like("not_followed", ())
    """settings that the model's folder asks for and that are not followed: no text is made until
    this is ()"""

    def __post_init__(self) -> None:
        check_options(self)


class SequenceGeneration(TextModel):
    """An encoder-decoder and its tokenizer as a function from text to text.

    Signatures, with INPUT and OUTPUT as the task names them (`text` and `translation`):
        serving_default: INPUT string [B] to OUTPUT string [B], the text with the best score that
            beam search finds; `score` float32 [B], its log-probability divided by its number of
            tokens to the power `length_penalty`; `generated_tokens` int32 [B], without the end
            token; `truncated_tokens` int32 [B], those of the source that did not fit and were not
            read; `finish_reason` string [B], "stop", or "length" where the text ends at the most
            tokens it may have; `error` string [B].
        n_best: INPUT string [B] to OUTPUT string [B, num_beams], the best first, `scores` float32
            [B, num_beams] (-3.4e38 where fewer texts were found) and `error` string [B].

    Args:
        model: an encoder-decoder.
        tokenizer: of the model.
        information: `sequence_length`, the most tokens of a source and of a text.
        settings: of the search.
        input_name: of the source.
        output_name: of the text.
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
        check_followed(self.settings.not_followed)
        return {
            "serving_default": text_function(self._best, self.input_name),
            "n_best": text_function(self._n_best, self.input_name),
        }

    @property
    def served_state(self) -> dict[str, Any]:
        """The weights and the tokenizer."""
        return {"weights": self.decoder.weights, "tokenizer": self._graph}

    def with_dtype(self, dtype: str) -> SequenceGeneration:
        """The same with another dtype, or itself."""
        if dtype == self.decoder.dtype:
            return self
        return self._with(self.decoder.with_dtype(dtype), self.settings)

    def with_settings(self, settings: Mapping[str, Any]) -> SequenceGeneration:
        """The same with other fields of `SearchSettings`."""
        values = {**dataclasses.asdict(self.settings), **settings}
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
            "scores": tf.maximum(result.scores, _LEAST_SCORE),
            "error": error,
        }

    @functools.cached_property
    def _searched(self) -> Any:
        """One function for both signatures, so that a SavedModel holds the loop once."""
        specs = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int32)]
        return tf.function(self._search, input_signature=specs, autograph=False)

    def _search(
        self, text: tf.Tensor, num_wanted: tf.Tensor
    ) -> tuple[BeamResult, tf.Tensor, tf.Tensor]:
        """What is found; what is wrong with a row, string [B]; its tokens cut off, int32 [B]."""
        settings = self.settings
        error = tf.where(tf.strings.strip(text) == "", f"{self.input_name} is empty", "")
        ids = self._graph.tokenize(text, add_special=False, parse_special=False)
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        kept = tf.minimum(lengths, self.sequence_length - 1)
        kept = tf.where(error == "", kept, 0)
        end = tf.fill([tf.shape(text)[0], 1], tf.constant(self.tokenizer.end_token_id, tf.int32))
        source = tf.concat([first_tokens(ids, kept), end], 1)
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
        """String [B, N]."""
        shape = tf.shape(result.lengths)
        lengths = tf.reshape(result.lengths, [-1])
        width = tf.shape(result.token_ids)[2]
        ids = tf.reshape(result.token_ids, [tf.size(lengths), width])
        ragged = tf.RaggedTensor.from_tensor(ids, lengths=lengths)
        return tf.reshape(valid_text(self._graph.detokenize(ragged)), shape)
