"""Base class of tasks of an encoder-decoder, which generates a text from another one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfllm import pretrained
from tfllm.config import ConfigError, TrainingConfig, build
from tfllm.data.preparing.record_preparation import TRUNCATED
from tfllm.data.reading.table_records import Record
from tfllm.data.shards.padding import padded, padding_mask
from tfllm.data.shards.splits import RowBatch
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
from tfllm.models.sizes.encoder_decoders import ENCODER_DECODER_SIZES
from tfllm.models.sizes.size_table import SizeTable
from tfllm.optimization.precision import dtype_policy
from tfllm.pretrained.model_folder import model_folder
from tfllm.pretrained.model_kinds import kind_of_config
from tfllm.pretrained.model_source import open_source
from tfllm.pretrained.task_information import search_of
from tfllm.tasks.record_task import Example, LoadedTask, RecordTask
from tfllm.tasks.sequence_to_sequence.sequence_generation import SearchSettings, SequenceGeneration
from tfllm.tokenizers.kinds.byte_pair import BytePairTokenizer

if TYPE_CHECKING:
    from tfllm.optimization.training_step import TrainingStep
    from tfllm.tokenizers.base import Tokenizer

END, PAD = "</s>", "<pad>"
"""first special tokens of a new tokenizer, with the ids 0 and 1; as in Marian and T5, a text ends
with END, and the decoder starts with PAD"""


class SequenceToSequenceTask(RecordTask):
    """Base class of tasks whose model is an encoder-decoder.

    Subclasses define the columns and the metrics.

    Sources and targets share one tokenizer: that of the pretrained model, or byte-level BPE trained
    on both, which can encode any text. (A Marian tokenizer splits sources and targets differently,
    but with common ids.) Both end with an end token. Texts longer than the sequence length are
    truncated at their end; a truncated target has no end token.
    """

    config_class: ClassVar[type] = EncoderDecoderConfig
    sizes: ClassVar[SizeTable[Any]] = ENCODER_DECODER_SIZES
    default_size: ClassVar[str] = "transformer-mini"
    kind_of_model = "encoder-decoder (a T5 or a Marian)"
    token_features: ClassVar[tuple[str, ...]] = ("source_ids", "labels")
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "sequence_length": 128,
        "epochs": 10.0,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "beta_2": 0.98,
        "weight_decay": 0.01,
        "final_learning_rate": 0.0,
    }
    pretrained_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 3e-4, "epochs": 3.0}
    max_evaluated_records: ClassVar[int] = 200
    label_smoothing: ClassVar[float] = 0.1
    """label smoothing in the training of a new model (Vaswani et al., 2017)"""
    search_defaults: ClassVar[Mapping[str, Any]] = {}
    """defaults of `SearchSettings` that differ for this task"""
    source: ClassVar[str]
    """name of the input column"""
    target: ClassVar[str]
    """name of the output column"""

    # ---- from records to arrays

    def information(self, records: Sequence[Record]) -> dict[str, Any]:
        """Empty, since the model needs no information from the records.

        Raises:
            ValueError: all targets are the same text.
        """
        targets = {record[self.target] for record in records}
        if len(targets) < 2:
            raise ValueError(
                f"there is nothing to learn if every {self.target} is the same text; all "
                f"{len(records):,} training records have {next(iter(targets), None)!r}"
            )
        return {}

    def texts(self, record: Record) -> Iterable[str]:
        """Source and target, on which a new tokenizer is trained."""
        return (record[self.source], record[self.target])

    def new_tokenizer(self, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Train a byte-level BPE tokenizer."""
        return BytePairTokenizer.train(texts, vocab_size, special_tokens=(END, PAD))

    def examples(
        self,
        record: Record,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[Example]:
        """One example: `source_ids`, `token_ids` (inputs of the decoder) and `labels`."""
        source, target = (
            side.encode(record[name], add_special=False, parse_special=False)
            for side, name in (
                (tokenizer, self.source),
                (tokenizer.target, self.target),
            )
        )
        end = tokenizer.end_token_id
        cut = max(len(source) + 1 - sequence_length, 0) + max(len(target) + 1 - sequence_length, 0)
        source_ids = [*source[: sequence_length - 1], end]
        labels = [*target, end][:sequence_length]
        token_ids = [start_token_id(tokenizer), *labels[:-1]]
        arrays = {"source_ids": source_ids, "token_ids": token_ids, "labels": labels}
        example = {name: np.array(ids, np.int32) for name, ids in arrays.items()}
        return [{**example, TRUNCATED: np.array([cut], np.int32)}]

    def batch(self, examples: Sequence[Example], sequence_length: int) -> RowBatch:
        """A batch: `source_ids` int32 and `source_mask` bool [B, S], `token_ids` int32 [B, T];
        labels int32 and weights float32 [B, T]."""
        source, tokens, labels = (
            [example[name] for example in examples]
            for name in ("source_ids", "token_ids", "labels")
        )
        inputs = {
            "source_ids": padded(source, sequence_length),
            "source_mask": padding_mask(source, sequence_length),
            "token_ids": padded(tokens, sequence_length),
        }
        weights = padding_mask(labels, sequence_length).astype(np.float32)
        return RowBatch(inputs, padded(labels, sequence_length), weights)

    # ---- the model

    def new_config(self, size: str | None, fields: Mapping[str, Any]) -> EncoderDecoderConfig:
        """As in `Task`, with the special token ids of a new tokenizer."""
        ids = {"decoder_start_token_id": 1, "never_generated": (1,)}
        return super().new_config(size, {**ids, **fields})

    def model(
        self,
        base: str | None,
        config: EncoderDecoderConfig,
        information: Mapping[str, Any],
        training: TrainingConfig,
        tokenizer: Tokenizer,
    ) -> TrainingStep:
        """The pretrained model, or a new one."""
        options: dict[str, Any] = {
            "seed": training.seed,
            "dtype": dtype_policy(training.precision),
            "rematerialize": training.rematerialize,
        }
        if base is None:
            model = EncoderDecoder(config, label_smoothing=self.label_smoothing, **options)
        else:
            model = pretrained.load(base, **options).model
        start = start_token_id(tokenizer)
        if model.config.decoder_start_token_id != start:
            raise ConfigError(
                f"the model's decoder must start with the tokenizer's {PAD}, which has the id "
                f"{start}; its decoder_start_token_id is {model.config.decoder_start_token_id}"
            )
        return model

    def read(self, folder: str | Path, *, dtype: str = "float32") -> LoadedTask:
        """Read a model of this task, or an encoder-decoder whose folder names no task (a T5).

        Folders written by other libraries may contain settings of the search (`search_of`).

        Raises:
            OSError: there is no model.
            ValueError: the model was trained for another task, is not an encoder-decoder, or has
                invalid settings of the search.
        """
        place = model_folder(folder)
        loaded = self._loaded(place, dtype)
        try:
            self._search_settings(loaded.information)
        except ConfigError as error:
            raise ConfigError(f"the search settings in {place}: {error}") from None
        return loaded

    def _loaded(self, place: Path, dtype: str) -> LoadedTask:
        if pretrained.task_of(place) is None and place.is_dir():
            source = open_source(place)
            if kind_of_config(source.config, source.where).model_class is EncoderDecoder:
                model, tokenizer, _ = pretrained.load(place, dtype=dtype)
                if tokenizer is None:
                    raise FileNotFoundError(f"{place} has no tokenizer; text needs one")
                return LoadedTask(model, tokenizer, {"search": search_of(place)})
        return super().read(place, dtype=dtype)

    # ---- what it is for

    def text_model(
        self, model: TrainingStep, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> SequenceGeneration:
        """A `SequenceGeneration` with the task's settings of the search."""
        assert isinstance(model, EncoderDecoder)
        return SequenceGeneration(
            model,
            tokenizer,
            information,
            self._search_settings(information),
            input_name=self.source,
            output_name=self.target,
            name=self.name,
        )

    def _search_settings(self, information: Mapping[str, Any]) -> SearchSettings:
        return build(SearchSettings, {**self.search_defaults, **information.get("search", {})})


def start_token_id(tokenizer: Tokenizer) -> int:
    """The id of the token that the decoder starts with.

    Raises:
        ConfigError: the tokenizer has no such token.
    """
    start = tokenizer.token_id(PAD)
    if start is None:
        raise ConfigError(
            f"an encoder-decoder's tokenizer must have the token {PAD}, which the decoder starts "
            f"with; it has the special tokens {', '.join(tokenizer.special_tokens)}"
        )
    return start
