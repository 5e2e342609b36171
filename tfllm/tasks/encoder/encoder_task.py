"""Base class of tasks whose model is an encoder, such as BERT, with a head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from tfllm import pretrained
from tfllm.config import TrainingConfig
from tfllm.data.preparing.record_preparation import TRUNCATED
from tfllm.data.reading.table_records import Record
from tfllm.data.shards.padding import padded, padding_mask
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.sizes.encoders import ENCODER_SIZES
from tfllm.models.sizes.size_table import SizeTable
from tfllm.optimization.precision import dtype_policy
from tfllm.tasks.encoder.encoder_text_model import EncoderTextModel
from tfllm.tasks.record_task import Example, RecordTask

if TYPE_CHECKING:
    from tfllm.optimization.training_step import TrainingStep
    from tfllm.tokenizers.base import Tokenizer

Read = TypeVar("Read")


class EncoderTask(RecordTask):
    """Base class of tasks whose model is an encoder with a head.

    Subclasses define `head_class` (or `head`), `text_model_class`, and what is specific to the
    task.
    """

    config_class: ClassVar[type] = EncoderConfig
    sizes: ClassVar[SizeTable[Any]] = ENCODER_SIZES
    default_size: ClassVar[str] = "bert-mini"
    kind_of_model = "encoder (a BERT)"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "sequence_length": 128,
        "epochs": 3.0,
        "batch_size": 16,
        "learning_rate": 5e-4,
        "weight_decay": 0.01,
        "beta_2": 0.999,
        "final_learning_rate": 0.0,
    }
    pretrained_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 5e-5}
    min_sequence_length: ClassVar[int] = 8  # [CLS] and up to two [SEP] are among them

    head_class: ClassVar[Callable[..., TrainingStep]]
    """class of a head that needs no information from the training records"""
    text_model_class: ClassVar[type[EncoderTextModel]]

    def head(
        self, encoder: Encoder | EncoderConfig, information: Mapping[str, Any], **options: Any
    ) -> TrainingStep:
        """Create the model: the head on a pretrained encoder, or on a new one.

        Args:
            encoder: a pretrained encoder, or the architecture of a new one.
            information: information from the training records.
            options: `seed`, `dtype` and `rematerialize`, which every head takes.
        """
        return type(self).head_class(encoder, **options)

    def text_model(
        self, model: TrainingStep, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> EncoderTextModel:
        """An instance of `text_model_class`."""
        return self.text_model_class(model, tokenizer, information)

    def new_tokenizer(self, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Train a WordPiece tokenizer."""
        from tfllm.tokenizers.kinds.word_piece import WordPiece

        return WordPiece.train(texts, vocab_size)

    def model(
        self,
        base: str | None,
        config: EncoderConfig,
        information: Mapping[str, Any],
        training: TrainingConfig,
        tokenizer: Tokenizer,
    ) -> TrainingStep:
        """The head on the pretrained encoder, or on a new one."""
        options: dict[str, Any] = {"seed": training.seed, "dtype": dtype_policy(training.precision)}
        encoder: Encoder | EncoderConfig = config
        if base is None:
            options["rematerialize"] = training.rematerialize
        else:
            encoder, _ = pretrained.load_encoder(
                base, rematerialize=training.rematerialize, **options
            )
        return self.head(encoder, information, **options)

    def batch_inputs(
        self, examples: Sequence[Example], sequence_length: int
    ) -> dict[str, np.ndarray]:
        """`token_ids` and `token_type_ids` int32 and `padding_mask` bool, all [B, T]."""
        ids = [example["token_ids"] for example in examples]
        types = [example["token_type_ids"] for example in examples]
        return {
            "token_ids": padded(ids, sequence_length),
            "token_type_ids": padded(types, sequence_length),
            "padding_mask": padding_mask(ids, sequence_length),
        }


def encoded_texts(
    tokenizer: Tokenizer, text: str, second_text: str | None, sequence_length: int
) -> Example:
    """Tokenize as [CLS] text [SEP] or [CLS] text [SEP] second_text [SEP], with truncation.

    If a pair is longer than `sequence_length`, each text may use half of the available tokens, and
    what the other one does not need. `tfllm.tasks.encoder.encoder_inputs.encoder_inputs` does the
    same in a graph.

    Returns:
        `token_ids`, `token_type_ids` (1 for the second text and its end), and `TRUNCATED` [1], the
        number of tokens that were cut off.
    """
    first = tokenizer.encode(text, add_special=False, parse_special=False)
    second = None
    if second_text is not None:
        second = tokenizer.encode(second_text, add_special=False, parse_special=False)
    room = sequence_length - (2 if second is None else 3)
    keep = min(len(first), max(room - len(second or []), room - room // 2))
    parts, cut = [first[:keep]], len(first) - keep
    if second is not None:
        parts.append(second[: room - keep])
        cut += len(second) - len(parts[1])
    return example_with_special_tokens(tokenizer, *parts) | {TRUNCATED: np.array([cut], np.int32)}


def example_with_special_tokens(tokenizer: Tokenizer, *parts: Sequence[int]) -> Example:
    """Join parts as [CLS] first [SEP], or [CLS] first [SEP] second [SEP].

    `tfllm.tasks.encoder.encoder_inputs.inputs_with_special_tokens` does the same in a graph.

    Returns:
        `token_ids`, and `token_type_ids` (1 for the second part and its end).
    """
    begin, end = map(tokenizer.special_id, ("cls_token", "sep_token"))
    ids, types = [begin], [0]
    for number, part in enumerate(parts):
        ids += [*part, end]
        types += [number] * (len(part) + 1)
    return {"token_ids": np.array(ids, np.int32), "token_type_ids": np.array(types, np.int32)}


def readable(records: Iterable[Record], read: Callable[[Record], Read]) -> tuple[list[Read], str]:
    """Apply `read` to records, and skip those for which it raises a ValueError.

    `examples` reports the place of each skipped record later.

    Returns:
        The results, and the first error as " (PLACE: REASON)", to be included in another error, or
        "" if there is none.
    """
    found, first = [], ""
    for record in records:
        try:
            found.append(read(record))
        except ValueError as error:
            first = first or f" ({record.where}: {error})"
    return found, first
