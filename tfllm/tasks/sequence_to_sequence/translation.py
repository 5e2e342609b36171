"""Machine translation: a text in one language to the same in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tfllm.data.reading.table_records import Column, Record
from tfllm.tasks.sequence_to_sequence.sequence_to_sequence import SequenceToSequenceTask

if TYPE_CHECKING:
    from tfllm.evaluation.measures import Measure


class Translation(SequenceToSequenceTask):
    """Translate a text; one model translates in one direction.

    Beside tables and JSON lines with two columns it reads lines side by side
    (`{"text": "corpus.en", "translation": "corpus.es"}`, of equally many lines) and JSON lines of
    the form `{"translation": {"en": "Hello", "es": "Hola"}}`, whose columns are the languages: say
    which is which, `columns={"text": "en", "translation": "es"}`.
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

    def measures(
        self,
        records: Sequence[Record],
        predictions: Sequence[Mapping[str, Any]],
        *,
        bleu_tokenizer: str = "auto",
    ) -> list[Measure]:
        """BLEU and chrF of all the translations together, with sacrebleu's signatures.

        Args:
            records: with their translations.
            predictions: of each.
            bleu_tokenizer: as `bleu` takes it.
        """
        from tfllm.evaluation.text_measures import bleu, chrf

        references = [record[self.target] for record in records]
        given = [prediction[self.target] for prediction in predictions]
        return [bleu(references, given, tokenize=bleu_tokenizer), chrf(references, given)]
