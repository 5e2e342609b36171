"""Unigram inside a TensorFlow graph, with the ids of the `tokenizers` library.

Text is normalized and cut here in the library's way; TF-Text's kernel then finds the best pieces of
each part separately. If two ways to cut a part have scores that differ only in the last bits of a
float32, the kernel and the library, which adds in float64, may choose differently.

Shapes in this file: B texts, S stretches between added tokens, P parts that are cut separately.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_text as tf_text

from tfllm.tokenizers.added_tokens import SPACE_PATTERN
from tfllm.tokenizers.graph.added_tokens_graph import AddedTokenCuts, variable
from tfllm.tokenizers.graph.normalization import to_nfc
from tfllm.tokenizers.graph.precompiled_graph import PrecompiledGraph
from tfllm.tokenizers.graph.ragged_rows import joined_rows, where_set
from tfllm.tokenizers.graph.spaced_text_graph import SpacedTextGraph, with_space
from tfllm.tokenizers.leading_space import SPACE, LeadingSpace
from tfllm.tokenizers.specification.metaspace_specification import Prepend, Replace
from tfllm.tokenizers.specification.precompiled import PrecompiledTable
from tfllm.tokenizers.specification.unigram_specification import UnigramSpecification

_AT_SPACES = rf"{SPACE}[^{SPACE}]*|[^{SPACE}]+"
_ANY = "(?s).*"


class UnigramGraph(SpacedTextGraph):
    """A Unigram model in a graph.

    Args:
        specification: Specification of a tokenizer.json.
        token_bytes: See `TokenizerGraph`.
        leading: Which spaces at the start of a text are removed.
    """

    def __init__(
        self,
        specification: UnigramSpecification,
        token_bytes: Sequence[bytes],
        leading: LeadingSpace,
    ) -> None:
        spec = specification
        super().__init__(token_bytes, spec.begin, spec.end, name="unigram_graph")
        self._leading, self._spaces = leading, spec.spaces
        self._splits_at_space = spec.splits_at_space
        self._unknown, self._falls_back = spec.unknown, len(spec.byte_ids) > 0
        with tf.init_scope(), tf.device("/CPU:0"):
            self._normalizers = [
                PrecompiledGraph(step) if isinstance(step, PrecompiledTable) else step
                for step in spec.normalizers
            ]
            normalize = self._normalize if spec.normalizers else None
            self._added = AddedTokenCuts(spec.added, spec.stand_in, normalize)
            self._kernel = tf_text.SentencepieceTokenizer(spec.model)
            self._ids = variable(spec.ids, "ids")
            self._byte_ids = variable(spec.byte_ids, "byte_ids")

    def _normalize(self, text: tf.Tensor) -> tf.Tensor:
        for step in self._normalizers:
            if isinstance(step, Prepend):
                text = tf.where(tf.strings.length(text) > 0, step.text + text, text)
            elif isinstance(step, Replace):
                text = tf.strings.regex_replace(text, step.pattern, step.text)
            elif isinstance(step, PrecompiledGraph):
                text = step(text)
            else:
                text = to_nfc(text)
        return text

    def _encode_segments(
        self, text: tf.Tensor, segments: tf.Tensor, ids: tf.Tensor, row_segments: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        stretches, added, rows = segments, ids, row_segments
        is_text = added < 0
        parts, splits = self._parts(tf.where(is_text, stretches, ""), rows)
        found = self._pieces(self._added.with_nul(parts, text))
        # The stretches' tokens, and the added tokens between them.
        of_parts = tf.RaggedTensor.from_row_splits(
            found.values, tf.gather(found.row_splits, splits), validate=False
        )
        both = joined_rows(where_set(added, ~is_text), of_parts)
        return both.values, tf.gather(both.row_splits, rows)

    def _parts(self, stretches: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Cut stretches: string [P], and int64 [S + 1], where each one's parts start and end."""
        splits = tf.range(tf.size(stretches, tf.int64) + 1)
        parts = stretches
        if self._splits_at_space:
            cut = tf_text.regex_split(parts, SPACE_PATTERN, "")
            parts, splits = cut.values, cut.row_splits
        if self._spaces is None:
            return parts, splits
        parts = tf.strings.regex_replace(parts, " ", SPACE)
        if self._spaces.prepend != "never":
            parts = with_space(parts, rows, SPACE, first=self._spaces.prepend == "first")
        if self._spaces.split:
            cut = tf_text.regex_split(parts, _AT_SPACES, _ANY)
            parts, splits = cut.values, tf.gather(cut.row_splits, splits)
        return parts, splits

    def _pieces(self, parts: tf.Tensor) -> tf.RaggedTensor:
        """The ids of each part, int32 [P, (tokens)]."""
        if not self._falls_back:
            found = self._kernel.tokenize(parts)
            return found.with_values(tf.gather(self._ids, found.values))
        found, starts, ends = self._kernel.tokenize_with_offsets(parts)
        numbers = found.values
        lengths = tf.cast(ends.values - starts.values, tf.int32)
        unknown = tf.equal(numbers, self._unknown)
        count = tf.where(unknown, lengths, 1)
        at = tf.repeat(tf.range(tf.size(numbers)), count)
        within = tf.range(tf.size(at)) - tf.gather(tf.cumsum(count, exclusive=True), at)
        data = tf.io.decode_raw(tf.strings.reduce_join(parts), tf.uint8)
        part_begins = tf.cumsum(tf.strings.length(parts), exclusive=True)
        begins = tf.gather(part_begins, found.value_rowids()) + tf.cast(starts.values, tf.int32)
        place = tf.where(tf.gather(unknown, at), tf.gather(begins, at) + within, 0)
        data = tf.concat([data, tf.zeros([1], tf.uint8)], 0)  # never empty
        bytes_ = tf.gather(self._byte_ids, tf.cast(tf.gather(data, place), tf.int32))
        ids = tf.where(tf.gather(unknown, at), bytes_, tf.gather(self._ids, tf.gather(numbers, at)))
        before = tf.concat([[0], tf.cumsum(tf.cast(count, tf.int64))], 0)
        return tf.RaggedTensor.from_row_splits(
            ids, tf.gather(before, found.row_splits), validate=False
        )
