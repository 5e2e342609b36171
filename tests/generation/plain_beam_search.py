"""Beam search and exhaustive search in plain Python, and a decoder that reads a table."""

import itertools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfllm.generation.decoding import NextLogits


class Found(NamedTuple):
    token_ids: tuple[int, ...]
    score: float
    log_prob: float


def score_of(log_prob: float, num_tokens: int, penalty: float) -> float:
    return log_prob / num_tokens**penalty


def exhaustive(
    log_probs_of, limit: int, ends, penalty: float, num: int, *, never=()
) -> list[Found]:
    """The best `num` of all texts there are; `log_probs_of` gives those of the next token.

    Texts with a token of `never` are left out; what is left keeps the probability that it has.
    """
    found, running = [], [((), 0.0)]
    for step in range(1, limit + 1):
        longer = []
        for text, total in running:
            for token, log_prob in enumerate(log_probs_of(text)):
                if token in never:
                    continue
                now = total + float(log_prob)
                if token in ends:
                    found.append(Found(text, score_of(now, step, penalty), now))
                elif step == limit:
                    found.append(Found((*text, token), score_of(now, step, penalty), now))
                else:
                    longer.append(((*text, token), now))
        running = longer
    return sorted(found, key=lambda f: -f.score)[:num]


def beam_search(
    log_probs_of, width, limit, ends, penalty, *, ngram=0, prompt=(), early=False, never=()
):
    """As the graph's, but it goes on to the limit unless it stops early."""
    found, running = [], [((), 0.0)]
    for step in range(1, limit + 1):
        candidates = []
        for text, total in running:
            for token, log_prob in enumerate(log_probs_of(text)):
                if ngram and token not in ends and repeats((*prompt, *text, token), ngram):
                    continue
                if token in never:
                    continue
                candidates.append((total + float(log_prob), (*text, token)))
        candidates.sort(key=lambda c: -c[0])
        running = []
        for rank, (total, text) in enumerate(candidates):
            if text[-1] in ends or step == limit:
                if rank < width:
                    kept = text[:-1] if text[-1] in ends else text
                    found.append(Found(kept, score_of(total, step, penalty), total))
            elif len(running) < width:
                running.append((text, total))
        if not running or (early and len(found) >= width):
            break
    return sorted(found, key=lambda f: -f.score)[:width]


def repeats(tokens, size: int) -> bool:
    """Whether the last `size` tokens stand before, too."""
    last = tuple(tokens[-size:])
    return len(last) == size and any(
        tuple(tokens[i : i + size]) == last for i in range(len(tokens) - size)
    )


class TableDecoder:
    """What comes next depends on every token so far: a number that they make, and a table."""

    model = None
    dtype = "float32"
    context = 64
    continues_prompts = True
    never_generated: tuple[int, ...] = ()
    weights = ()
    cache_structure = 0

    def __init__(self, vocab_size: int, *, spread: float = 2.0, seed: int = 0) -> None:
        self.vocab_size = vocab_size
        self.table = np.random.default_rng(seed).normal(0, spread, (997, vocab_size))
        self.table = self.table.astype(np.float32)
        self.steps: list[int] = []
        self.swaps: list[int] = []

    def log_probs_of(self, prompt):
        """A function from a text behind the prompt to its next token's log-probabilities."""

        def of(text):
            number = 1
            for token in itertools.chain(prompt, text):
                number = (number * 31 + token + 1) % 997
            row = self.table[number].astype(np.float64)
            return row - np.log(np.exp(row).sum())

        return of

    def _next(self, number, token):
        number = (number * 31 + token + 1) % 997
        return NextLogits(number, tf.gather(tf.constant(self.table), number))

    def begin(self, state, prompts):
        number = tf.ones([prompts.nrows()], tf.int32)
        dense = prompts.to_tensor()
        for i in range(dense.shape[1] - 1):
            number = tf.where(
                i < state.prompt_lengths - 1, (number * 31 + dense[:, i] + 1) % 997, number
            )
        return self._next(number, state.token)

    def repeated(self, cache, num):
        return tf.repeat(cache, num)

    def reordered(self, cache, parents):
        self.swaps.append(1)
        return tf.gather(cache, parents)

    def fits_cache(self, state):
        return tf.constant(True)

    def extended_cache(self, state):
        return state.cache

    def step(self, state):
        self.steps.append(1)
        return self._next(state.cache, state.token)
