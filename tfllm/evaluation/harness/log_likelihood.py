"""Log-likelihoods of texts given their contexts, by the protocol of lm-evaluation-harness.

A context and its continuation are tokenized as one text, with a begin token only if the tokenizer
adds one. White space at the end of the context is moved to the continuation, as most vocabularies
have tokens that begin with a space. Texts longer than the model's context are truncated at their
beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfllm.evaluation.harness.harness import in_batches
from tfllm.evaluation.harness.prompts import encoded, fitting, is_local
from tfllm.generation.decoding import Decoder
from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.begin_token import prefix_token_id


class LogLikelihood(NamedTuple):
    """Log-likelihood of a continuation, given its context."""

    log_prob: float
    """sum of the log-probabilities of the continuation's tokens, in nats"""
    num_tokens: int
    """number of tokens in the continuation"""
    num_truncated: int
    """number of tokens (for a served model: characters) cut off at the beginning of the context to
    fit into the model's context"""


class Pair(NamedTuple):
    """A context and its continuation, as token ids."""

    context: list[int]
    continuation: list[int]


def log_likelihoods(
    model: Any, pairs: Sequence[tuple[str, str]], *, batch_size: int = 16
) -> list[LogLikelihood]:
    """Log-likelihoods of continuations, given their contexts.

    An empty context is replaced by the prefix token (`prefix_token_id`). So is a context of white
    space, which is moved to the continuation; lm-evaluation-harness fails there without a begin
    token.

    Args:
        model: a `TextGeneration`; or the `Client` of a served one, which scores whole texts. With a
            client, the first token after an empty context has no context at all, long texts are
            truncated by characters, and a context is assumed to end between tokens.
        pairs: pairs of a context and its continuation.
        batch_size: pairs per batch. Defaults to 16.

    Raises:
        ValueError: a continuation is empty, or by itself longer than the model's context.
    """
    for number, (_, continuation) in enumerate(pairs, 1):
        if not continuation:
            raise ValueError(f"a continuation must not be empty; that of pair {number} is")
    if not is_local(model):
        return _served(model, pairs, batch_size)
    encoded = [encode_pair(model.tokenizer, *pair) for pair in pairs]
    for pair in encoded:
        if len(pair.continuation) > model.decoder.context:
            raise ValueError(
                "a continuation must have at most as many tokens as the model's context "
                f"({model.decoder.context}); received one of {len(pair.continuation)}"
            )
    return _of_pairs(model.decoder, encoded, batch_size)


def rolling_log_likelihoods(
    model: Any, texts: Sequence[str], *, batch_size: int = 16
) -> list[LogLikelihood]:
    """Log-likelihoods of whole texts, whose first token is predicted from the prefix token.

    A text longer than the model's context is divided into windows of that length. Each token counts
    once; the tokens of later windows have at least one token of context, and the last window
    overlaps the previous one so far that it is full.

    Args:
        model: a `TextGeneration`.
        texts: the texts.
        batch_size: windows per batch. Defaults to 16.

    Raises:
        ValueError: the model is a `Client`, which does not give access to the tokenizer.
    """
    if not is_local(model):
        raise ValueError(
            "log-likelihoods of whole texts need the model's tokenizer, which a served model does "
            f"not provide; received {type(model).__name__}: give the model's folder"
        )
    windows: list[Pair] = []
    counts = []
    for text in texts:
        found = rolling_windows(
            encoded(model.tokenizer, text), prefix_token_id(model.tokenizer), model.decoder.context
        )
        counts.append(len(found))
        windows += found
    parts = iter(_of_pairs(model.decoder, windows, batch_size))
    results = []
    for count in counts:
        own = [next(parts) for _ in range(count)]
        results.append(LogLikelihood(sum(p.log_prob for p in own), sum(p[1] for p in own), 0))
    return results


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Pair:
    """Context and continuation as token ids, tokenized as one text."""
    before = context.rstrip()
    continuation = context[len(before) :] + continuation
    if not before:
        prefix = prefix_token_id(tokenizer)
        ids = tokenizer.encode(continuation, add_special=False)
        return Pair(ids[:1], ids[1:]) if ids[:1] == [prefix] else Pair([prefix], ids)
    ids = encoded(tokenizer, before)
    return Pair(ids, encoded(tokenizer, before + continuation)[len(ids) :])


def rolling_windows(ids: Sequence[int], prefix: int, length: int) -> list[Pair]:
    """The windows of a text, each with at most `length` input tokens."""
    whole = [prefix, *ids]
    windows = []
    done = 0
    while done < len(ids):
        end = min(done + length, len(ids))
        begin = max(end - length, 0)  # start of the window's input tokens
        windows.append(Pair(whole[begin : done + 1], whole[done + 1 : end + 1]))
        done = end
    return windows


def _of_pairs(decoder: Decoder, pairs: Sequence[Pair], batch_size: int) -> list[LogLikelihood]:
    losses_of = _loss_function(decoder)

    def answer(some: list[Pair]) -> list[LogLikelihood]:
        rows = [[*pair.context, *pair.continuation][-(decoder.context + 1) :] for pair in some]
        padded = np.zeros((len(rows), max(map(len, rows))), np.int32)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        losses = losses_of(tf.constant(padded)).numpy()
        answers = []
        for pair, row, own in zip(some, rows, losses, strict=True):
            end, size = len(row) - 1, len(pair.continuation)
            answers.append(
                LogLikelihood(
                    -float(own[end - size : end].sum(dtype=np.float64)),
                    size,
                    len(pair.context) + size - len(row),
                )
            )
        return answers

    return in_batches(pairs, answer, batch_size, size=lambda pair: sum(map(len, pair)))


def _loss_function(decoder: Decoder) -> Callable[[tf.Tensor], tf.Tensor]:
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)], autograph=False)
    def losses_of(ids: tf.Tensor) -> tf.Tensor:
        return decoder.token_losses(ids[:, :-1], ids[:, 1:])

    return losses_of


# ------------------------------------------------------------------ a served model


def _served(model: Any, pairs: Sequence[tuple[str, str]], batch_size: int) -> list[LogLikelihood]:
    """Log-likelihoods from the scores of whole texts, of which the context's tokens are skipped."""
    befores = [context.rstrip() for context, _ in pairs]
    wholes = [context + continuation for context, continuation in pairs]
    texts = [text for text in dict.fromkeys([*wholes, *befores]) if text]
    found = in_batches(texts, lambda some: fitting(model.score, some), batch_size)
    scores = dict(zip(texts, found, strict=True))
    results = []
    for before, whole in zip(befores, wholes, strict=True):
        score, num_truncated = scores[whole]
        context = before[num_truncated:]
        num_before = 0
        if context:
            of_context = scores[context][0] if not num_truncated else model.score([context])[0]
            num_before = of_context["num_tokens"]
        own = score["token_log_probs"][num_before:]
        results.append(LogLikelihood(float(np.sum(own, dtype=np.float64)), len(own), num_truncated))
    return results
