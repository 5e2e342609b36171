"""Score texts by the log-probability of each token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfllm.generation.decoding import Decoder
from tfllm.tasks.json_rows import json_lists, json_numbers
from tfllm.tokenizers.graph.ragged_rows import first_of_rows

_MOST_LOSS = 88.0  # the exponential of more is infinite in float32, which JSON cannot represent


def token_scores(
    decoder: Decoder, ids: tf.RaggedTensor, begin_ids: Sequence[int]
) -> dict[str, tf.Tensor]:
    """Log-probability of each token, given those before it.

    A text is preceded by a begin token only if the tokenizer adds one. Without it, the first token
    cannot be predicted: it is not scored, its log-probability is 0, and the perplexity is that of
    the other tokens.

    Args:
        decoder: decoder of the model.
        ids: token ids without a begin token, int32 `[B, (T)]`.
        begin_ids: ids that the tokenizer puts before each text: a begin token, or none.

    Returns:
        `num_tokens` int32 `[B]`; `log_prob`, the sum over the scored tokens, and `perplexity`, the
        exponential of their mean loss, float32 `[B]`; `token_ids_json` and `token_log_probs_json`
        string `[B]`, in each row a JSON list with a number per token; `error` string `[B]`, if a
        text is longer than the context, which then counts as empty.
    """
    context = decoder.context + 1 - max(len(begin_ids), 1)
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    too_long = lengths > context
    rule = f"the text must have at most {context} tokens, the model's context; it has "
    error = tf.where(too_long, tf.strings.join([rule, tf.strings.as_string(lengths)]), "")
    lengths = tf.where(too_long, 0, lengths)
    scored = first_of_rows(ids, lengths)
    labels = scored.to_tensor(default_value=-1)
    # At least one column, since all texts may be empty.
    missing = tf.maximum(1 - tf.shape(labels)[1], 0)
    labels = tf.pad(labels, [[0, 0], [0, missing]], constant_values=-1)
    known = tf.maximum(labels, 0)
    if begin_ids:
        begin = tf.repeat(tf.constant([list(begin_ids)]), tf.shape(labels)[0], axis=0)
        whole = tf.concat([begin, known], 1)
        log_probs = -decoder.token_losses(whole[:, :-1], whole[:, 1:])[:, len(begin_ids) - 1 :]
        num_scored = lengths
    else:
        # As wide as the labels, so that it is never empty; the prediction after the last token is
        # dropped.
        log_probs = -decoder.token_losses(known, tf.roll(known, -1, axis=1))
        log_probs = tf.pad(log_probs, [[0, 0], [1, 0]])[:, :-1]
        num_scored = tf.maximum(lengths - 1, 0)
    is_token = labels >= 0
    log_probs = tf.where(is_token, log_probs, 0.0)
    log_prob = tf.reduce_sum(log_probs, -1)
    mean = tf.math.divide_no_nan(log_prob, tf.cast(num_scored, tf.float32))
    rows, batch = scored.value_rowids(), scored.nrows()

    def of_tokens(values: tf.Tensor) -> tf.Tensor:
        return json_lists(json_numbers(values), rows, batch)

    return {
        "num_tokens": lengths,
        "log_prob": log_prob,
        "perplexity": tf.exp(tf.minimum(-mean, _MOST_LOSS)),
        "token_ids_json": of_tokens(scored.values),
        "token_log_probs_json": of_tokens(tf.boolean_mask(log_probs, is_token)),
        "error": error,
    }


def scores_of(result: dict[str, tf.Tensor]) -> list[dict[str, Any]]:
    """The results of `token_scores` as Python values, one dictionary per row."""
    names = ("num_tokens", "log_prob", "perplexity", "token_log_probs_json")
    return [
        {
            "num_tokens": int(num),
            "log_prob": float(log_prob),
            "perplexity": float(perplexity),
            "token_log_probs": json.loads(log_probs),
        }
        for num, log_prob, perplexity, log_probs in zip(
            *(result[name].numpy() for name in names), strict=True
        )
    ]
