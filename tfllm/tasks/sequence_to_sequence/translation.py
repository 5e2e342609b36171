"""Machine translation of texts from one language to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tfllm.data.reading.table_records import Column, Record
from tfllm.tasks.sequence_to_sequence.sequence_to_sequence import SequenceToSequenceTask

if TYPE_CHECKING:
    from tfllm.evaluation.metrics import Metric


class Translation(SequenceToSequenceTask):
    """Translate a text; one model translates in one direction.

    In addition to tables and JSON lines with two columns, it reads files of parallel lines
    (`{"text": "corpus.en", "translation": "corpus.es"}`, with equally many lines) and JSON lines of
    the form `{"translation": {"en": "Hello", "es": "Hola"}}`, whose columns are the languages: map
    them with `columns={"text": "en", "translation": "es"}`.
    """

    name = "translation"
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(aliases=("source", "src", "source_text", "input")),
        "translation": Column(
            aliases=("target", "tgt", "target_text", "output", "reference"), is_input=False
        ),
    }
    source = "text"
    target = "translation"

    evaluate_settings = (*SequenceToSequenceTask.evaluate_settings, "bleu_tokenizer")

    def metrics(
        self,
        records: Sequence[Record],
        predictions: Sequence[Mapping[str, Any]],
        *,
        bleu_tokenizer: str = "auto",
    ) -> list[Metric]:
        """Corpus BLEU and chrF, with sacrebleu's signatures.

        Args:
            records: records with their translations.
            predictions: predicted translations.
            bleu_tokenizer: tokenizer, as in `bleu`. Defaults to "auto".
        """
        from tfllm.evaluation.text_metrics import bleu, chrf

        references = [record[self.target] for record in records]
        given = [prediction[self.target] for prediction in predictions]
        return [bleu(references, given, tokenize=bleu_tokenizer), chrf(references, given)]
