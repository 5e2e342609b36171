"""Beam search: find the most likely texts with a beam of a few unfinished ones.

Each step keeps the K most likely continuations of a row's K unfinished texts. A text is complete at
an end token, or when it has reached its row's limit, if it is then among the row's K most likely
candidates; the best complete texts are the result.

A text of n tokens (including its end token) with the log-probability S, the sum over its tokens,
has the score S / n^length_penalty, as in `transformers`. Nothing is renormalized: S is the result
of the model's forward pass. Tokens that are never generated (a Marian's padding), and those that
would repeat an n-gram, are never chosen, but keep their share of the probability. This is also so
in `transformers`, where the processors that forbid tokens (bad words, repeated n-grams, a minimum
length) are applied to the logarithm of the softmax over the whole vocabulary. A text that ends at
its limit has no end token, and its score does not include the probability of one; if
`forced_eos_token_id` is set, one replaces the last token and counts as certain, as in
`transformers`.

**When a row is done.** A log-probability is never above 0, so S only decreases as a text grows. A
text that continues an unfinished one of t tokens, with sum S <= 0, gets n tokens, t < n <= limit,
and a sum of at most S. For a penalty a >= 0, n^a is largest at n = limit, so its score is at most
S / limit^a; for a < 0, n^a is largest at n = t + 1, so it is at most S / (t + 1)^a. Both bounds
increase with S: that of the most likely unfinished text bounds everything that the row can still
find, and all its later unfinished texts continue the current ones. When the score of the row's last
wanted complete text is at least this bound, no step can change the result, and the row stops.

Shape letters: B rows, K beams of a row, N wanted texts of a row, T tokens, V vocabulary, E end
tokens, C candidates of a row.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from tfllm.generation.beam_options import BeamOptions
from tfllm.generation.decoding import (
    LENGTH,
    RUNNING,
    STOP,
    Decoder,
    DecodingState,
    NextLogits,
    added_capacity,
    initial_capacity,
    most_new_tokens,
    without_never_generated,
)
from tfllm.generation.repeated_ngrams import RightAligned, without_repeats
from tfllm.generation.top_k import top_k

_NEVER = -math.inf


class BeamResult(NamedTuple):
    """The best texts of each row, best first."""

    token_ids: tf.Tensor
    """int32 `[B, N, T]`, without end tokens; values after a text's length have no meaning"""
    lengths: tf.Tensor
    """int32 `[B, N]`"""
    scores: tf.Tensor
    """float32 `[B, N]`; minus infinity if fewer texts were found"""
    log_probs: tf.Tensor
    """float32 `[B, N]`: natural logarithm of the text's probability, including its end token"""
    ends: tf.Tensor
    """int32 `[B, N]`: STOP at an end token, LENGTH at the row's limit"""


class _Beams(NamedTuple):
    """The state of a search between two tokens."""

    decoding: DecodingState
    """state of B * K rows"""
    log_probs: tf.Tensor
    """float32 `[B, K]`: of the unfinished texts; minus infinity for an unused beam"""
    token_ids: tf.Tensor
    """int32 `[B, K, T]`"""
    best: BeamResult
    num_complete: tf.Tensor
    """int32 `[B]`"""


def beam_search(
    decoder: Decoder,
    prompts: tf.RaggedTensor,
    limits: tf.Tensor,
    options: BeamOptions,
    *,
    end_token_ids: tf.Tensor,
) -> BeamResult:
    """Search for the best texts of each prompt.

    Args:
        decoder: The model.
        prompts: int32 `[B, (P)]`, each with at least one token and within the model's context.
        limits: int32 `[B]`, the maximum number of tokens of a text, including its end token; 0 for
            a row to skip, whose scores are minus infinity.
        options: Options of all rows.
        end_token_ids: int32 `[E]`, E static: ids that complete a text.

    Returns:
        The best texts of each row.
    """
    lengths = tf.cast(prompts.row_lengths(), tf.int32)
    limits = tf.minimum(limits, most_new_tokens(decoder, lengths))
    search = _Search(decoder, prompts, limits, options, end_token_ids)

    def running(beams: _Beams) -> tf.Tensor:
        return tf.reduce_any(beams.decoding.ends == RUNNING)

    def fits(beams: _Beams) -> tf.Tensor:
        return decoder.fits_cache(beams.decoding) & search.fits_texts(beams)

    def until_full(beams: _Beams) -> tuple[_Beams]:
        decoding = beams.decoding
        cache = decoder.extended_cache(decoding)
        beams = beams._replace(decoding=decoding._replace(cache=cache))
        return tf.while_loop(
            lambda beams: running(beams) & fits(beams),
            lambda beams: (search.advance(beams, decoder.step(beams.decoding)),),
            (search.with_extended_texts(beams),),
            parallel_iterations=1,
        )

    beams = search.begin()
    (beams,) = tf.while_loop(running, until_full, (beams,), parallel_iterations=1)
    most = tf.reduce_max(tf.pad(tf.reshape(beams.best.lengths, [-1]), [[0, 1]]))
    return beams.best._replace(token_ids=beams.best.token_ids[:, :, :most])


