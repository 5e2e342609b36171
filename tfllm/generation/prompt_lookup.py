"""Prompt lookup decoding: tokens are drafted from the row's own text and checked together.

A draft is what followed an earlier occurrence of the last tokens (Saxena, "Prompt Lookup Decoding",
2023). One forward pass computes the logits after the last token and after each drafted one, as in
speculative decoding (Leviathan et al., 2023; Chen et al., 2023). Here, each token is chosen from
its logits exactly as without drafts, and a drafted token is accepted if it is the chosen one: a
draw depends only on its logits, options, seed and step, so that sampled texts do not change either.
(A product of several rows may be rounded otherwise than that of one row.)

Checking a draft costs more than a step with one token. So a row whose draft is refused needs an
occurrence of one token more for the next one, until a draft is accepted again.

Shape letters: B batch, S number of tokens that fit in the cache, K drafted tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import tensorflow as tf

from tfllm.generation import decoding
from tfllm.generation.decoding import RUNNING, Decoder, DecodingState, NextLogits
from tfllm.generation.sampling import SamplingOptions

LEAST_MATCH, MOST_MATCH = 2, 4
"""Number of last tokens that must have occurred before: at first, and at most."""
_PREFERRED_MATCH = 3


class Drafts(NamedTuple):
    """Tokens that may follow."""

    token_ids: tf.Tensor
    """int32 `[B, K]`; K is the largest number of a row"""
    counts: tf.Tensor
    """int32 `[B]`: number of drafted tokens of each row; those after them have no meaning"""


@runtime_checkable
class DraftDecoder(Protocol):
    """What a `Decoder` must have in addition to check drafts.

    Its cache is a NamedTuple with a field `match_lengths`, int32 `[B]`: the number of last tokens
    that must have occurred before. It is `LEAST_MATCH` at first, and this module updates it.
    """

    def own_tokens(self, state: DecodingState) -> tuple[tf.Tensor, tf.Tensor]:
        """The tokens of each row's prompt and text, int32 `[B, S]`, and their numbers `[B]`."""

    def num_fitting_drafts(self, state: DecodingState) -> tf.Tensor:
        """Number of tokens that fit in the cache after the last one, int32 scalar."""

    def draft_logits(
        self, state: DecodingState, drafts: tf.Tensor, counts: tf.Tensor
    ) -> NextLogits:
        """Run each row's last token and its draft.

        Args:
            state: State before the last token is run; the last token and the draft must fit.
            drafts: int32 `[B, K]`.
            counts: int32 `[B]`, the number of drafted tokens of each row.

        Returns:
            logits `[B, K + 1, V]` after the last token and after each drafted one, and a cache for
            `with_accepted`.
        """

    def with_accepted(self, cache: Any, counts: tf.Tensor) -> Any:
        """The cache from `draft_logits`, in which each row keeps its first `counts` tokens (int32
        `[B]`) of those that were run."""


def advance(
    decoder: Decoder, state: DecodingState, options: SamplingOptions, **rules: Any
) -> DecodingState:
    """Like `decoding.advance`, but a row with a draft may get several tokens.

    Args:
        decoder: The model; its rows get one token each unless it is a `DraftDecoder`.
        state: The last token must fit in its cache.
        options: Options of each row; `prompt_lookup_tokens` is the maximum length of a draft.
        rules: The keyword arguments of `decoding.advance`.
    """

    def without_drafts() -> DecodingState:
        return decoding.advance(decoder, state, options, **rules)

    if not isinstance(decoder, DraftDecoder):
        return without_drafts()
    drafts = _drafts(decoder, state, options)
    return tf.cond(
        tf.reduce_any(drafts.counts > 0),
        lambda: _with_drafts(decoder, state, options, drafts, rules),
        without_drafts,
    )


def advance_to_draft(
    decoder: Decoder, state: DecodingState, options: SamplingOptions, **rules: Any
) -> DecodingState:
    """Like `advance`, but first runs steps of one token until a row has a draft, the last token
    does not fit in the cache, or all rows have ended.

    Steps without drafts then cost no more than those of `decoding.advance`: TensorFlow visits all
    nodes of the branch of a `tf.cond` that it does not take, and that of a draft has the model.
    """
    if not isinstance(decoder, DraftDecoder):
        return decoding.advance(decoder, state, options, **rules)

    def has_draft(drafts: Drafts) -> tf.Tensor:
        return tf.reduce_any(drafts.counts > 0)

    def continues(state: DecodingState, drafts: Drafts) -> tf.Tensor:
        running = tf.reduce_any(state.ends == RUNNING)
        return running & decoder.fits_cache(state) & ~has_draft(drafts)

    def step(state: DecodingState, drafts: Drafts) -> tuple[DecodingState, Drafts]:
        state = decoding.advance(decoder, state, options, **rules)
        return state, _drafts(decoder, state, options)

    before, drafts = tf.while_loop(
        continues, step, (state, _drafts(decoder, state, options)), parallel_iterations=1
    )
    return tf.cond(
        has_draft(drafts),
        lambda: _with_drafts(decoder, before, options, drafts, rules),
        lambda: before,
    )


