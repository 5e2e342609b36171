"""Base class of tasks that learn from records with columns, such as a text and its label.

Such a task defines its columns, how a record is converted to arrays, which model learns from them,
and how its answers are evaluated. Subclasses for a kind of model (`EncoderTask`,
`SequenceToSequenceTask`) define what the tasks of that kind share.
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
from tfllm.evaluation.metric_values import MetricValue, metric_values
from tfllm.pretrained.model_folder import model_folder
from tfllm.pretrained.model_kinds import kind_of_config
from tfllm.pretrained.model_source import open_source
from tfllm.pretrained.saving import save
from tfllm.tasks.record_evaluation import evaluate_records
from tfllm.tasks.task import Task

if TYPE_CHECKING:
    from tfllm.data.reading.sources import SourceFile
    from tfllm.evaluation.metrics import Metric
    from tfllm.optimization.training_step import TrainingStep
    from tfllm.pretrained import Pretrained
    from tfllm.tasks.text_model import TextModel
    from tfllm.tokenizers.base import Tokenizer

Example = dict[str, np.ndarray]
"""one-dimensional int32 arrays by name; all examples of a task have the same names"""


class LoadedTask(NamedTuple):
    """The content of a model folder, as `RecordTask.read` returns it."""

    model: TrainingStep
    tokenizer: Tokenizer
    information: dict[str, Any]


class RecordTask(Task):
    """Base class of tasks that learn from records with columns."""

    kind_of_model: ClassVar[str]
    """noun for models with the task's `config_class`, for errors: "encoder (a BERT)" """
    columns: ClassVar[Mapping[str, Column]]
    """columns of a record, by the names that `examples` and `metrics` use"""
    token_features: ClassVar[tuple[str, ...]] = ("token_ids",)
    """names of the arrays of an example whose elements count as tokens, for the throughput"""
    min_sequence_length: ClassVar[int] = 1
    """the smallest sequence length that leaves room for text"""
    max_evaluated_records: ClassVar[int] = 2000
    """maximum number of validation records that are evaluated at the end of a run"""
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
        """All files of records, including validation files."""
        return record_files(source, config, exclude=exclude)

    def preparation(
        self,
        source: Source,
        config: PrepareConfig,
        *,
        exclude: Sequence[str | Path],
        bar: Callable[..., Any],
    ) -> RecordPreparation:
        """The preparation of records as arrays."""
        return RecordPreparation(self, source, config, exclude=exclude, bar=bar)

    def prepare_config(
        self,
        config: PrepareConfig | None = None,
        *,
        base: str | None = None,
        sequence_length: int | None = None,
    ) -> PrepareConfig:
        """The settings with all defaults resolved; `sequence_length` defaults to the task's."""
        if sequence_length is None:
            default = TrainingConfig().sequence_length
            sequence_length = self.training_defaults.get("sequence_length", default)
        return super().prepare_config(config, base=base, sequence_length=sequence_length)

    def batched(self, data: PreparedData) -> TaskData:
        """Prepared data whose rows are batched by this task."""
        assert isinstance(data, TaskData), "whoever opens a folder has looked at its task"
        return data.collated(self.batch)

    @abstractmethod
    def information(self, records: Sequence[Record]) -> dict[str, Any]:
        """Information from the training records that the model needs, such as {"labels": [...]}.

        It must be representable in JSON. It is written to tfllm.json, and passed to all other
        methods, together with "sequence_length", the maximum number of tokens of an example, which
        is added by the caller.

        Raises:
            ValueError: nothing can be learned from the records, for example if there is only one
                label.
        """

    def tokenizer(
        self, base: str | None, records: Iterable[Record], *, vocab_size: int
    ) -> Tokenizer:
        """Load the tokenizer of a pretrained model, or train a new one.

        Args:
            base: path or name of the pretrained model, or None.
            records: training records, on which a new tokenizer is trained.
            vocab_size: vocabulary size of a new tokenizer.
        """
        if base is not None:
            return pretrained.load_tokenizer(base)
        return self.new_tokenizer(
            (text for record in records for text in self.texts(record)), vocab_size
        )

    @abstractmethod
    def new_tokenizer(self, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Train a tokenizer on texts."""

    def texts(self, record: Record) -> Iterable[str]:
        """The texts of a record that a new tokenizer is trained on: its inputs."""
        return (record[name] for name in self.input_columns if record.get(name))

    @abstractmethod
    def examples(
        self,
        record: Record,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[Example]:
        """Convert a record to training examples: one, none, or several (windows of a long text).

        An example may have the array `TRUNCATED`.

        Args:
            record: record by the names of `columns`; a missing optional column is None.
            tokenizer: result of `tokenizer`.
            information: result of `information`.
            sequence_length: maximum number of tokens of an example.

        Raises:
            ValueError: the record is invalid (such as a span outside its text), or of a kind that
                the training records do not have (`UnknownInTraining`). The message need not name
                the place of the record, which the caller adds.
        """

    @abstractmethod
    def batch(self, examples: Sequence[Example], sequence_length: int) -> RowBatch:
        """Batch examples: the inputs, labels and weights for the model's `fit`.

        Arrays are padded (`tfllm.data.shards.padding.padded`) to the longest of them, rounded up to
        a multiple of 32 and at most `sequence_length`. Without examples, axes of varying size must
        have size 0, by which the caller recognises them. The first axis of the weights is the
        batch; the caller sets the weights of padding rows to 0.
        """

    # ---- the model

    def pretrained_config(self, base: str) -> Any:
        """As in `Task`."""
        source = open_source(model_folder(base))
        kind = kind_of_config(source.config, source.where)
        config: Any = kind.read(source.config, source.where, None)[0]
        if not isinstance(config, self.config_class):
            raise ConfigError(
                f"{self.name} needs an {self.kind_of_model}; the model_type of "
                f"{source.where} is {source.config.get('model_type')!r}"
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
        """Create the model to train, not compiled: from `base`, or with weights from
        `training.seed`.

        Weights are float32, products have `dtype_policy(training.precision)`. Every worker creates
        the same model in the scope of its strategy. The model defines its `loss_sums` and
        `metrics`.
        """

    def fitted(
        self, base: str | None, config: Any, training: TrainingConfig, data: PreparedData
    ) -> tuple[TrainingStep, None]:
        """The model to train; the data were prepared with its tokenizer."""
        assert isinstance(data, TaskData)
        return self.model(base, config, data.information, training, data.tokenizer), None

    def longest_row(self, data: PreparedData, sequence_length: int) -> int:
        """Number of tokens in the longest padded example."""
        assert isinstance(data.train, TaskRows)
        return max(1, padded_width([data.train.longest], sequence_length))

    def tokens_per_step(self, data: PreparedData, batch_size: int, sequence_length: int) -> int:
        """Average number of tokens in a batch."""
        assert isinstance(data.train, TaskRows)
        return max(1, round(batch_size * data.train.num_tokens / data.train.num_examples))

    def flops_per_token(self, model: TrainingStep, config: Any, training: TrainingConfig) -> float:
        """Estimated as 6 per parameter of matrices, without embeddings (Kaplan et al., 2020)."""
        kernels = [
            v for v in model.trainable_weights if len(v.shape) > 1 and "embedding" not in v.path
        ]
        return 6.0 * sum(math.prod(v.shape) for v in kernels)

    def task_metrics(self, model: TrainingStep, data: PreparedData) -> tuple[MetricValue, ...]:
        """Metrics of the model's answers to the validation records."""
        assert isinstance(data, TaskData)
        records = data.validation_records()[: self.max_evaluated_records]
        if not records:
            return ()
        answered = self.text_model(model, data.tokenizer, data.information).predict(records)
        return tuple(metric_values(self.metrics(records, answered)))

    def save(
        self,
        model: TrainingStep,
        folder: Path,
        data: PreparedData,
        base: Pretrained | None,
        summary: dict[str, Any],
    ) -> None:
        """Write a finished model with its task and information."""
        assert isinstance(data, TaskData)
        task = {"name": self.name, "information": data.information}
        save(model, folder, data.tokenizer, training_summary=summary, task=task)

    def load(
        self, path: str | Path, *, dtype: str = "float32", adapter: str | Path | None = None
    ) -> TextModel:
        """Load a model of this task as functions from text to text."""
        if adapter is not None:
            raise ValueError(
                f"an adapter is for a language model, and {path} is of the task {self.name}"
            )
        # The text model converts to other dtypes, since it knows what must stay float32.
        model = self.text_model(*self.read(path))
        return model if dtype == "float32" else model.with_dtype(dtype)

    def evaluate(self, model: TextModel, data: Any, **settings: Any) -> RecordEvaluation:
        """Evaluate a model's answers to records; see `tfllm.tasks.record_evaluation`."""
        return evaluate_records(self, model, data, **settings)

    def read(self, folder: str | Path, *, dtype: str = "float32") -> LoadedTask:
        """Read a model of this task from the folder that `pretrained.save` wrote.

        Raises:
            OSError: there is no model.
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
        """The text model, whose functions are called locally, exported and served."""

    @abstractmethod
    def metrics(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Metric]:
        """Metrics of predictions, the most important one first.

        Args:
            records: records with all columns.
            predictions: result of `text_model(...).predict(records)`, or predictions of a baseline,
                which only need the values that are evaluated. A prediction whose "error" is not
                empty counts as wrong.
        """

    def pictures(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]], folder: Path
    ) -> list[Path]:
        """Draw pictures, such as a confusion matrix, into `folder`; returns the files, if any."""
        return []

    def remarks(self, records: Sequence[Record], served: TextModel) -> list[str]:
        """Remarks on the records of an evaluation, such as on unknown labels."""
        return []

    # ---- for callers

    @property
    def input_columns(self) -> list[str]:
        """The names of the columns that are inputs of predictions."""
        return [name for name, column in self.columns.items() if column.is_input]

    def key(self, record: Record) -> str:
        """The text whose hash decides whether a record is held out; equal for copies of it."""
        return "\x1f".join(str(record.get(name) or "") for name in self.input_columns)
