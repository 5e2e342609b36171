"""Base class of tokenizers inside a TensorFlow graph: the ids around a text, and detokenization."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.graph.added_tokens_graph import AddedTokenCuts, Special, variable
from tfllm.tokenizers.graph.ragged_rows import equal_rows, joined_rows


class TokenizerGraph(tf.Module):
    """Text to ids and back using only TF core and TF-Text kernels, on the CPU.

    A subclass provides `_encode_segments` and `_added`, or `_encode`. The tables are variables, so
    a SavedModel stores them with its weights; none of them grows.

    Args:
        token_bytes: Bytes that each id stands for within a text; empty for special tokens.
        begin, end: Ids that the tokenizer's configuration puts before and after a text.
        name: Name of the module.

    Attributes:
        token_bytes: string [vocab_size].
        vocab_size: Number of ids.
    """

    _added: AddedTokenCuts

    def __init__(
        self, token_bytes: Sequence[bytes], begin: Sequence[int], end: Sequence[int], name: str
    ) -> None:
        super().__init__(name=name)
        self.vocab_size = len(token_bytes)
        self._begin, self._end = list(begin), list(end)
        self._tokenizing = one_function_each(self._tokenize)
        self._encoding = _one_function(self._encode_segments)
        with tf.init_scope(), tf.device("/CPU:0"):
            self.token_bytes = variable(np.array(token_bytes, object), "token_bytes", tf.string)

    def tokenize(
        self, text: tf.Tensor, *, parse_special: bool = True, add_special: bool = True
    ) -> tf.RaggedTensor:
        """Convert each text to ids.

        Args:
            text: string [batch]. Bytes that are not UTF-8 count as U+FFFD, one for each longest
                start of an incomplete character and one for each other stray byte.
            parse_special: Whether "<|endoftext|>" in a text is the special token rather than
                thirteen ordinary characters. Defaults to True.
            add_special: Whether to add the begin and end tokens that the tokenizer's configuration
                puts around a text. Defaults to True.

        Returns:
            int32 [batch, (tokens)].
        """
        return self._tokenizing("parsed" if parse_special else "plain", add_special)(text)

    def tokenize_with_offsets(
        self, text: tf.Tensor, *, parse_special: bool = True, add_special: bool = True
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Convert each text to ids, and find the characters that each id stands for.

        Args: see `tokenize`.

        Returns:
            The ids, and where the characters that each stands for begin and end in the text, all
            int32 [batch, (tokens)]; both are 0 for tokens that `add_special` adds.

        Raises:
            ValueError: If this kind of tokenizer does not support offsets.
        """
        raise ValueError(f"a {type(self).__name__} does not support offsets of its tokens")

    def tokenize_unbroken(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Convert texts to ids where U+FDD0 keeps words from being read as special tokens.

        Like `tokenize(text, add_special=False)`, but U+FDD0 is removed after the special tokens of
        the text are found, so that `<|im_` and `end|>` around one are then joined again.

        Args:
            text: string [batch].

        Returns:
            int32 [batch, (tokens)].
        """
        return self._tokenizing("unbroken", False)(text)

    def _tokenize(self, text: tf.Tensor, special: Special, add_special: bool) -> tf.RaggedTensor:
        with tf.device("/CPU:0"):
            text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
            values, row_splits = self._encode(text, special)
            ids = tf.RaggedTensor.from_row_splits(values, row_splits, validate=False)
            if not add_special or not (self._begin or self._end):
                return ids
            begin, end = (equal_rows(x, ids.nrows()) for x in (self._begin, self._end))
            return joined_rows(begin, ids, end)

    def _encode(self, text: tf.Tensor, special: Special) -> tuple[tf.Tensor, tf.Tensor]:
        """Encode valid UTF-8, string [B]: int32 [tokens], and int64 [B + 1], where each text's
        start and end.

        The part after the cut is most of the graph, and the same for all ways to tokenize.
        """
        return self._encoding(text, *self._added.cut(text, special))

    def _encode_segments(
        self, text: tf.Tensor, segments: tf.Tensor, ids: tf.Tensor, row_segments: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Like `_encode`, for texts that `AddedTokenCuts.cut` has cut.

        Args:
            text: string [B], the texts.
            segments, ids, row_segments: The results of `cut`.
        """
        raise NotImplementedError

    def detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        """Convert each row of ids to a text.

        Args:
            ids: int32 [batch, time], dense or ragged. Special tokens and ids outside
                0 .. vocab_size - 1 (padding) are skipped.

        Returns:
            string [batch], always valid UTF-8: a broken sequence becomes U+FFFD.
        """
        if isinstance(ids, tf.RaggedTensor):
            ids = ids.to_tensor(default_value=-1)
        return self._detokenize(tf.cast(ids, tf.int32))

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, "ids")], autograph=False)
    def _detokenize(self, ids: tf.Tensor) -> tf.Tensor:
        with tf.device("/CPU:0"):
            known = (ids >= 0) & (ids < self.vocab_size)
            parts = tf.gather(self.token_bytes, tf.where(known, ids, 0))
            joined = self._joined(tf.where(known, parts, ""))
            return tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")

    def _joined(self, parts: tf.Tensor) -> tf.Tensor:
        """Join the bytes of each row's tokens: string [batch, time] to string [batch]."""
        return tf.strings.reduce_join(parts, axis=1)


def one_function_each(tokenize: Any) -> Callable[[Special, bool], Any]:
    """`tokenize` as one tf.function for each combination of its options, traced on first use.

    They are kept where a SavedModel does not look, since saving traces every function that it
    finds, while a signature's own graph has the ones it uses.
    """
    signature = [tf.TensorSpec([None], tf.string, "text")]

    @functools.cache
    def of(special: Special, add_special: bool) -> Any:
        function = functools.partial(tokenize, special=special, add_special=add_special)
        return tf.function(function, input_signature=signature, autograph=False)

    return of


def _one_function(encode: Any) -> Callable[..., Any]:
    """`encode` as one tf.function, kept where a SavedModel does not look."""
    types = [tf.string, tf.string, tf.int32, tf.int64]

    def on_cpu(*tensors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.device("/CPU:0"):
            return encode(*tensors)

    signature = [tf.TensorSpec([None], t) for t in types]
    function = tf.function(on_cpu, input_signature=signature, autograph=False)
    return lambda *tensors: function(*tensors)


def utf8_length(characters: tf.Tensor) -> tf.Tensor:
    """int32, the number of bytes of each code point."""
    return 1 + tf.add_n(
        [tf.cast(characters >= bound, tf.int32) for bound in (0x80, 0x800, 0x10000)]
    )