def find_drafts(
    token_ids: tf.Tensor, lengths: tf.Tensor, most: tf.Tensor, match_lengths: tf.Tensor
) -> Drafts:
    """What followed the last earlier occurrence of each row's last tokens.

    An occurrence of three tokens is preferred to a later one of two. If a draft reaches the end of
    the row, it continues with its own beginning, as a text that repeats itself does.

    Args:
        token_ids: int32 `[B, S]`; what follows a row's own tokens is not read.
        lengths: int32 `[B]`, the number of tokens of each row, at least 1.
        most: int32 `[B]`, the maximum length of a draft; 0 for none.
        match_lengths: int32 `[B]`, the number of last tokens that must have occurred before, 2 to
            4.

    Returns:
        The drafts; `counts` is 0 for rows in which nothing was found.

    Examples:

    >>> import tensorflow as tf
    >>> from tfllm.generation.prompt_lookup import find_drafts
    >>> ids = tf.constant([[5, 6, 7, 8, 9, 6, 7, 0]])
    >>> drafts = find_drafts(ids, tf.constant([7]), tf.constant([3]), tf.constant([2]))
    >>> drafts.token_ids.numpy().tolist()
    [[8, 9, 6]]
    """
    size = tf.shape(token_ids)[1]
    indices = tf.range(size)
    before = lengths[:, tf.newaxis] - 1 - tf.range(MOST_MATCH)
    last = tf.gather(token_ids, tf.maximum(before, 0), batch_dims=1)
    # An occurrence is at the index of its last token, which is before that of the row.
    matches = (token_ids == last[:, :1]) & (indices < lengths[:, tf.newaxis] - 1)
    matched = tf.cast(matches, tf.int32)
    for back in range(1, MOST_MATCH):
        same = tf.roll(token_ids == last[:, back, tf.newaxis], back, axis=1) & (indices >= back)
        matches &= same
        matched += tf.cast(matches, tf.int32)
    score = indices + tf.where(matched >= _PREFERRED_MATCH, size, 0)
    best = tf.reduce_max(tf.where(matched >= match_lengths[:, tf.newaxis], score, -1), axis=1)
    counts = tf.where(best >= 0, most, 0)
    begin = tf.maximum(best, 0) % size + 1
    followed = tf.maximum(lengths - begin, 1)[:, tf.newaxis]
    number = tf.maximum(tf.reduce_max(counts), 0)  # reduce_max of no rows is negative
    places = begin[:, tf.newaxis] + tf.range(number) % followed
    return Drafts(tf.gather(token_ids, tf.minimum(places, size - 1), batch_dims=1), counts)


def _drafts(decoder: Any, state: DecodingState, options: SamplingOptions) -> Drafts:
    def found() -> Drafts:
        # A draft must be shorter than what is left of the text, since another token follows it.
        most = tf.minimum(options.prompt_lookup_tokens, state.limits - state.counts - 1)
        most = tf.minimum(most, decoder.num_fitting_drafts(state))
        most = tf.where(state.ends == RUNNING, tf.maximum(most, 0), 0)
        token_ids, lengths = decoder.own_tokens(state)
        return find_drafts(token_ids, lengths, most, state.cache.match_lengths)

    def none() -> Drafts:
        rows = tf.zeros_like(options.prompt_lookup_tokens)
        return Drafts(rows[:, tf.newaxis][:, :0], rows)

    wanted = tf.reduce_any(options.prompt_lookup_tokens > 0)
    return tf.cond(wanted & decoder.fits_cache(state), found, none)


def _with_drafts(
    decoder: Any,
    state: DecodingState,
    options: SamplingOptions,
    drafts: Drafts,
    rules: dict[str, Any],
) -> DecodingState:
    """Run the drafts and choose each row's tokens, up to the first that is not its draft's."""
    given = decoder.draft_logits(state, drafts.token_ids, drafts.counts)
    padded = tf.pad(drafts.token_ids, [[0, 0], [0, 1]])

    def choose(index: tf.Tensor, taken: tf.Tensor, before: DecodingState) -> Any:
        logits = tf.gather(given.logits, index, axis=1)
        state = decoding.choose(decoder, before, NextLogits((), logits, taken), options, **rules)
        is_draft = (index < drafts.counts) & (state.token == tf.gather(padded, index, axis=1))
        after = (taken & is_draft & (state.ends == RUNNING), state)
        # A stream has one row, and the loop must keep what is known of its shapes.
        return index + 1, *tf.nest.map_structure(
            lambda new, old: tf.ensure_shape(new, old.shape), after, (taken, before)
        )

    _, _, chosen = tf.while_loop(
        lambda index, taken, state: tf.reduce_any(taken),
        choose,
        (tf.constant(0), state.ends == RUNNING, state._replace(cache=())),
        parallel_iterations=1,
    )
    num_chosen = chosen.step - state.step
    cache = decoder.with_accepted(given.cache, num_chosen)
    num_accepted = num_chosen - 1
    match_lengths = cache.match_lengths + tf.where(num_accepted == 0, 1, -num_accepted)
    match_lengths = tf.clip_by_value(match_lengths, LEAST_MATCH, MOST_MATCH)
    has_draft = drafts.counts > 0
    return chosen._replace(
        cache=cache._replace(match_lengths=tf.where(has_draft, match_lengths, cache.match_lengths))
    )
