"""Summarization of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tfllm.data.reading.table_records import Column, Record
from tfllm.tasks.sequence_to_sequence.sequence_to_sequence import SequenceToSequenceTask

if TYPE_CHECKING:
    from tfllm.evaluation.metrics import Metric


class Summarization(SequenceToSequenceTask):
    """Write a summary of a text."""

    name = "summarization"
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(aliases=("document", "article", "body", "source", "dialogue", "input")),
        "summary": Column(
            aliases=("highlights", "abstract", "title", "target", "output"), is_input=False
        ),
    }
    source = "text"
    target = "summary"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        **SequenceToSequenceTask.training_defaults,
        "sequence_length": 256,
    }
    # No repeated trigrams in a summary (Paulus et al., 2017).
    search_defaults: ClassVar[Mapping[str, Any]] = {
        "max_new_tokens": 64,
        "no_repeat_ngram_size": 3,
    }

    evaluate_settings = (*SequenceToSequenceTask.evaluate_settings, "rouge_tokenizer")

    def metrics(
        self,
        records: Sequence[Record],
        predictions: Sequence[Mapping[str, Any]],
        *,
        rouge_tokenizer: str = "auto",
    ) -> list[Metric]:
        """ROUGE-1, ROUGE-2 and ROUGE-L, averaged over the summaries.

        Args:
            records: records with their summaries.
            predictions: predicted summaries.
            rouge_tokenizer: tokenizer, as in `rouge`. Defaults to "auto".
        """
        from tfllm.evaluation.text_metrics import rouge

        references = [record[self.target] for record in records]
        given = [prediction[self.target] for prediction in predictions]
        return rouge(references, given, tokenizer=rouge_tokenizer)
