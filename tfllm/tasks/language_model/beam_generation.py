"""Generate texts by beam search, for decoder-only models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfllm.config import ConfigError, GenerationConfig
from tfllm.config.generation import LENGTH_PENALTIES
from tfllm.generation.beam_options import BeamOptions
from tfllm.generation.beam_search import beam_search
from tfllm.generation.decoding import LENGTH, Decoder
from tfllm.generation.option_inputs import option_tensors
from tfllm.generation.requests import read_request
from tfllm.generation.stream_state import valid_text
from tfllm.generation.token_rules import TokenRules
from tfllm.tasks.graph_method import graph_method, text_input
from tfllm.tasks.language_model.request_rows import checked

MIN_SCORE = -3.4e38
"""score of a text that was not found, since JSON has no infinity"""


class BeamGeneration:
    """Beam search with a fixed width, which determines the shapes of its results.

    Args:
        decoder: decoder of the model.
        tokenize: function from strings [B] to prompts, int32 `[B, (P)]`.
        width: number of beams, and of texts that are returned per prompt.
        ngram: size of n-grams that must not repeat; 0: no limit.
        settings: generation settings of the task, whose options that are fixed for a task are used.
        end_token_ids: ids of end tokens, int32 `[E]`.
        token_bytes: bytes of each token, string `[V]`.
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
        token_bytes: tf.Variable,
    ) -> None:
        self._decoder = decoder
        self._tokenize = tokenize
        self._width = width
        self._ngram = ngram
        self._settings = settings
        self._end_token_ids = end_token_ids
        self._token_bytes = token_bytes

    @graph_method(
        text_input("prompt"),
        tf.TensorSpec([None], tf.int32, "max_new_tokens"),
        tf.TensorSpec([None], tf.float32, "length_penalty"),
    )
    def signature(
        self, prompt: tf.Tensor, max_new_tokens: tf.Tensor, length_penalty: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """`tf.function` of the signature `beam`.

        It takes `prompt` string, `max_new_tokens` int32 and `length_penalty` float32, each [B], and
        returns `texts` string, `scores` and `log_probs` float32, `generated_tokens` int32 and
        `finish_reason` string, each [B, width], best first; `prompt_tokens` int32 and `error`
        string, each [B]. If fewer texts are found, the other scores are -3.4e38.
        """
        wanted = tf.fill(tf.shape(prompt), self._width)
        return self.search(prompt, max_new_tokens, length_penalty, wanted)

    def input_defaults(
        self, batch: int | tf.Tensor = 1, max_new_tokens: int | None = None
    ) -> dict[str, tf.Tensor]:
        """The inputs of `signature` other than the prompt, each `[batch]`, from the settings.

        Args:
            batch: number of rows. Defaults to 1.
            max_new_tokens: overrides that of the settings.
        """
        most = self._settings.max_new_tokens if max_new_tokens is None else max_new_tokens
        penalty = tf.constant(self._settings.length_penalty, tf.float32)
        return {
            "max_new_tokens": tf.fill([batch], min(most, 2**31 - 1)),
            "length_penalty": tf.fill([batch], penalty),
        }

    def best(
        self, prompt: tf.Tensor, max_new_tokens: tf.Tensor, length_penalty: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The best text for each prompt, in the form of the signature `serving_default`."""
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
        """The texts for each row, best first, without those that were not found."""
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
                if columns["score"][row, i] > MIN_SCORE / 2
            ]
            for row, width in enumerate([columns["score"].shape[1]] * len(columns["score"]))
        ]

    @graph_method(
        text_input("prompt"),
        tf.TensorSpec([None], tf.int32, "max_new_tokens"),
        tf.TensorSpec([None], tf.float32, "length_penalty"),
        tf.TensorSpec([None], tf.int32, "num_wanted"),
    )
    def search(
        self,
        prompt: tf.Tensor,
        max_new_tokens: tf.Tensor,
        length_penalty: tf.Tensor,
        num_wanted: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """`tf.function` from prompts string, maximum number of new tokens int32, length penalty
        float32 and number of wanted texts int32, each [B], to the outputs that `rows` reads."""
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
            tf.gather(tf.convert_to_tensor(self._token_bytes), result.token_ids),
            "",
        )
        found = result.scores > -math.inf
        return {
            "texts": valid_text(tf.strings.reduce_join(pieces, -1)),
            "scores": tf.maximum(result.scores, MIN_SCORE),
            "log_probs": tf.maximum(result.log_probs, MIN_SCORE),
            "generated_tokens": result.lengths,
            "finish_reason": tf.where(found, tf.where(result.ends == LENGTH, "length", "stop"), ""),
            "prompt_tokens": request.prompt_tokens,
            "error": request.error,
        }


class BeamSearches:
    """The beam searches of a task, one for each width, n-gram size and function that tokenizes.

    Args: as in `BeamGeneration`.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        settings: GenerationConfig,
        end_token_ids: tf.Tensor,
        token_bytes: tf.Variable,
    ) -> None:
        self._decoder = decoder
        self._settings = settings
        self._options: dict[str, Any] = {
            "settings": settings,
            "end_token_ids": end_token_ids,
            "token_bytes": token_bytes,
        }
        self._made: dict[Any, BeamGeneration] = {}

    def of(
        self, tokenize: Callable[[tf.Tensor], tf.RaggedTensor], width: int, ngram: int
    ) -> BeamGeneration:
        """The beam search with these arguments of `BeamGeneration`."""
        key = (tokenize, width, ngram)
        if key not in self._made:
            self._made[key] = BeamGeneration(self._decoder, tokenize, width, ngram, **self._options)
        return self._made[key]

    def of_settings(self, tokenize: Callable[[tf.Tensor], tf.RaggedTensor]) -> BeamGeneration:
        """The beam search with the settings of the task."""
        return self.of(tokenize, self._settings.num_beams, self._settings.no_repeat_ngram_size)

    def found(
        self,
        tokenize: Callable[[tf.Tensor], tf.RaggedTensor],
        rows: Sequence[bytes],
        given: Sequence[GenerationConfig],
        *,
        all_beams: bool = False,
    ) -> list[list[dict[str, Any]]]:
        """The results of beam search for each row, best first.

        Args:
            tokenize: function from strings [B] to prompts, int32 `[B, (P)]`.
            rows: the prompts.
            given: configuration of each row.
            all_beams: search until all texts of a row are the best ones, not only the first.

        Raises:
            ConfigError: the rows differ in the width or the n-gram size.
            ValueError: a row has an error.
        """
        if not rows:
            return []
        kinds = {(g.num_beams, g.no_repeat_ngram_size) for g in given}
        if len(kinds) > 1:
            raise ConfigError(
                "num_beams and no_repeat_ngram_size must be the same for all prompts of a call; "
                f"received {sorted(kinds)}"
            )
        result = self.of(tokenize, *kinds.pop()).search(
            tf.constant(rows),
            tf.constant([min(g.max_new_tokens, 2**31 - 1) for g in given]),
            tf.constant([g.length_penalty for g in given]),
            tf.constant([g.num_beams if all_beams else 1 for g in given]),
        )
        return BeamGeneration.rows(checked(result))

    def best_texts(
        self,
        tokenize: Callable[[tf.Tensor], tf.RaggedTensor],
        rows: Sequence[bytes],
        given: Sequence[GenerationConfig],
    ) -> list[str]:
        """The best text of each row, or "" if none is found; arguments and errors as in `found`."""
        return [texts[0]["text"] if texts else "" for texts in self.found(tokenize, rows, given)]
