"""Fill gaps in texts, and measure how well a model predicts masked tokens."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfllm.models.heads.masked_language_model import MaskedLanguageModel
from tfllm.models.token_masking import TokenMasking, mask_tokens
from tfllm.tasks.encoder.encoder_inputs import inputs_with_special_tokens
from tfllm.tasks.encoder.encoder_text_model import EncoderTextModel
from tfllm.tasks.text_model import MAX_OPEN_BATCH, text_function
from tfllm.tokenizers.graph.ragged_rows import first_of_rows

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

NUM_PREDICTED = 5
"""number of tokens that are predicted for a gap"""
_SCORE = "score"


def token_masking(tokenizer: Tokenizer, seed: int) -> TokenMasking:
    """The masking of a tokenizer's tokens, except for special ones."""
    return TokenMasking(
        tokenizer.special_id("mask_token"), tuple(tokenizer.special_tokens.values()), seed=seed
    )


class GapFilling(EncoderTextModel):
    """Text model that fills gaps in texts, and measures how well it predicts masked tokens.

    Signatures with the input `text`, string [B]:

        serving_default: takes a text with the mask token, such as "Paris is the [MASK] of France.",
            and returns `tokens` string [B, 5] and `probabilities` float32 [B, 5] for its first gap,
            most probable first; `truncated_tokens` int32 [B], the number of tokens that were cut
            off; `error` string [B] ("", or that there is no gap: then `tokens` are empty).
        score: masks a fraction of the tokens, always the same ones for a text, and returns
            `num_hidden` and `num_right` int32 [B], the numbers of masked and of correctly predicted
            tokens, and `log_prob` float32 [B], the sum of their log-probabilities;
            `truncated_tokens` int32 [B], the number of tokens that were cut off before masking.

    A text is truncated to the sequence length that the model was trained with.

    Args:
        model: masked language model.
        tokenizer: tokenizer of the model.
        information: information of the task.
    """

    task_name = "masked_language_model"

    warmup_texts = ("The [MASK].", "")

    def __init__(
        self, model: MaskedLanguageModel, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> None:
        super().__init__(model, tokenizer, information)
        self._masking = token_masking(tokenizer, 0)

    @functools.cached_property
    def signatures(self) -> dict[str, Any]:
        """`serving_default` and `score`."""
        return {
            "serving_default": text_function(self._fill, "text"),
            _SCORE: text_function(self._score, "text"),
        }

    def predict(
        self, records: Sequence[Mapping[str, Any]], *, batch_size: int = MAX_OPEN_BATCH
    ) -> list[dict[str, Any]]:
        """The tokens for the first gap by probability, and the outputs of `score`.

        There is only an `error` if a text has neither a gap nor a token to mask.
        """
        answers = super().predict(records, batch_size=batch_size)
        texts = [record["text"].encode("utf-8", "surrogatepass") for record in records]
        for begin in range(0, len(texts), batch_size):
            scores = self.signatures[_SCORE](tf.constant(texts[begin : begin + batch_size]))
            for name, values in scores.items():
                for i, value in enumerate(values.numpy().tolist()):
                    answers[begin + i][name] = value
        for answer in answers:
            tokens, probabilities = answer.pop("tokens"), answer.pop("probabilities")
            found: dict[str, float] = {}
            for token, probability in zip(tokens, probabilities, strict=True):
                found.setdefault(token, probability)  # special ones are all ""
            answer["tokens"] = {} if answer["error"] else found
            if answer["num_hidden"]:  # it could be scored
                answer["error"] = ""
        return answers

    # ------------------------------------------------------------------ in the graph

    def _encoded(self, text: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.RaggedTensor, tf.Tensor]:
        """Inputs of the model; all tokens of each text; the number of tokens that are cut off."""
        ids = self._graph.tokenize(text, add_special=False, parse_special=True)
        num_tokens = tf.cast(ids.row_lengths(), tf.int32)
        lengths = tf.minimum(num_tokens, self.sequence_length - 2)
        inputs = inputs_with_special_tokens(self.tokenizer, first_of_rows(ids, lengths))
        del inputs["token_type_ids"]  # all are 0
        return inputs, ids, num_tokens - lengths

    def _fill(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs, ids_of_text, num_truncated = self._encoded(text)
        states, _ = self.model.encoder.hidden_states(inputs)
        gaps = inputs["token_ids"] == self._masking.mask_token_id
        gap = tf.argmax(tf.cast(gaps, tf.int32), 1)  # the first
        logits = self.model.logits(tf.gather(states, gap, batch_dims=1))
        # An embedding that was rounded up in size has rows without a token.
        logits = logits[:, : self.tokenizer.vocab_size]
        values, ids = tf.math.top_k(tf.nn.softmax(logits), NUM_PREDICTED)
        good = tf.reduce_any(gaps, 1)
        tokens = tf.gather(tf.convert_to_tensor(self._graph.token_bytes), ids)
        is_cut = tf.reduce_any(ids_of_text == self._masking.mask_token_id, 1)
        error = tf.where(
            is_cut,
            f"the mask token comes after the first {self.sequence_length - 2} tokens, at which the "
            "text is truncated",
            "the text has no mask token",
        )
        return {
            "tokens": tf.where(good[:, tf.newaxis], tokens, ""),
            "probabilities": values * tf.cast(good, tf.float32)[:, tf.newaxis],
            "truncated_tokens": num_truncated,
            "error": tf.where(good, "", error),
        }

    def _score(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs, _, num_truncated = self._encoded(text)
        given = inputs["token_ids"]
        vocab_size = self.model.config.vocab_size
        rows = mask_tokens(given, inputs["padding_mask"], -1, self._masking, vocab_size)
        states, _ = self.model.encoder.hidden_states({**inputs, "token_ids": rows.token_ids})
        place = tf.where(rows.hidden)
        logits = self.model.logits(tf.gather_nd(states, place))
        labels = tf.gather_nd(given, place)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        right = tf.cast(tf.argmax(logits, -1, tf.int32) == labels, tf.int32)
        batch = tf.shape(text)[0]
        return {
            "num_hidden": tf.reduce_sum(tf.cast(rows.hidden, tf.int32), 1),
            "num_right": tf.math.unsorted_segment_sum(right, place[:, 0], batch),
            "log_prob": -tf.math.unsorted_segment_sum(losses, place[:, 0], batch),
            "truncated_tokens": num_truncated,
        }
