"""Tasks that learn from records with columns, such as a text and its label.

What such a task says is what its columns are, how a record becomes arrays, which model learns from
them, and how its answers are measured. A class for a kind of model (`EncoderTask`,
`SequenceToSequence`) says what the tasks of that kind have in common.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tfllm import pretrained
from tfllm.config import ConfigError, PrepareConfig, TrainingConfig
from tfllm.data import PreparedData, TaskData, TaskRows
from tfllm.data.preparing.record_preparation import RecordPreparation, record_files
from tfllm.data.reading.table_records import Column, Record, Source
from tfllm.data.shards.padding import padded_width
from tfllm.data.shards.splits import RowBatch
from tfllm.evaluation.evaluation import RecordEvaluation
from tfllm.evaluation.measured import Measured, measured
from tfllm.pretrained.model_folder import model_folder
from tfllm.pretrained.model_kinds import kind_of_config
from tfllm.pretrained.model_source import open_source
from tfllm.pretrained.saving import save
from tfllm.tasks.record_evaluation import evaluate_records
from tfllm.tasks.task import Task

if TYPE_CHECKING:
    from tfllm.data.reading.sources import SourceFile
    from tfllm.evaluation.measures import Measure
    from tfllm.optimization.training_step import TrainingStep
    from tfllm.pretrained import Pretrained
    from tfllm.tasks.text_model import TextModel
    from tfllm.tokenizers.base import Tokenizer

Example = dict[str, np.ndarray]
"""int32 arrays of one dimension each, by name; every example of a task has the same names"""


class LoadedTask(NamedTuple):
    """What `RecordTask.read` finds in a model folder."""

    model: TrainingStep
    tokenizer: Tokenizer
    information: dict[str, Any]


class RecordTask(Task):
    """A task that learns from records with columns."""

    kind_of_model: ClassVar[str]
    """what has a `config_class`, for errors: "encoder (a BERT)" """
    columns: ClassVar[Mapping[str, Column]]
    """what a record has, by the name that `examples` and `measures` read it under"""
    token_features: ClassVar[tuple[str, ...]] = ("token_ids",)
    """the arrays of an example whose elements are counted as tokens, for the throughput"""
    least_sequence_length: ClassVar[int] = 1
    """the smallest sequence length that leaves room for text"""
    most_measured: ClassVar[int] = 2000
    """validation records, the first ones, that are answered and measured at the end of a run"""
    prepare_settings: ClassVar[tuple[str, ...]] = (
        *("vocab_size", "tokenizer", "sequence_length", "validation_fraction", "validation"),
        *("columns", "encoding", "skip_bad_records", "seed"),
    )
    prepare_defaults: ClassVar[Mapping[str, Any]] = {"validation_fraction": 0.1}
    evaluate_settings: ClassVar[tuple[str, ...]] = (
        *("columns", "encoding", "skip_bad_records", "out", "batch_size"),
    )

    # ---- from records to rows

    def files(
        self, source: Source, config: PrepareConfig, *, exclude: Sequence[str | Path] = ()
    ) -> list[SourceFile]:
        """All files of records, those of validation among them."""
        return record_files(source, config, exclude=exclude)

    def preparation(
        self,
        source: Source,
        config: PrepareConfig,
        *,
        exclude: Sequence[str | Path],
        bar: Callable[..., Any],
    ) -> RecordPreparation:
        """Records to arrays."""
        return RecordPreparation(self, source, config, exclude=exclude, bar=bar)

    def prepare_config(
        self,
        config: PrepareConfig | None = None,
        *,
        base: str | None = None,
        sequence_length: int | None = None,
    ) -> PrepareConfig:
        """The settings with nothing left open: without a training its default length counts."""
        if sequence_length is None:
            default = TrainingConfig().sequence_length
            sequence_length = self.training_defaults.get("sequence_length", default)
        return super().prepare_config(config, base=base, sequence_length=sequence_length)

    def batched(self, data: PreparedData) -> TaskData:
        """Data whose rows become the batches of this task."""
        assert isinstance(data, TaskData), "whoever opens a folder has looked at its task"
        return data.collated(self.batch)

    @abstractmethod
    def information(self, records: Sequence[Record]) -> dict[str, Any]:
        """What the training records say that the model must know, such as {"labels": [...]}.

        It must fit JSON; it is written to tfllm.json, and every other method is given it, together
        with "sequence_length", the most tokens of an example, which the frame adds.

        Raises:
            ValueError: the records cannot be learned from, such as with one label only.
        """

    def tokenizer(
        self, base: str | None, records: Iterable[Record], *, vocab_size: int
    ) -> Tokenizer:
        """The tokenizer of the pretrained model `base`; without one, a new one.

        Args:
            base: path or name of a pretrained model.
            records: to train a new one on: the training records.
            vocab_size: of a new one.
        """
        if base is not None:
            return pretrained.load_tokenizer(base)
        return self.new_tokenizer(
            (text for record in records for text in self.texts(record)), vocab_size
        )

    @abstractmethod
    def new_tokenizer(self, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """A tokenizer that is learned from texts."""

    def texts(self, record: Record) -> Iterable[str]:
        """What a new tokenizer is trained on: the inputs that are there."""
        return (record[name] for name in self.input_columns if record.get(name))

    @abstractmethod
    def examples(
        self,
        record: Record,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[Example]:
        """A record as training examples: one, none, or several (windows of a long text).

        An example may have the array `TRUNCATED`.

        Args:
            record: by the names of `columns`; an optional column that it has not is None.
            tokenizer: as `tokenizer` gave it.
            information: as `information` gave it.
            sequence_length: the most tokens of an example.

        Raises:
            ValueError: the record cannot be learned from (a span that is not in its text), or is
                of a kind that the training records do not have (`UnknownInTraining`). The message
                need not say where the record stands: that is put before it.
        """

    @abstractmethod
    def batch(self, examples: Sequence[Example], sequence_length: int) -> RowBatch:
        """Examples as a step takes them: the inputs, labels and weights of the model's `fit`.

        Arrays are padded (`tfllm.data.shards.padding.padded`) to the longest of them, rounded up to
        32 and at most `sequence_length`. Without any example an axis that varies so is 0 long: that
        is how the frame knows which ones do. The weights have the batch first; to make a row count
        for nothing, the frame sets its weights to 0.
        """

    # ---- the model

    def pretrained_config(self, base: str) -> Any:
        """As of `Task`."""
        source = open_source(model_folder(base))
        kind = kind_of_config(source.config, source.where)
        config: Any = kind.read(source.config, source.where, None)[0]
        if not isinstance(config, self.config_class):
            raise ConfigError(
                f"{self.name} needs an {self.kind_of_model}; {source.where} is a "
                f"{source.config.get('model_type')}"
            )
        return config

    @abstractmethod
    def model(
        self,
        base: str | None,
        config: Any,
        information: Mapping[str, Any],
        training: TrainingConfig,
        tokenizer: Tokenizer,
    ) -> TrainingStep:
        """The model to train, not compiled: from `base`, or new, drawn by `training.seed`.

        Weights are float32, products of `dtype_policy(training.precision)`. Every worker makes the
        same one, in its strategy's scope. `loss_sums` and `measures` of the model are its own.
        """

    def fitted(
        self, base: str | None, config: Any, training: TrainingConfig, data: PreparedData
    ) -> tuple[TrainingStep, None]:
        """The model; its tokenizer is the data's, which are prepared with the pretrained one's."""
        assert isinstance(data, TaskData)
        return self.model(base, config, data.information, training, data.tokenizer), None

    def longest_row(self, data: PreparedData, sequence_length: int) -> int:
        """A batch is as wide as its longest example."""
        assert isinstance(data.train, TaskRows)
        return max(1, padded_width([data.train.longest], sequence_length))

    def tokens_per_step(self, data: PreparedData, batch_size: int, sequence_length: int) -> int:
        """Tokens of a batch, on average."""
        assert isinstance(data.train, TaskRows)
        return max(1, round(batch_size * data.train.num_tokens / data.train.num_examples))

    def flops_per_token(self, model: TrainingStep, config: Any, training: TrainingConfig) -> float:
        """6 for each number in the matrices, tables aside (Kaplan et al., 2020): an estimate."""
        kernels = [
            v for v in model.trainable_weights if len(v.shape) > 1 and "embedding" not in v.path
        ]
        return 6.0 * sum(math.prod(v.shape) for v in kernels)

    def measured(self, model: TrainingStep, data: PreparedData) -> tuple[Measured, ...]:
        """The answers to the validation records, measured."""
        assert isinstance(data, TaskData)
        records = data.validation_records()[: self.most_measured]
        if not records:
            return ()
        answered = self.text_model(model, data.tokenizer, data.information).predict(records)
        return tuple(measured(self.measures(records, answered)))

    def save(
        self,
        model: TrainingStep,
        folder: Path,
        data: PreparedData,
        base: Pretrained | None,
        summary: dict[str, Any],
    ) -> None:
        """Write a finished model, with what its training records said."""
        assert isinstance(data, TaskData)
        task = {"name": self.name, "information": data.information}
        save(model, folder, data.tokenizer, training_summary=summary, task=task)

    def load(
        self, path: str | Path, *, dtype: str = "float32", adapter: str | Path | None = None
    ) -> TextModel:
        """The functions from text to text of a model of this task."""
        if adapter is not None:
            raise ValueError(
                f"an adapter is for a language model, and {path} is of the task {self.name}"
            )
        # Weights of another dtype than float32 are made by the text model, which knows what stays.
        model = self.text_model(*self.read(path))
        return model if dtype == "float32" else model.with_dtype(dtype)

    def evaluate(self, model: TextModel, data: Any, **settings: Any) -> RecordEvaluation:
        """Answer records, and measure the answers: see `tfllm.tasks.record_evaluation`."""
        return evaluate_records(self, model, data, **settings)

    def read(self, folder: str | Path, *, dtype: str = "float32") -> LoadedTask:
        """A model of this task from its folder, as `pretrained.save` wrote it.

        Raises:
            OSError: there is none.
            ValueError: it was not trained for this task.
        """
        place = model_folder(folder)
        task = pretrained.task_of(place)
        if task is None or task["name"] != self.name:
            what = "for no task" if task is None else f"for {task['name']}"
            raise ValueError(
                f"{place} was trained {what}; {self.name} needs a model that was trained for it: "
                f"tfllm train --task {self.name} --model {place} --data FILE --out RUN"
            )
        model, tokenizer, _ = pretrained.load(place, dtype=dtype)
        if tokenizer is None:
            raise FileNotFoundError(f"{place} has no tokenizer; text needs one")
        return LoadedTask(model, tokenizer, task["information"])

    # ---- what it is for

    @abstractmethod
    def text_model(
        self, model: TrainingStep, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> TextModel:
        """The functions from text to text that are called locally, exported and served."""

    @abstractmethod
    def measures(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Measure]:
        """How good predictions are, the most telling measure first.

        Args:
            records: with the columns that are no inputs, too.
            predictions: what `text_model(...).predict(records)` gave for each, or of a baseline the
                same without what is not measured. One whose "error" is not empty counts as wrong.
        """

    def pictures(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]], folder: Path
    ) -> list[Path]:
        """Draw what there is to see (a confusion matrix) into `folder`; the files, maybe none."""
        return []

    def remarks(self, records: Sequence[Record], served: TextModel) -> list[str]:
        """What is to be told of records that a model is measured on, such as unknown labels."""
        return []

    # ---- for the frame

    @property
    def input_columns(self) -> list[str]:
        """The columns that a prediction is made from."""
        return [name for name, column in self.columns.items() if column.is_input]

    def key(self, record: Record) -> str:
        """What decides whether a record is kept for validation: copies of it have the same."""
        return "\x1f".join(str(record.get(name) or "") for name in self.input_columns)
