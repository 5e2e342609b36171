"""What a task is: everything that preparation, training, evaluation and export ask of it.

A task is one declaration: how records become training examples, how rows become a batch, which
model learns, which metrics judge it, and which functions from text to text come of it. Predicting
the next token of documents is a task (`language_modeling`) as classification is one. `prepare`,
`train`, `evaluate` and `export` are handed a `Task` and never ask which one it is.

The steps of a run, in order, each worker with the same task:

1. The chief prepares the records (`prepare_config`, `preparation`), unless they are prepared.
2. `architecture` and `fitted`: the model, on every worker; `check_data`, where it is pretrained.
3. `batched`: the data, whose rows become batches.
4. `measured`: the validation records answered as a server would, and measured.
5. `save`: the finished model, in a folder that says its task.
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
    from tfllm.evaluation.measured import Measured
    from tfllm.optimization.training_step import TrainingStep
    from tfllm.pretrained import Pretrained
    from tfllm.tasks.text_model import TextModel


class Task(ABC):
    """What a task is. It has no state: an instance is made where one is asked for."""

    name: ClassVar[str]
    """as `train(task=...)` and tfllm.json call it, such as "classification" """
    config_class: ClassVar[type]
    """the frozen dataclass of the model's architecture, such as EncoderConfig"""
    sizes: ClassVar[SizeTable[Any]]
    """the named sizes that a new model may have"""
    default_size: ClassVar[str]
    """that of a new model for which none is named: a small one"""
    columns: ClassVar[Mapping[str, Column]] = {}
    """what a record has, by the name that the task reads it under; of a language model the keys of
    `tfllm.data.reading.record_keys`"""
    prepare_settings: ClassVar[tuple[str, ...]]
    """the fields of `PrepareConfig` that the task follows; others must have their defaults"""
    prepare_defaults: ClassVar[Mapping[str, Any]] = {}
    """fields of `PrepareConfig` whose defaults are others for this task"""
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    """fields of `TrainingConfig` whose defaults are others for this task"""
    pretrained_defaults: ClassVar[Mapping[str, Any]] = {}
    """the same, over these, for a run that begins with a pretrained model"""
    fine_tuning_rates: ClassVar[tuple[float, float]] = (1e-5, 2e-4)
    """default learning rates of a pretrained model: of all its weights, of an adapter"""
    sequences_per_row: ClassVar[int] = 1
    """token sequences that a row holds: a pair of replies has 2"""
    needs_pretrained: ClassVar[bool] = False
    """whether only a pretrained model can learn it"""
    trains_in_part: ClassVar[bool] = False
    """whether an adapter, or the last blocks, can be trained instead of the whole model"""
    has_reference: ClassVar[bool] = False
    """whether training compares the model with what it was before"""

    # ---- from records to rows

    @abstractmethod
    def files(
        self, source: Any, config: PrepareConfig, *, exclude: Sequence[str | Path] = ()
    ) -> list[SourceFile]:
        """All files that a preparation reads, those of validation among them.

        Raises:
            FileNotFoundError: there are none.
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
        """The steps from records to shards.

        Args:
            source: files of records.
            config: settings, as `prepare_config` gives them.
            exclude: folders that are not searched.
            bar: makes a progress bar.

        Raises:
            FileNotFoundError: there are no such files.
            ValueError: a file cannot hold records of this task.
        """

    def batched(self, data: PreparedData) -> PreparedData:
        """Prepared data whose rows become the batches of this task."""
        return data

    def prepare_config(
        self,
        config: PrepareConfig | None = None,
        *,
        base: str | None = None,
        sequence_length: int | None = None,
    ) -> PrepareConfig:
        """The settings of a preparation with nothing left open.

        Args:
            config: settings; default `PrepareConfig()`.
            base: the path or name of the pretrained model that is to learn, whose tokenizer it is.
            sequence_length: of the training, in tokens.

        Raises:
            ConfigError: a setting is given that the task does not follow, or the tokenizer is not
                that of the model.
        """
        config = config or PrepareConfig()
        default = PrepareConfig()
        for name, value in vars(config).items():
            if name == "text_field" and value == config.column_names.get("text"):
                continue  # it is said by the columns
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
            size: its name, a key of `sizes`; None: `default_size`.
            fields: of the architecture, over the size's.

        Raises:
            ConfigError: no such size or field.
        """
        return self.sizes.config(size or self.default_size, **fields)

    @abstractmethod
    def pretrained_config(self, base: str) -> Any:
        """The architecture of a pretrained model, an instance of `config_class`. Reads no weights.

        Args:
            base: its path or name.

        Raises:
            OSError: there is no model.
            ValueError: it cannot be read, or is of another kind.
        """

    def architecture(self, model: Any, data: PreparedData, training: TrainingConfig) -> Any:
        """The architecture that was asked for, with the tokenizer's vocabulary and room for a row.

        Args:
            model: a size's name; fields of the architecture, among them `size` for the size that
                they are over; an architecture; the path of a pretrained model; or None.
            data: of the run.
            training: settings of the run.

        Raises:
            ConfigError: it does not fit the tokenizer or the rows, or is of another kind.
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
                f"a pretrained model or a {self.config_class.__name__}; received "
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
        """Fields of `TrainingConfig` whose defaults are others for this task.

        Args:
            pretrained: whether the run begins with a pretrained model.
        """
        return {**self.training_defaults, **(self.pretrained_defaults if pretrained else {})}

    def resolved(self, training: TrainingConfig, *, pretrained: bool) -> TrainingConfig:
        """The settings of a run with nothing left open but what is measured.

        Args:
            training: with the task's `defaults`.
            pretrained: whether the run begins with a pretrained model.

        Raises:
            ConfigError: the task needs a pretrained model, or trains its models whole.
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
        """The model to fit, not compiled, and the pretrained one that it is or is made of.

        Every worker makes the same one, in its strategy's scope. Weights that are trained are
        float32, products of `dtype_policy(training.precision)`.

        Args:
            base: path or name of a pretrained model; None: new weights, drawn by `training.seed`.
            config: the architecture.
            training: settings of the run, with nothing left open.
            data: of the run.
        """

    def check_data(self, data: PreparedData, path: str, base: Pretrained | None) -> None:
        """Refuse data that were prepared with another tokenizer than the pretrained model's.

        Args:
            data: of the run.
            path: of the pretrained model.
            base: what `fitted` gave.

        Raises:
            ConfigError: the same text has other ids.
        """
        return

    def longest_row(self, data: PreparedData, sequence_length: int) -> int:
        """Tokens of the longest sequence that is computed."""
        return sequence_length

    def tokens_per_step(self, data: PreparedData, batch_size: int, sequence_length: int) -> int:
        """Tokens of a batch, on average."""
        return batch_size * self.sequences_per_row * sequence_length

    @abstractmethod
    def flops_per_token(self, model: TrainingStep, config: Any, training: TrainingConfig) -> float:
        """Floating-point operations of a training step over its tokens."""

    # ---- what it is for

    evaluate_settings: ClassVar[tuple[str, ...]] = ()
    """names of what `evaluate` takes besides, such as the tokenizer of a metric"""

    @abstractmethod
    def load(
        self, path: str | Path, *, dtype: str = "float32", adapter: str | Path | None = None
    ) -> TextModel:
        """The functions from text to text of a model of this task.

        Args:
            path: a model folder, a run, a .gguf file or `hf://ORGANISATION/NAME`.
            dtype: of weights and products: "float32", "bfloat16" or "int8".
            adapter: a folder with an adapter for the model, in PEFT's layout, which is merged.

        Raises:
            OSError: there is no model, or it has no tokenizer.
            ValueError: it is of another task, or cannot be read.
        """

    @abstractmethod
    def evaluate(self, model: Any, data: Any, **settings: Any) -> Evaluation:
        """Measure a model.

        Args:
            model: a `TextModel` of the task.
            data: files of records, or prepared data.
            settings: of `evaluate_settings`.
        """

    def measured(self, model: TrainingStep, data: PreparedData) -> tuple[Measured, ...]:
        """What a finished model is measured by besides its loss."""
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
        """Write a finished model as a model folder that says its task.

        Args:
            model: the finished model, an adapter merged into it.
            folder: where.
            data: of the run.
            base: what `fitted` gave.
            summary: of the training, as JSON can hold it.
        """
