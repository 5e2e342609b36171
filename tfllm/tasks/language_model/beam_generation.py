"""Prompts to the likeliest texts that beam search finds, for decoder-only models."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfllm.config import GenerationConfig
from tfllm.config.generation import LENGTH_PENALTIES
from tfllm.generation.beam_options import BeamOptions
from tfllm.generation.beam_search import beam_search
from tfllm.generation.decoding import LENGTH, Decoder
from tfllm.generation.option_inputs import option_tensors
from tfllm.generation.requests import read_request
from tfllm.generation.stream_state import valid_text
from tfllm.generation.token_rules import TokenRules

LEAST_SCORE = -3.4e38
"""of a text that was not found: JSON has no infinity"""


class BeamGeneration:
    """A search of one width, which the shapes of its results depend on.

    Args:
        decoder: the model.
        tokenize: string [B] to prompts, int32 `[B, (P)]`.
        width: unfinished texts that are kept of each prompt, and texts that are found.
        ngram: the number of tokens of sequences that do not come twice; 0: they may.
        settings: of the task, whose `FIXED_OPTIONS` are followed.
        end_token_ids: int32 `[E]`.
        token_bytes: string `[V]`.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenize: Callable[[tf.Tensor], tf.RaggedTensor],
        width: int,
        ngram: int,
        *,
        settings: GenerationConfig,
        end_token_ids: tf.Tensor,
        token_bytes: tf.Tensor,
    ) -> None:
        self._decoder = decoder
        self._tokenize = tokenize
        self._width = width
        self._ngram = ngram
        self._settings = settings
        self._end_token_ids = end_token_ids
        self._token_bytes = token_bytes

    @functools.cached_property
    def search(self) -> Any:
        """`tf.function`: prompts string, most new tokens int32, length penalty float32 and the
        number of texts that must be the best ones int32, each [B], to what `rows` reads."""
        types = [tf.string, tf.int32, tf.float32, tf.int32]
        specs = [tf.TensorSpec([None], t) for t in types]
        return tf.function(self._search, input_signature=specs, autograph=False)

    @functools.cached_property
    def signature(self) -> Any:
        """`tf.function`: `prompt` string, `max_new_tokens` int32 and `length_penalty` float32, each
        [B], to `texts` string, `scores` and `log_probs` float32, `generated_tokens` int32 and
        `finish_reason` string, each [B, width], the best first; `prompt_tokens` int32 and `error`
        string [B]. Where fewer texts were found, scores are -3.4e38."""

        def beam(
            prompt: tf.Tensor, max_new_tokens: tf.Tensor, length_penalty: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            wanted = tf.fill(tf.shape(prompt), self._width)
            return self.search(prompt, max_new_tokens, length_penalty, wanted)

        specs = [
            tf.TensorSpec([None], tf.string, "prompt"),
            tf.TensorSpec([None], tf.int32, "max_new_tokens"),
            tf.TensorSpec([None], tf.float32, "length_penalty"),
        ]
        return tf.function(beam, input_signature=specs, autograph=False)

    def best(
        self, prompt: tf.Tensor, max_new_tokens: tf.Tensor, length_penalty: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The best text of each prompt, as the signature `serving_default` gives it."""
        found = self.search(prompt, max_new_tokens, length_penalty, tf.ones_like(max_new_tokens))
        good = found["error"] == ""
        return {
            "text": found["texts"][:, 0],
            "prompt_tokens": found["prompt_tokens"],
            "generated_tokens": found["generated_tokens"][:, 0],
            "finish_reason": tf.where(good, found["finish_reason"][:, 0], "error"),
            "error": found["error"],
        }

    @staticmethod
    def rows(found: dict[str, tf.Tensor]) -> list[list[dict[str, Any]]]:
        """Of each row its texts, the best first, without those that were not found."""
        names = {
            "texts": "text",
            "scores": "score",
            "log_probs": "log_prob",
            "generated_tokens": "generated_tokens",
            "finish_reason": "finish_reason",
        }
        columns = {new: found[name].numpy() for name, new in names.items()}
        return [
            [
                {
                    name: value.decode() if isinstance(value, bytes) else value.item()
                    for name, value in ((name, values[row, i]) for name, values in columns.items())
                }
                for i in range(width)
                if columns["score"][row, i] > LEAST_SCORE / 2
            ]
            for row, width in enumerate([columns["score"].shape[1]] * len(columns["score"]))
        ]

    def _search(
        self,
        prompt: tf.Tensor,
        max_new_tokens: tf.Tensor,
        length_penalty: tf.Tensor,
        num_wanted: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        others = option_tensors(GenerationConfig(), tf.shape(prompt)[0])
        request = read_request(
            self._tokenize(prompt),
            {**others, "max_new_tokens": max_new_tokens},
            context=self._decoder.context,
            start_id=self._end_token_ids[0],
            max_length=self._settings.max_length,
            refused=tf.where(
                LENGTH_PENALTIES.holds(length_penalty),
                "",
                f"length_penalty {LENGTH_PENALTIES.rule}",
            ),
        )
        result = beam_search(
            self._decoder,
            request.prompts,
            request.limits,
            BeamOptions(
                width=self._width,
                length_penalty=tf.where(request.error == "", length_penalty, 0.0),
                no_repeat_ngram_size=self._ngram,
                num_wanted=num_wanted,
                token_rules=TokenRules.of(self._settings),
                renormalize=self._settings.renormalize_logits,
                early_stopping=self._settings.early_stopping,
            ),
            end_token_ids=self._end_token_ids,
        )
        places = tf.range(tf.shape(result.token_ids)[2])
        pieces = tf.where(
            places < result.lengths[..., tf.newaxis],
            tf.gather(self._token_bytes, result.token_ids),
            "",
        )
        found = result.scores > -math.inf
        return {
            "texts": valid_text(tf.strings.reduce_join(pieces, -1)),
            "scores": tf.maximum(result.scores, LEAST_SCORE),
            "log_probs": tf.maximum(result.log_probs, LEAST_SCORE),
            "generated_tokens": result.lengths,
            "finish_reason": tf.where(found, tf.where(result.ends == LENGTH, "length", "stop"), ""),
            "prompt_tokens": request.prompt_tokens,
            "error": request.error,
        }
