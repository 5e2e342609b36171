"""Base class of the tasks of a causal language model.

TensorFlow is not imported, since preparing text does not need it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tfllm import pretrained
from tfllm.config import ConfigError, ModelConfig, PrepareConfig, TrainingConfig
from tfllm.data import PreparedData, prepare_data
from tfllm.data.preparing.example_preparation import ExamplePreparation
from tfllm.data.preparing.preparation_inputs import PreparationInputs
from tfllm.data.reading.record_kinds import Kind
from tfllm.models.flops import flops_per_token
from tfllm.models.sizes.decoders import DECODER_SIZES
from tfllm.models.sizes.size_table import SizeTable
from tfllm.tasks.task import Task

if TYPE_CHECKING:
    from tfllm.data.preparing.preparation_steps import Preparation
    from tfllm.data.reading.sources import SourceFile
    from tfllm.evaluation.perplexity import Perplexity
    from tfllm.optimization.training_step import TrainingStep
    from tfllm.pretrained import Pretrained
    from tfllm.tasks.text_model import TextModel
    from tfllm.tokenizers.base import Tokenizer


class LanguageTask(Task):
    """Base class of the tasks of a causal language model; subclasses define `kind`."""

    kind: ClassVar[Kind]
    """kind of the records"""
    config_class: ClassVar[type] = ModelConfig
    sizes: ClassVar[SizeTable[Any]] = DECODER_SIZES
    default_size: ClassVar[str] = "llama-4m"
    trains_in_part: ClassVar[bool] = True
    prepare_settings: ClassVar[tuple[str, ...]] = (
        *("tokenizer", "validation_fraction", "validation", "text_field", "columns"),
        *("ignore_keys", "encoding", "skip_bad_records", "shard_tokens", "num_processes", "seed"),
        *("vocab_size", "split", "fill_in_the_middle", "fill_suffix_first", "fill_chars"),
    )
    prepare_defaults: ClassVar[Mapping[str, Any]] = {"validation_fraction": 0.02}

    # ---- from records to rows

    def files(
        self, source: Any, config: PrepareConfig, *, exclude: Sequence[str | Path] = ()
    ) -> list[SourceFile]:
        """All files that a preparation reads, including validation files."""
        return PreparationInputs.find(
            source, config, self.kind, exclude=exclude, bar=tuple, warn=False
        ).all_files

    def preparation(
        self,
        source: Any,
        config: PrepareConfig,
        *,
        exclude: Sequence[str | Path],
        bar: Callable[..., Any],
    ) -> Preparation:
        """The preparation of examples as token ids, with a mask of the learned ones."""
        return ExamplePreparation(self._inputs(source, config, exclude, bar), self.kind)

    def _inputs(
        self, source: Any, config: PrepareConfig, exclude: Sequence[str | Path], bar: Any
    ) -> PreparationInputs:
        return PreparationInputs.find(source, config, self.kind, exclude=exclude, bar=bar)

    # ---- the model

    def pretrained_config(self, base: str) -> ModelConfig:
        """As in `Task`."""
        from tfllm.tasks.language_model.fitting import pretrained_config

        return pretrained_config(base)

    def fitted(
        self, base: str | None, config: ModelConfig, training: TrainingConfig, data: PreparedData
    ) -> tuple[TrainingStep, Pretrained | None]:
        """A new model, or a pretrained one with the weights to train chosen by the settings."""
        from tfllm.tasks.language_model.fitting import load_base, new_model

        if base is None:
            return new_model(config, training), None
        loaded = load_base(base, training)
        return loaded.model, loaded

    def check_data(self, data: PreparedData, path: str, base: Pretrained | None) -> None:
        """Check that the data were prepared with the tokenizer of the model.

        Raises:
            ConfigError: the model's tokenizer gives other ids for the same text.
        """
        assert base is not None
        if base.tokenizer is None:
            return
        ours = data.tokenizer
        text = ours.decode(data.train.read(0, 2000).tolist())
        ids = [tokenizer.encode(text, parse_special=False) for tokenizer in (base.tokenizer, ours)]
        if ids[0] != ids[1] or base.tokenizer.end_token_id != data.end_token_id:
            raise ConfigError(
                f"{data.folder} was prepared with another tokenizer than that of {path}; prepare "
                f"it with tokenizer={path}"
            )

    def flops_per_token(
        self, model: TrainingStep, config: ModelConfig, training: TrainingConfig
    ) -> float:
        """FLOPs of the matrix products per token, given the weights that are trained."""
        assert training.trainable != "auto"
        return flops_per_token(
            config,
            training.sequence_length,
            trained=training.trainable,
            top_layers=training.top_layers or 0,
        )

    def load(
        self, path: str | Path, *, dtype: str = "float32", adapter: str | Path | None = None
    ) -> TextModel:
        """Load a model: a `Chat` if its tokenizer has a chat template, a `CodeGeneration` if it has
        tokens for infilling, otherwise a `TextGeneration`."""
        from tfllm.pretrained.task_information import trained_length
        from tfllm.tasks.language_model.special import as_special
        from tfllm.tasks.language_model.text_generation import TextGeneration

        model = as_special(TextGeneration.load(path, dtype=dtype, adapter=adapter))
        model.trained_length = trained_length(path)
        return model

    evaluate_settings: ClassVar[tuple[str, ...]] = (
        *("split", "sequence_length", "batch_size", "num_batches", "separate_documents"),
        "tokenizer",
    )

    def evaluate(
        self, model: Any, data: Any, *, tokenizer: Tokenizer | None = None, **settings: Any
    ) -> Perplexity:
        """Perplexity on prepared data, or on files.

        Args:
            model: a `TextGeneration`, or a `CausalLM`.
            data: prepared data; or files, of which all records are used.
            tokenizer: tokenizer of a model that is given as a `CausalLM`.
            settings: as in `tfllm.evaluation.perplexity`.
        """
        from tfllm.evaluation.perplexity import perplexity

        tokenizer = tokenizer or model.tokenizer
        if settings.get("sequence_length") is None:
            settings["sequence_length"] = getattr(model, "trained_length", None)
        network = getattr(model, "model", model)
        if isinstance(data, PreparedData):
            return perplexity(network, data, tokenizer=tokenizer, **settings)
        if settings.get("split") not in (None, "train"):
            raise ConfigError("split is for prepared data; for files, all records are used")
        if tokenizer is None:
            raise ConfigError("files need the model's tokenizer, but the model has none")
        with tempfile.TemporaryDirectory(prefix="tfllm-evaluate-") as scratch:
            tokenizer.save(Path(scratch, "tokenizer"))
            config = PrepareConfig(tokenizer=str(Path(scratch, "tokenizer")))
            config = self.prepare_config(dataclasses.replace(config, validation_fraction=0.0))
            found = prepare_data(self, data, Path(scratch, "data"), config, show_progress=False)
            return perplexity(network, found, tokenizer=tokenizer, **{**settings, "split": "train"})

    def save(
        self,
        model: TrainingStep,
        folder: Path,
        data: PreparedData,
        base: Pretrained | None,
        summary: dict[str, Any],
    ) -> None:
        """Write the finished model, with the tokenizer and settings of its base model."""
        tokenizer, generation = data.tokenizer, None
        if base is not None:
            tokenizer, generation = base.tokenizer or tokenizer, base.generation
        pretrained.save(model, folder, tokenizer, generation=generation, training_summary=summary)
