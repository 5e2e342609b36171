"""The interface of a task, which preparation, training, evaluation and export use.

A task is one declaration: how records become training examples, how rows are batched, which model
learns, which metrics evaluate it, and which functions from text to text result. Predicting the next
token of documents is a task (`language_modeling`) just like classification. `prepare`, `train`,
`evaluate` and `export` are given a `Task`, and do not depend on which one it is.

The steps of a run in order, each worker with the same task:

1. The chief prepares the records (`prepare_config`, `preparation`), unless they are prepared.
2. `architecture` and `fitted`: the model, on every worker; `check_data`, if it is pretrained.
3. `batched`: the data, whose rows are batched.
4. `task_metrics`: the metrics of answers to the validation records.
5. `save`: the finished model, in a folder that names its task.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tfllm.config import ConfigError, PrepareConfig, TrainingConfig, to_dict
from tfllm.config.reading import renamed
from tfllm.data import PreparedData
from tfllm.models.longer_context import with_context
from tfllm.models.sizes.size_table import SizeTable
from tfllm.pretrained.model_folder import is_pretrained

if TYPE_CHECKING:
    from tfllm.data.preparing.preparation_steps import Preparation
    from tfllm.data.reading.sources import SourceFile
    from tfllm.data.reading.table_records import Column
    from tfllm.evaluation.evaluation import Evaluation
    from tfllm.evaluation.metric_values import MetricValue
    from tfllm.optimization.training_step import TrainingStep
    from tfllm.pretrained import Pretrained
    from tfllm.tasks.text_model import TextModel


class Task(ABC):
    """Base class of tasks. A task has no state: instances are created on demand.

    Examples:
        >>> from tfllm.tasks import Task, task_named
        >>> task = task_named("classification")
        >>> isinstance(task, Task), task.name, list(task.columns)
        (True, 'classification', ['text', 'second_text', 'label'])
    """

    name: ClassVar[str]
    """name in `train(task=...)` and tfllm.json, such as "classification" """
    config_class: ClassVar[type]
    """frozen dataclass of the model's architecture, such as EncoderConfig"""
    sizes: ClassVar[SizeTable[Any]]
    """named sizes of a new model"""
    default_size: ClassVar[str]
    """size of a new model if none is named: a small one"""
    columns: ClassVar[Mapping[str, Column]] = {}
    """columns of a record by the names that the task uses; empty for a language model, whose
    records have the keys of `tfllm.data.reading.record_keys`"""
    prepare_settings: ClassVar[tuple[str, ...]]
    """fields of `PrepareConfig` that the task supports; others must have their defaults"""
    prepare_defaults: ClassVar[Mapping[str, Any]] = {}
    """defaults of `PrepareConfig` that differ for this task"""
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    """defaults of `TrainingConfig` that differ for this task"""
    pretrained_defaults: ClassVar[Mapping[str, Any]] = {}
    """further defaults, which override these, for a run that starts from a pretrained model"""
    fine_tuning_rates: ClassVar[tuple[float, float]] = (1e-5, 2e-4)
    """default learning rates for a pretrained model: for all its weights, and for an adapter"""
    sequences_per_row: ClassVar[int] = 1
    """number of token sequences in a row: 2 for a pair of replies"""
    needs_pretrained: ClassVar[bool] = False
    """whether only a pretrained model can learn the task"""
    trains_in_part: ClassVar[bool] = False
    """whether an adapter, or the last blocks, can be trained instead of the whole model"""
    has_reference: ClassVar[bool] = False
    """whether training compares the model with its initial state"""

    # ---- from records to rows

    @abstractmethod
    def files(
        self, source: Any, config: PrepareConfig, *, exclude: Sequence[str | Path] = ()
    ) -> list[SourceFile]:
        """All files that a preparation reads, including validation files.

        Raises:
            FileNotFoundError: there are no files.
        """

    @abstractmethod
    def preparation(
        self,
        source: Any,
        config: PrepareConfig,
        *,
        exclude: Sequence[str | Path],
        bar: Callable[..., Any],
    ) -> Preparation:
        """The preparation of records, from files to shards.

        Args:
            source: files of records.
            config: settings returned by `prepare_config`.
            exclude: folders that are not searched.
            bar: creates a progress bar.

        Raises:
            FileNotFoundError: there are no such files.
            ValueError: a file cannot contain records of this task.
        """

    def batched(self, data: PreparedData) -> PreparedData:
        """Prepared data whose rows are batched by this task."""
        return data

    def prepare_config(
        self,
        config: PrepareConfig | None = None,
        *,
        base: str | None = None,
        sequence_length: int | None = None,
    ) -> PrepareConfig:
        """The settings of a preparation with all defaults resolved.

        Args:
            config: settings. Defaults to `PrepareConfig()`.
            base: path or name of the pretrained model to train, whose tokenizer is used.
            sequence_length: sequence length of the training, in tokens.

        Raises:
            ConfigError: a setting is not supported by the task, or the tokenizer is not that of the
                model.
        """
        config = config or PrepareConfig()
        default = PrepareConfig()
        for name, value in vars(config).items():
            if name == "text_field" and value == config.column_names.get("text"):
                continue  # set by the columns
            if value != getattr(default, name) and name not in self.prepare_settings:
                raise ConfigError(
                    f"records of the task {self.name} are prepared with "
                    f"{', '.join(self.prepare_settings)}; received {name}={value!r}"
                )
        if base is not None and config.tokenizer not in (None, base):
            raise ConfigError(
                f"tokenizer must be that of the pretrained model {base}; received "
                f"{config.tokenizer!r}; leave it out"
            )
        wanted = {"tokenizer": base, "sequence_length": sequence_length}
        values = {
            name: value
            for name, value in {**self.prepare_defaults, **wanted}.items()
            if name in self.prepare_settings and getattr(config, name) == getattr(default, name)
        }
        return dataclasses.replace(config, **values)

    # ---- the model

    def new_config(self, size: str | None, fields: Mapping[str, Any]) -> Any:
        """The architecture of a new model, an instance of `config_class`.

        Args:
            size: name of a size, a key of `sizes`; None: `default_size`.
            fields: fields of the architecture, which override those of the size.

        Raises:
            ConfigError: no such size or field.
        """
        return self.sizes.config(size or self.default_size, **fields)

    @abstractmethod
    def pretrained_config(self, base: str) -> Any:
        """The architecture of a pretrained model, an instance of `config_class`, without weights.

        Args:
            base: path or name of the model.

        Raises:
            OSError: there is no model.
            ValueError: the model cannot be read, or is of another kind.
        """

    def architecture(self, model: Any, data: PreparedData, training: TrainingConfig) -> Any:
        """The requested architecture, with the tokenizer's vocabulary and a sufficient context.

        Args:
            model: name of a size; fields of the architecture, which override those of its `size`;
                an architecture; the path of a pretrained model; or None.
            data: data of the run.
            training: settings of the run.

        Raises:
            ConfigError: the model does not fit the tokenizer or the rows, or is of another kind.
        """
        base, size, fields = None, None, dict[str, Any]()
        if is_pretrained(model):
            base = str(model)
        elif isinstance(model, str):
            size = model
        elif isinstance(model, Mapping):
            fields = renamed(model, "preset", "size")
            size = fields.pop("size", None)
        elif isinstance(model, self.config_class):
            fields = to_dict(model)
        elif model is not None:
            raise ConfigError(
                f"the model of {self.name} must be a size's name, a mapping of fields, the path of "
                f"a pretrained model or an instance of {self.config_class.__name__}; received "
                f"{type(model).__name__}"
            )
        length = training.sequence_length
        if base is None:
            new = self.new_config(size, {"vocab_size": data.vocab_size, **fields})
            config = with_context(new, length)
        else:
            config = self.pretrained_config(base)
            if length > config.max_sequence_length:
                raise ConfigError(
                    "sequence_length must be at most the model's context "
                    f"({config.max_sequence_length}); received {length}"
                )
        if config.vocab_size < data.vocab_size:
            raise ConfigError(
                f"the tokenizer does not fit the model: {data.folder} has {data.vocab_size} token "
                f"ids, the model's vocab_size is {config.vocab_size}; "
                + (
                    "prepare the data with the model's own tokenizer"
                    if base is not None
                    else "leave vocab_size out, or raise it"
                )
            )
        return config

    def defaults(self, *, pretrained: bool) -> dict[str, Any]:
        """Defaults of `TrainingConfig` that differ for this task.

        Args:
            pretrained: whether the run starts from a pretrained model.
        """
        return {**self.training_defaults, **(self.pretrained_defaults if pretrained else {})}

    def resolved(self, training: TrainingConfig, *, pretrained: bool) -> TrainingConfig:
        """The settings of a run, resolved except for those that are measured.

        Args:
            training: settings with the task's `defaults`.
            pretrained: whether the run starts from a pretrained model.

        Raises:
            ConfigError: the task needs a pretrained model, or its models cannot be trained in part.
        """
        if self.needs_pretrained and not pretrained:
            raise ConfigError(
                f"only a pretrained model can learn the task {self.name}; name one (--model PATH)"
            )
        if not self.trains_in_part:
            trained = training.resolved(pretrained=True).trainable
            if trained != "all":
                raise ConfigError(
                    f"the model of the task {self.name} is trained whole; received "
                    f"trainable={trained}"
                )
        return training.resolved(pretrained=pretrained, fine_tuning_rates=self.fine_tuning_rates)

    @abstractmethod
    def fitted(
        self, base: str | None, config: Any, training: TrainingConfig, data: PreparedData
    ) -> tuple[TrainingStep, Pretrained | None]:
        """The model to train, not compiled, and the pretrained model that it is made of, if any.

        Every worker creates the same model in the scope of its strategy. Trained weights are
        float32, products have `dtype_policy(training.precision)`.

        Args:
            base: path or name of a pretrained model; None: new weights from `training.seed`.
            config: the architecture.
            training: resolved settings of the run.
            data: data of the run.
        """

    def check_data(self, data: PreparedData, path: str, base: Pretrained | None) -> None:
        """Check that the data were prepared with the tokenizer of the pretrained model.

        Args:
            data: data of the run.
            path: path of the pretrained model.
            base: pretrained model that `fitted` returned.

        Raises:
            ConfigError: the model's tokenizer gives other ids for the same text.
        """
        return

    def longest_row(self, data: PreparedData, sequence_length: int) -> int:
        """Number of tokens in the longest sequence of a batch."""
        return sequence_length

    def tokens_per_step(self, data: PreparedData, batch_size: int, sequence_length: int) -> int:
        """Average number of tokens in a batch."""
        return batch_size * self.sequences_per_row * sequence_length

    @abstractmethod
    def flops_per_token(self, model: TrainingStep, config: Any, training: TrainingConfig) -> float:
        """Floating-point operations of a training step per token."""

    # ---- what it is for

    evaluate_settings: ClassVar[tuple[str, ...]] = ()
    """names of the settings of `evaluate`, such as the tokenizer of a metric"""

    @abstractmethod
    def load(
        self, path: str | Path, *, dtype: str = "float32", adapter: str | Path | None = None
    ) -> TextModel:
        """Load a model of this task as functions from text to text.

        Args:
            path: a model folder, a run, a .gguf file or `hf://ORGANISATION/NAME`.
            dtype: dtype of weights and products: "float32", "bfloat16" or "int8". Defaults to
                "float32".
            adapter: folder of an adapter for the model, in PEFT's layout, to be merged.

        Raises:
            OSError: there is no model, or it has no tokenizer.
            ValueError: the model is for another task, or cannot be read.
        """

    @abstractmethod
    def evaluate(self, model: Any, data: Any, **settings: Any) -> Evaluation:
        """Evaluate a model.

        Args:
            model: a `TextModel` of the task.
            data: files of records, or prepared data.
            settings: settings in `evaluate_settings`.
        """

    def task_metrics(self, model: TrainingStep, data: PreparedData) -> tuple[MetricValue, ...]:
        """Metrics of a finished model besides its loss."""
        return ()

    @abstractmethod
    def save(
        self,
        model: TrainingStep,
        folder: Path,
        data: PreparedData,
        base: Pretrained | None,
        summary: dict[str, Any],
    ) -> None:
        """Write a finished model as a model folder that names its task.

        Args:
            model: the finished model, with an adapter merged into it.
            folder: model folder to write.
            data: data of the run.
            base: pretrained model that `fitted` returned.
            summary: summary of the training, which JSON can hold.
        """
