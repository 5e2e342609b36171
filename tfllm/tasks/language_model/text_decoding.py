"""Generate texts from prompts of token ids, in the graph: all at once, or token by token."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from tfllm.config import GenerationConfig
from tfllm.generation.decoding import Decoder, begin, decode, with_extended_cache
from tfllm.generation.option_inputs import OPTION_DTYPES
from tfllm.generation.prompt_lookup import DraftDecoder, advance, advance_to_draft
from tfllm.generation.requests import Request, read_request
from tfllm.generation.sampling import SamplingOptions
from tfllm.generation.stop_strings import StopStrings
from tfllm.generation.stream_state import counts, packed, unpacked, valid_text
from tfllm.generation.token_rules import TokenRules
from tfllm.tasks.graph_method import graph_method
from tfllm.tasks.language_model.beam_generation import BeamSearches

_NO_DRAFTS = (
    "prompt_lookup_tokens must be 0 for this model: its decoder runs one token of a row at a time, "
    "and cannot check drafts"
)


class TextDecoding:
    """Decoding of prompts of token ids, with options per row.

    Args:
        decoder: decoder of the model.
        settings: generation settings of the task, whose token rules are applied.
        end_token_ids: ids of end tokens, int32 `[E]`.
        token_bytes: bytes of each token, string `[V]`.
    """

    def __init__(
        self,
        decoder: Decoder,
        settings: GenerationConfig,
        *,
        end_token_ids: tf.Tensor,
        token_bytes: tf.Variable,
    ) -> None:
        self._decoder = decoder
        self._settings = settings
        self._end_token_ids = end_token_ids
        self._token_bytes = token_bytes

    def continued(
        self,
        prompts: tf.RaggedTensor,
        options: dict[str, tf.Tensor],
        refused: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """The outputs of the signature `generate`.

        Args:
            prompts: token ids, int32 `[B, (P)]`.
            options: tensors `[B]` by name, with the dtypes in `OPTION_DTYPES`.
            refused: errors of rows found so far, or "", string `[B]`.
        """
        request = self._request(prompts, options, refused)
        result = self._decode_rows(
            ids=request.prompts.values,
            row_splits=request.prompts.row_splits,
            limits=request.limits,
            stop=request.stops.joined,
            error=request.error,
            **request.options._asdict(),
        )
        return {**result, "prompt_tokens": request.prompt_tokens}

    @graph_method(
        tf.TensorSpec([None], tf.int32, "ids"),
        tf.TensorSpec([None], tf.int64, "row_splits"),
        tf.TensorSpec([None], tf.int32, "limits"),
        tf.TensorSpec([None], tf.string, "stop"),
        tf.TensorSpec([None], tf.string, "error"),
        *(tf.TensorSpec([None], OPTION_DTYPES[name], name) for name in SamplingOptions._fields),
    )
    def _decode_rows(
        self,
        ids: tf.Tensor,
        row_splits: tf.Tensor,
        limits: tf.Tensor,
        stop: tf.Tensor,
        error: tf.Tensor,
        **options: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """One function for all signatures, so that a SavedModel contains the decoding loop once."""
        stops = StopStrings(stop)
        state = decode(
            self._decoder,
            tf.RaggedTensor.from_row_splits(ids, row_splits, validate=False),
            limits,
            SamplingOptions(**options),
            stops=stops,
            advance=advance_to_draft,
            **self._rules,
        )
        text = stops.cut(valid_text(state.text))
        return {"text": tf.where(error == "", text, ""), **counts(state, error)}

    def first_token(
        self, prompts: tf.RaggedTensor, options: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """The state after the first token; arguments as in `continued`."""
        request = self._request(prompts, options)
        state = begin(
            self._decoder,
            request.prompts,
            request.limits,
            request.options,
            stops=request.stops,
            **self._rules,
        )
        return packed(state, request.options, request.stops, request.error)

    def next_token(self, state: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The state after the next token, or after several of a draft (see `prompt_lookup`)."""
        decoding, options, stops, error = unpacked(state, self._decoder.cache_structure)
        decoding = with_extended_cache(self._decoder, decoding)
        decoding = advance(self._decoder, decoding, options, stops=stops, **self._rules)
        return packed(decoding, options, stops, error)

    @functools.cached_property
    def beams(self) -> BeamSearches:
        """The beam searches with the same model and rules."""
        return BeamSearches(
            self._decoder,
            settings=self._settings,
            end_token_ids=self._end_token_ids,
            token_bytes=self._token_bytes,
        )

    @property
    def _rules(self) -> dict[str, Any]:
        return {
            "end_token_ids": self._end_token_ids,
            "token_bytes": tf.convert_to_tensor(self._token_bytes),
            "token_rules": TokenRules.of(self._settings),
        }

    def _request(
        self,
        prompts: tf.RaggedTensor,
        options: dict[str, tf.Tensor],
        refused: tf.Tensor | None = None,
    ) -> Request:
        """The request for decoding; arguments as in `continued`."""
        if not isinstance(self._decoder, DraftDecoder):
            given = options["prompt_lookup_tokens"] != 0
            unsupported = tf.where(given, _NO_DRAFTS, "")
            refused = unsupported if refused is None else tf.where(given, unsupported, refused)
        return read_request(
            prompts,
            options,
            context=self._decoder.context,
            start_id=self._end_token_ids[0],
            max_length=self._settings.max_length,
            refused=refused,
        )


def padded_token_bytes(token_bytes: tf.Variable, unused: int) -> tf.Variable:
    """The bytes of each id of a model, string `[V]`.

    Args:
        token_bytes: bytes of each id of the tokenizer, string `[vocab_size]`.
        unused: number of further ids of the model, which have no token: its embedding is padded to
            a round number.
    """
    if not unused:
        return token_bytes
    with tf.device("/CPU:0"):
        padded = tf.concat([tf.convert_to_tensor(token_bytes), [""] * unused], 0)
        return tf.Variable(padded, trainable=False, name="token_bytes")
