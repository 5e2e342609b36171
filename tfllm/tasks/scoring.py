"""How likely a model finds a text, token by token."""

from __future__ import annotations

import tensorflow as tf

from tfllm.generation.decoding import Decoder
from tfllm.generation.requests import shortened
from tfllm.tasks.json_rows import json_lists, json_numbers

_MOST_LOSS = 88.0  # exp of more is infinite in float32, which JSON cannot carry


def token_scores(
    decoder: Decoder, ids: tf.RaggedTensor, start_id: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Log-probability of each token, given those before it.

    Args:
        decoder: the model.
        ids: int32 `[B, (T)]`.
        start_id: int32 scalar: what the first token is predicted from.

    Returns:
        `num_tokens` int32 `[B]`; `log_prob`, the whole text's, and `perplexity`, a token's, float32
        `[B]`; `token_ids_json` and `token_log_probs_json` string `[B]`, each row a JSON list with
        a number for each token; `error` string `[B]`: that a text is longer than the context,
        which then counts as empty.
    """
    context = decoder.context
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    too_long = lengths > context
    rule = f"the text must have at most {context} tokens, the model's context; it has "
    error = tf.where(too_long, tf.strings.join([rule, tf.strings.as_string(lengths)]), "")
    lengths = tf.where(too_long, 0, lengths)
    scored = shortened(ids, lengths, context)
    labels = scored.to_tensor(default_value=-1)
    # At least one column: there may be nothing but empty texts.
    missing = tf.maximum(1 - tf.shape(labels)[1], 0)
    labels = tf.pad(labels, [[0, 0], [0, missing]], constant_values=-1)
    start = tf.fill([tf.shape(labels)[0], 1], start_id)
    known = tf.maximum(labels, 0)
    losses = decoder.token_losses(tf.concat([start, known], 1)[:, :-1], known)
    is_token = labels >= 0
    log_probs = tf.where(is_token, -losses, 0.0)
    log_prob = tf.reduce_sum(log_probs, -1)
    mean = tf.math.divide_no_nan(log_prob, tf.cast(lengths, tf.float32))
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