class _Search:
    """The functions of the loop, and the values that they share."""

    def __init__(
        self,
        decoder: Decoder,
        prompts: tf.RaggedTensor,
        limits: tf.Tensor,
        options: BeamOptions,
        end_token_ids: tf.Tensor,
    ) -> None:
        self.decoder = decoder
        self.prompts = prompts
        self.limits = limits
        self.options = options
        self.width = options.width
        self.end_token_ids = end_token_ids
        self.batch = tf.shape(limits)[0]
        penalty = tf.broadcast_to(tf.cast(options.length_penalty, tf.float32), [self.batch])
        self.penalty = penalty[:, tf.newaxis]
        self.ngram = options.no_repeat_ngram_size
        self.context: RightAligned | None = None
        if self.ngram and decoder.continues_prompts:
            self.context = RightAligned.of(prompts)

    # ------------------------------------------------------------------ the loop's parts

    def begin(self) -> _Beams:
        """Run the prompts through the model and choose the first tokens."""
        batch, width, best = self.batch, self.width, self.options.num_best
        lengths = tf.cast(self.prompts.row_lengths(), tf.int32)
        state = DecodingState(
            cache=(),
            prompt_lengths=lengths,
            limits=self.limits,
            step=tf.zeros([batch], tf.int32),
            token=tf.gather(self.prompts.flat_values, self.prompts.row_splits[1:] - 1),
            counts=tf.zeros([batch], tf.int32),
            ends=tf.where(self.limits > 0, RUNNING, LENGTH),
            seen=(),
            text=(),
        )
        given = self.decoder.begin(state, self.prompts)

        def of_beams(tensor: tf.Tensor | None) -> tf.Tensor | None:
            return None if tensor is None else tf.repeat(tensor, width, axis=0)

        fields = {n: of_beams(t) for n, t in state._asdict().items() if isinstance(t, tf.Tensor)}
        cache = self.decoder.repeated(given.cache, width)
        capacity = initial_capacity(self.limits)
        beams = _Beams(
            decoding=state._replace(cache=cache, **fields),
            log_probs=tf.one_hot(tf.zeros([batch], tf.int32), width, 0.0, _NEVER),
            token_ids=_shaped(tf.zeros(tf.stack([batch, width, capacity]), tf.int32), width),
            best=BeamResult(
                _shaped(tf.zeros(tf.stack([batch, best, capacity]), tf.int32), best),
                tf.zeros([batch, best], tf.int32),
                tf.fill([batch, best], _NEVER),
                tf.fill([batch, best], _NEVER),
                tf.fill([batch, best], LENGTH),
            ),
            num_complete=tf.zeros([batch], tf.int32),
        )
        logits, taken = of_beams(given.logits), of_beams(given.taken)
        return self.advance(beams, NextLogits(cache, logits, taken))

    def fits_texts(self, beams: _Beams) -> tf.Tensor:
        """Whether the next token fits in the tensors of the texts."""
        running = beams.decoding.ends == RUNNING
        most = tf.reduce_max(tf.where(running, beams.decoding.step, 0))
        return most < tf.shape(beams.token_ids)[2]

    def with_extended_texts(self, beams: _Beams) -> _Beams:
        """Extend the tensors of the texts if the next token does not fit."""
        capacity = tf.shape(beams.token_ids)[2]
        added = tf.where(self.fits_texts(beams), 0, added_capacity(capacity, self.limits))
        padding = tf.pad(tf.reshape(added, [1, 1]), [[2, 0], [1, 0]])

        def extended(ids: tf.Tensor) -> tf.Tensor:
            return _shaped(tf.pad(ids, padding), ids.shape[1])

        best = beams.best._replace(token_ids=extended(beams.best.token_ids))
        return beams._replace(token_ids=extended(beams.token_ids), best=best)

    def advance(self, beams: _Beams, given: NextLogits) -> _Beams:
        """Choose each row's next beams from the decoder's logits."""
        width, decoding = self.width, beams.decoding
        step = self._of_rows(decoding.step)[:, tf.newaxis]
        taken = decoding.ends == RUNNING
        if given.taken is not None:
            taken &= given.taken
        taken = self._of_rows(taken)
        log_probs, parents, tokens = self._candidates(beams, given.logits)
        is_end = tf.reduce_any(tokens[..., tf.newaxis] == self.end_token_ids, -1)
        complete = is_end | (step + 1 >= self.limits[:, tf.newaxis])

        best, num_complete = self._with_complete(
            beams, taken, step, log_probs, parents, tokens, is_end, complete
        )
        kept, place = tf.math.top_k(tf.where(complete, _NEVER, log_probs), width)
        own = tf.range(width)[tf.newaxis]
        taken = taken[:, tf.newaxis]
        parents = tf.where(taken, tf.gather(parents, place, batch_dims=1), own)
        tokens = tf.gather(tokens, place, batch_dims=1)
        token_ids = _appended(beams.token_ids, parents, step, tokens)
        token_ids = _shaped(tf.where(taken[:, tf.newaxis], token_ids, beams.token_ids), width)
        kept = tf.where(taken, kept, beams.log_probs)
        step += tf.cast(taken, tf.int32)
        done = self._done(kept[:, :1], step, best, num_complete) | (self.limits == 0)
        ends = tf.where(done, STOP, RUNNING)

        def of_beams(rows: tf.Tensor) -> tf.Tensor:
            return tf.repeat(rows, width, axis=0)

        flat_parents = tf.reshape(parents + tf.range(self.batch)[:, tf.newaxis] * width, [-1])
        swapped = tf.reduce_any((parents != own) & (kept > _NEVER) & taken)
        cache = tf.cond(
            swapped,
            lambda: self.decoder.reordered(given.cache, flat_parents),
            lambda: given.cache,
        )
        steps = of_beams(step[:, 0])
        return _Beams(
            decoding=decoding._replace(
                cache=cache,
                step=steps,
                token=tf.where(of_beams(taken[:, 0]), tf.reshape(tokens, [-1]), decoding.token),
                counts=steps,
                ends=of_beams(ends),
            ),
            log_probs=kept,
            token_ids=token_ids,
            best=best,
            num_complete=num_complete,
        )

    # ------------------------------------------------------------------ its steps

    def _of_rows(self, of_beams: tf.Tensor) -> tf.Tensor:
        """Values that are the same for all beams of a row: `[B * K]` to `[B]`."""
        return tf.reshape(of_beams, [-1, self.width])[:, 0]

    def _candidates(
        self, beams: _Beams, logits: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The most likely continuations of a row's beams, most likely first.

        They are enough for K beams to continue, whichever of them are end tokens.

        Returns:
            Each `[B, C]`: log-probability of the text; the beam that it continues; the token.
        """
        width = self.width
        vocab_size = self.decoder.vocab_size
        logits = tf.ensure_shape(logits[:, :vocab_size], [None, vocab_size])
        normalizers = tf.reduce_logsumexp(logits, -1, keepdims=True)  # including forbidden tokens
        logits = without_never_generated(logits, self.decoder)
        decoding = beams.decoding
        logits = self.options.token_rules.apply(
            logits, decoding.step, decoding.prompt_lengths, self.end_token_ids
        )
        if self.ngram:
            logits = without_repeats(
                logits,
                tf.reshape(beams.token_ids, [self.batch * width, -1]),
                beams.decoding.step,
                self.ngram,
                free=self.end_token_ids,
                context=self.context and self.context.repeated(width),
            )
        rules = self.options.token_rules
        is_forced = rules.is_forced(decoding.step, decoding.limits)
        logits = rules.with_forced(logits, is_forced, normalizers)  # it counts as certain
        if self.options.renormalize:
            normalizers = tf.reduce_logsumexp(logits, -1, keepdims=True)
            # If no token is allowed, there is nothing to divide by.
            normalizers = tf.where(tf.math.is_finite(normalizers), normalizers, 0.0)
        enough = width * (1 + self.end_token_ids.shape[0])
        of_beam = min(enough, vocab_size)
        values, tokens = top_k(logits, of_beam)
        values = tf.reshape(values - normalizers, [self.batch, width, of_beam])
        sums = tf.reshape(beams.log_probs[..., tf.newaxis] + values, [self.batch, width * of_beam])
        log_probs, place = tf.math.top_k(sums, min(enough, width * of_beam))
        tokens = tf.reshape(tokens, [self.batch, width * of_beam])
        return log_probs, place // of_beam, tf.gather(tokens, place, batch_dims=1)

    def _with_complete(
        self,
        beams: _Beams,
        taken: tf.Tensor,
        step: tf.Tensor,
        log_probs: tf.Tensor,
        parents: tf.Tensor,
        tokens: tf.Tensor,
        is_end: tf.Tensor,
        complete: tf.Tensor,
    ) -> tuple[BeamResult, tf.Tensor]:
        """Update the best complete texts with those among the K most likely candidates.

        Args:
            beams: State before this step.
            taken: bool `[B]`, the rows that get a token in this step.
            step: int32 `[B, 1]`, the number of tokens before this step.
            log_probs, parents, tokens, is_end, complete: `[B, C]`, the candidates.
        """
        width = self.width
        new = [x[:, :width] for x in (log_probs, parents, tokens, is_end, complete)]
        log_probs, parents, tokens, is_end, complete = new
        # If no token at all is allowed, the unfinished texts are the result.
        stuck = taken[:, tf.newaxis] & (log_probs[:, :1] == _NEVER)
        log_probs = tf.where(stuck, beams.log_probs, log_probs)
        num_tokens = tf.where(stuck, step, step + 1)
        complete = (complete | stuck) & taken[:, tf.newaxis] & (log_probs > _NEVER)

        def merged() -> BeamResult:
            power = tf.pow(tf.cast(tf.maximum(num_tokens, 1), tf.float32), self.penalty)
            scores = tf.where(complete, log_probs / power, _NEVER)
            appended = _appended(beams.token_ids, parents, step, tokens)
            token_ids = tf.where(stuck[:, tf.newaxis], beams.token_ids, appended)
            lengths = num_tokens - tf.cast(is_end & ~stuck, tf.int32)
            is_forced = self.options.token_rules.is_forced(step[:, 0], self.limits)
            ends = tf.where(is_end & ~(stuck | is_forced[:, tf.newaxis]), STOP, LENGTH)
            found = BeamResult(token_ids, lengths, scores, log_probs, ends)
            both = BeamResult(*(tf.concat(x, 1) for x in zip(beams.best, found, strict=True)))
            # Of equal scores, the text that was complete first wins.
            _, place = tf.math.top_k(both.scores, self.options.num_best)
            best = BeamResult(*(tf.gather(x, place, batch_dims=1) for x in both))
            return best._replace(
                token_ids=_shaped(best.token_ids, self.options.num_best),
                log_probs=tf.where(best.scores > _NEVER, best.log_probs, _NEVER),
            )

        best = tf.cond(tf.reduce_any(complete), merged, lambda: beams.best)
        return best, beams.num_complete + tf.reduce_sum(tf.cast(complete, tf.int32), 1)

    def _done(
        self, likeliest: tf.Tensor, step: tf.Tensor, best: BeamResult, num_complete: tf.Tensor
    ) -> tf.Tensor:
        """Whether no unfinished text can change a row's result: the bound at the top of this file.

        Args:
            likeliest: float32 `[B, 1]`, the log-probability of the most likely unfinished text.
            step: int32 `[B, 1]`, its number of tokens.
            best: The complete texts.
            num_complete: int32 `[B]`.

        Returns:
            bool `[B]`.
        """
        most = tf.where(self.penalty >= 0, tf.maximum(self.limits, 1)[:, tf.newaxis], step + 1)
        bound = likeliest / tf.pow(tf.cast(most, tf.float32), self.penalty)
        # Otherwise an infinite power would give NaN for a row without texts, which would never end.
        bound = tf.where(likeliest == _NEVER, _NEVER, bound)
        last = best.scores[:, -1]
        if self.options.num_wanted is not None:
            last = tf.gather(best.scores, self.options.num_wanted - 1, batch_dims=1)
        done = last >= bound[:, 0]
        if self.options.early_stopping or self.width == 1:
            done |= num_complete >= self.width
        return done


def _appended(
    token_ids: tf.Tensor, parents: tf.Tensor, step: tf.Tensor, tokens: tf.Tensor
) -> tf.Tensor:
    """The parents' texts `[B, K, T]` with one more token, at index `step` `[B, 1]`."""
    texts = tf.gather(token_ids, parents, batch_dims=1)
    here = tf.range(tf.shape(token_ids)[2]) == step[..., tf.newaxis]
    return tf.where(here, tokens[..., tf.newaxis], texts)


def _shaped(token_ids: Any, num: int | None) -> tf.Tensor:
    return tf.ensure_shape(token_ids, [None, num, None])
