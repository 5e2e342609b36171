"""What tasks of an encoder with a head have in common: BERT and its kin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfllm import pretrained
from tfllm.config import ConfigError, TrainingConfig, build, unknown_name
from tfllm.data.preparing.record_preparation import TRUNCATED
from tfllm.data.reading.table_records import Record
from tfllm.data.shards.padding import padded, padding_mask
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_config import ENCODER_SIZES, EncoderConfig
from tfllm.models.longer_context import with_context
from tfllm.optimization.precision import dtype_policy
from tfllm.pretrained.model_folder import model_folder
from tfllm.pretrained.model_kinds import kind_of_config
from tfllm.pretrained.model_source import open_source
from tfllm.tasks.record_task import Example, RecordTask

if TYPE_CHECKING:
    from tfllm.optimization.training_step import TrainingStep
    from tfllm.tokenizers.base import Tokenizer


class EncoderTask(RecordTask):
    """A task whose model is an encoder with a head. A class says `head` and the rest of its own."""

    config_class: ClassVar[type] = EncoderConfig
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
    least_sequence_length: ClassVar[int] = 8  # [CLS] and up to two [SEP] are among them

    @abstractmethod
    def head(
        self, encoder: Encoder | EncoderConfig, information: Mapping[str, Any], **options: Any
    ) -> TrainingStep:
        """The model on a pretrained encoder, or on a new one of that architecture.

        Args:
            encoder: either.
            information: of the training records.
            options: `seed`, `dtype` and `rematerialize`, which every head takes.
        """

    def texts(self, record: Record) -> Iterable[str]:
        """What a new tokenizer is trained on: the inputs that are there."""
        return (record[name] for name in self.input_columns if record.get(name))

    def tokenizer(
        self, base: str | None, records: Iterable[Record], *, vocab_size: int
    ) -> Tokenizer:
        """The pretrained model's, or a WordPiece vocabulary of the records' texts."""
        if base is not None:
            return pretrained.load_tokenizer(base)
        from tfllm.tokenizers.word_piece import WordPiece

        texts = (text for record in records for text in self.texts(record))
        return WordPiece.train(texts, vocab_size)

    def config(
        self,
        base: str | None,
        preset: str | None,
        sizes: Mapping[str, Any],
        *,
        vocab_size: int,
        sequence_length: int,
    ) -> EncoderConfig:
        """The pretrained encoder's architecture, or that of a preset with some sizes changed."""
        if base is not None:
            source = open_source(model_folder(base))
            config = kind_of_config(source.config, source.where).read(
                source.config, source.where, None
            )[0]
            if not isinstance(config, EncoderConfig):
                raise ConfigError(
                    f"{self.name} needs an encoder (a BERT); {source.where} is a "
                    f"{source.config.get('model_type')}"
                )
            if vocab_size > config.vocab_size:
                raise ConfigError(
                    f"the tokenizer does not fit the model: it has {vocab_size} token ids, the "
                    f"model's vocab_size is {config.vocab_size}"
                )
            if sequence_length > config.max_sequence_length:
                raise ConfigError(
                    "sequence_length must be at most the model's context "
                    f"({config.max_sequence_length}); received {sequence_length}"
                )
            return config
        name = preset or "bert-mini"
        if name not in ENCODER_SIZES:
            raise ConfigError(unknown_name("preset of an encoder", name, ENCODER_SIZES))
        config = build(EncoderConfig, {"vocab_size": vocab_size, **ENCODER_SIZES[name], **sizes})
        return with_context(config, sequence_length)

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
    tokenizer: Any, text: str, second_text: str | None, sequence_length: int
) -> Example:
    """[CLS] text [SEP], or [CLS] text [SEP] second_text [SEP], cut to `sequence_length` tokens.

    Of a pair that is too long, either text keeps half of the room, and what the other leaves.
    `tfllm.tasks.encoder.encoder_inputs.encoder_inputs` does the same in a graph.

    Returns:
        `token_ids`, `token_type_ids` (1 for the second text and its end), and `TRUNCATED` [1], how
        many tokens were cut off.
    """
    first = tokenizer.encode(text, add_special=False, parse_special=False)
    second = None
    if second_text is not None:
        second = tokenizer.encode(second_text, add_special=False, parse_special=False)
    room = sequence_length - (2 if second is None else 3)
    keep = min(len(first), max(room - len(second or []), room - room // 2))
    ids = [tokenizer.cls_token_id, *first[:keep], tokenizer.sep_token_id]
    types = [0] * len(ids)
    cut = len(first) - keep
    if second is not None:
        cut += max(len(second) - (room - keep), 0)
        second = second[: room - keep]
        ids += [*second, tokenizer.sep_token_id]
        types += [1] * (len(second) + 1)
    return {
        "token_ids": np.array(ids, np.int32),
        "token_type_ids": np.array(types, np.int32),
        TRUNCATED: np.array([cut], np.int32),
    }
