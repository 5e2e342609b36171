"""What a task is for training and evaluation.

A task that learns from records (a text and its label, a sentence and its translation) is one class
that defines what its columns are, how a record becomes arrays, which model learns from them, and
how what the model says is measured. `train(task=...)`, `evaluate`, `predict`, `load_task` and
`export` ask this class, and nothing else in tfllm knows a task by name.

The steps of a run, in order, each worker with the same definition:

1. The chief reads the files (`columns`) and divides the records into training and validation.
2. `information` looks at the training records: what the model has to know besides its weights.
3. `tokenizer` takes the pretrained model's, or trains one; `examples` makes the arrays, once; they
   are written to RUN/data with the information, the tokenizer and the validation records.
4. `config` and `model`: the architecture and the model, on every worker.
5. `batch`: some examples as a step takes them.
6. `served` and `measures`: the validation records answered as a server would, and measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tfllm.config import TrainingConfig
from tfllm.data.reading.table_records import Column, Record
from tfllm.data.shards.splits import RowBatch

if TYPE_CHECKING:
    from tfllm.evaluation.measures import Measure
    from tfllm.optimization.training_step import TrainingStep
    from tfllm.tasks.served import ServedTask
    from tfllm.tokenizers.base import Tokenizer

Example = dict[str, np.ndarray]
"""int32 arrays of one dimension each, by name; every example of a task has the same names"""

TRUNCATED = "truncated"
"""The name of an example that says how many texts lost a part to the sequence length, [1]. It is
counted and told, and never reaches `batch`."""


class UnknownInTraining(ValueError):
    """A good record that a model cannot know: of a label that no training record has, or alike."""


class LoadedTask(NamedTuple):
    """What `TaskDefinition.load` finds in a model folder."""

    model: TrainingStep
    tokenizer: Tokenizer
    information: dict[str, Any]


class TaskDefinition(ABC):
    """What a task is. It has no state: an instance is made where one is asked for.

    A definition for a kind of model (`EncoderTask`) does steps 3 and 4 for the tasks of that kind.
    """

    name: ClassVar[str]
    """as `train(task=...)` and tfllm.json call it, such as "classification" """
    columns: ClassVar[Mapping[str, Column]]
    """what a record has, by the name that `examples` and `measures` read it under"""
    config_class: ClassVar[type]
    """the frozen dataclass of the model's architecture, such as EncoderConfig"""
    token_features: ClassVar[tuple[str, ...]] = ("token_ids",)
    """the arrays of an example whose elements are counted as tokens, for the throughput"""
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    """fields of `TrainingConfig` whose defaults are others for this task"""
    pretrained_defaults: ClassVar[Mapping[str, Any]] = {}
    """the same, over these, for a run that begins with a pretrained model"""
    least_sequence_length: ClassVar[int] = 1
    """the smallest sequence length that leaves room for text"""
    most_measured: ClassVar[int] = 2000
    """validation records, the first ones, that are answered and measured at the end of a run"""

    # ---- from records to arrays

    @abstractmethod
    def information(self, records: Sequence[Record]) -> dict[str, Any]:
        """What the training records say that the model must know, such as {"labels": [...]}.

        It must fit JSON; it is written to tfllm.json, and every other method is given it, together
        with "sequence_length", the most tokens of an example, which the frame adds.

        Raises:
            ValueError: the records cannot be learned from, such as with one label only.
        """

    @abstractmethod
    def tokenizer(
        self, base: str | None, records: Iterable[Record], *, vocab_size: int
    ) -> Tokenizer:
        """The tokenizer of the pretrained model `base`; without one, a new one.

        Args:
            base: path or name of a pretrained model.
            records: to train a new one on: the training records.
            vocab_size: of a new one.
        """

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

    @abstractmethod
    def config(
        self,
        base: str | None,
        preset: str | None,
        sizes: Mapping[str, Any],
        *,
        vocab_size: int,
        sequence_length: int,
    ) -> Any:
        """The architecture, an instance of `config_class`. Reads no weights.

        Args:
            base: path or name of a pretrained model, whose architecture it is.
            preset: without one, the name of a preset; None: a small one.
            sizes: fields of the architecture, over the preset's.
            vocab_size: ids of the tokenizer.
            sequence_length: the most tokens of an example: room that a new model must have.

        Raises:
            ConfigError: no such preset or field; the pretrained model has fewer ids, or no room.
        """

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

    def load(self, folder: str | Path, *, dtype: str = "float32") -> LoadedTask:
        """A model of this task from its folder, as `pretrained.save` wrote it.

        Raises:
            OSError: there is none.
            ValueError: it was not trained for this task.
        """
        from tfllm import pretrained
        from tfllm.pretrained.model_folder import model_folder

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
    def served(
        self, model: TrainingStep, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> ServedTask:
        """The functions from text to text that are called locally, exported and served."""

    measure_settings: tuple[str, ...] = ()
    """names of what `measures` takes besides, such as the tokenizer of a metric"""

    @abstractmethod
    def measures(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Measure]:
        """How good predictions are, the most telling measure first.

        Args:
            records: with the columns that are no inputs, too.
            predictions: what `served(...).predict(records)` gave for each, or of a baseline the
                same without what is not measured. One whose "error" is not empty counts as wrong.
        """

    def pictures(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]], folder: Path
    ) -> list[Path]:
        """Draw what there is to see (a confusion matrix) into `folder`; the files, maybe none."""
        return []

    def remarks(self, records: Sequence[Record], served: ServedTask) -> list[str]:
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
