"""Code completion: generate the code between a prefix and a suffix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfllm.config import GenerationConfig
from tfllm.generation.decoding import Decoder
from tfllm.generation.option_inputs import option_specs
from tfllm.models.causal_lm import CausalLM
from tfllm.tasks.graph_method import graph_method, text_input
from tfllm.tasks.language_model.request_rows import (
    SampledRows,
    check_not_searched,
    row_options,
    texts_of,
)
from tfllm.tasks.language_model.text_generation import TextGeneration
from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.fill_in_the_middle import (
    SENTINELS,
    SUFFIX_FIRST,
    code_end_ids,
    middle_tokens,
)


class CodeGeneration(TextGeneration):
    """A text generation model that can also fill in the middle, if it was trained to.

    `complete` is for Python; in addition to those of `TextGeneration`, there is the signature

        complete: like `generate`, but with `prefix` and `suffix` instead of `prompt`; if the suffix
            is empty, the prefix is continued. With a suffix, the prompt is written as prefix,
            suffix, middle (PSM; Bavarian et al., 2022), with the special tokens of the tokenizer;
            or suffix first (SPM), if the tokenizer's settings say so, as those written by `prepare`
            do by default. Text that looks like a special token is treated as text. Set `stop` to a
            line end to get one line.

    A text also ends at the tokens with which code models end a file or a middle.

    If the tokenizer has no tokens for infilling, a row with a suffix has an `error`.

    Args:
        model: as in `TextGeneration`.
        tokenizer: tokenizer of the model.
        generation: generation options that are used if none are given.

    Examples:
        >>> import tfllm
        >>> from tfllm.tokenizers.fill_in_the_middle import END, SENTINELS
        >>> tokenizer = tfllm.BytePairTokenizer.train(
        ...     ["def add(a, b):\\n    return a + b\\n"], 300, special_tokens=(END, *SENTINELS)
        ... )
        >>> config = tfllm.ModelConfig(vocab_size=300, embedding_dim=16, num_layers=1, num_heads=2)
        >>> code = tfllm.CodeGeneration(tfllm.CausalLM(config, seed=0), tokenizer)
        >>> middle = code.complete("def add(a, b):\\n", "    return c", max_new_tokens=5)
        >>> isinstance(middle, str)
        True
    """

    def __init__(
        self,
        model: CausalLM | Decoder,
        tokenizer: Tokenizer,
        generation: GenerationConfig | None = None,
        *,
        name: str = "code_generation",
    ) -> None:
        super().__init__(model, tokenizer, generation, name=name)
        self.middle_tokens = middle_tokens(tokenizer)
        ends = [*tokenizer.end_token_ids, *code_end_ids(tokenizer)]
        self._end_token_ids = tf.constant(list(dict.fromkeys(ends)), tf.int32)
        self.suffix_first = bool(tokenizer.settings.get(SUFFIX_FIRST))
        # Tokens that the tokenizer puts before a text, which must come before the prefix mark.
        begin = tokenizer.encode("")
        self._begin = [i for i in begin if i not in tokenizer.end_token_ids]

    # ------------------------------------------------------------------ for Python

    def complete(
        self, prefix: str | Sequence[str], suffix: str | Sequence[str] = "", **options: Any
    ) -> Any:
        """Generate the text between prefix and suffix.

        Args:
            prefix: the text before, or a list of several.
            suffix: the text after, one for all prefixes or one for each; if empty, the prefix is
                continued. Defaults to "".
            options: fields of `GenerationConfig`, as for `generate`. `stop="\\n"` gives the rest of
                the line.

        Returns:
            The text, or a list of texts; if any num_samples is above 1, each is a list of samples.

        Raises:
            ValueError: there is a suffix, but the tokenizer has no special tokens for it; an option
                is unknown or out of range; a row is too long; or the lists differ in length.
        """
        prefixes, suffixes = texts_of(prefix, "prefix"), texts_of(suffix, "suffix")
        if isinstance(suffix, str):
            suffixes = suffixes * len(prefixes)
        if len(suffixes) != len(prefixes):
            raise ValueError(
                "suffix must be one text, or one for each prefix; received "
                f"{len(suffixes)} for {len(prefixes)}"
            )
        given = row_options(self.generation, len(prefixes), options)
        check_not_searched(given)
        if not given:
            return []
        samples = SampledRows(given)
        result = self._complete(
            prefix=samples.repeated(prefixes),
            suffix=samples.repeated(suffixes),
            **samples.options(),
        )
        middles = samples.texts(result)
        return middles[0] if isinstance(prefix, str) else middles

    # ------------------------------------------------------------------ in the graph

    @property
    def signatures(self) -> dict[str, Any]:
        """`tf.function`s by name: those of `TextGeneration`, and `complete`."""
        return {**super().signatures, "complete": self._complete}

    @graph_method(text_input("prefix"), text_input("suffix"), *option_specs())
    def _complete(
        self,
        prefix: tf.Tensor,
        suffix: tf.Tensor,
        **options: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        ids, refused = self.completion_ids(prefix, suffix)
        return self._decoding.continued(ids, options, refused)

    def completion_ids(
        self, prefix: tf.Tensor, suffix: tf.Tensor
    ) -> tuple[tf.RaggedTensor, tf.Tensor]:
        """The prompts of the signature `complete`.

        Args:
            prefix, suffix: texts, string `[B]`.

        Returns:
            Token ids, int32 `[B, (P)]`, and errors of rows, or "", string `[B]`.
        """
        before = self._graph.tokenize(prefix, parse_special=False, add_special=False)
        begin = self._row(self._begin, tf.ones_like(prefix, tf.bool))
        filled = suffix != ""
        if self.middle_tokens is None:
            rule = (
                "suffix must be empty: the model's tokenizer has no tokens that mark prefix, "
                f"suffix and middle, such as {SENTINELS[0]}"
            )
            return tf.concat([begin, before], 1), tf.where(filled, rule, "")
        after = self._graph.tokenize(suffix, parse_special=False, add_special=False)
        marks = [self._row([token], filled) for token in self.middle_tokens]
        if self.suffix_first:
            ids = tf.concat([begin, marks[0], marks[1], after, marks[2], before], 1)
        else:
            ids = tf.concat([begin, marks[0], before, marks[1], after, marks[2]], 1)
        return ids, tf.zeros_like(prefix)

    @staticmethod
    def _row(ids: list[int], wanted: tf.Tensor) -> tf.RaggedTensor:
        """The ids in the rows for which `wanted` is true, int32 `[B, (0 or len(ids))]`."""
        num = tf.reduce_sum(tf.cast(wanted, tf.int32))
        values = tf.tile(tf.constant(ids, tf.int32), [num])
        lengths = tf.cast(wanted, tf.int64) * len(ids)
        return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)

    def warmup_requests(self, texts: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        """Warm-up requests for each signature, with a suffix if that is supported."""
        prefixes = tf.constant(list(texts))
        suffixes = tf.constant(list(texts)) if self.middle_tokens else tf.zeros_like(prefixes)
        inputs = {"prefix": prefixes, "suffix": suffixes, **self._warmup_options(len(texts))}
        return [*super().warmup_requests(texts), ("complete", inputs)]
