"""What a run is made of: its settings, for a new run or from the folder of one that goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any

from tfllm.config import ConfigError, ModelConfig, TrainingConfig, build, to_dict
from tfllm.data import PreparedData
from tfllm.models.presets import preset
from tfllm.training.run_folder import RunFolder


def fitted(
    model: str | ModelConfig | None, data: PreparedData, config: TrainingConfig
) -> ModelConfig:
    """The architecture with the tokenizer's vocabulary and room for a row."""
    if not isinstance(model, ModelConfig):
        model = preset(model or "llama-4m", vocab_size=data.vocab_size)
    if model.vocab_size < data.vocab_size:
        raise ConfigError(
            f"the tokenizer does not fit the model: {data.folder} has {data.vocab_size} token ids, "
            f"the model's vocab_size is {model.vocab_size}; leave vocab_size out, or raise it"
        )
    context = max(model.max_sequence_length, config.sequence_length)
    return dataclasses.replace(model, max_sequence_length=context)


def resumed(
    folder: RunFolder,
    data: PreparedData,
    model: str | ModelConfig | None,
    config: TrainingConfig | None,
    settings: dict[str, Any],
) -> tuple[ModelConfig, TrainingConfig]:
    """The settings of the run in `folder`, after a check that nothing else is asked for."""
    saved = folder.read()
    model_config = build(ModelConfig, saved["model"])
    training = build(TrainingConfig, saved["training"])
    asked = {**(to_dict(config) if config else {}), **settings}
    for name, value in to_dict(build(TrainingConfig, asked)).items() if asked else ():
        given = name in settings or (
            config is not None and value != getattr(TrainingConfig(), name)
        )
        if given and value not in ("auto", getattr(training, name)):
            raise ConfigError(
                f"a resumed run keeps its settings: {name} is {getattr(training, name)!r} in "
                f"{folder.path}; received {value!r}"
            )
    if digest(data) != saved["data"]["digest"]:
        raise ConfigError(
            f"the run in {folder.path} was trained on other data ({saved['data']['folder']}); "
            f"received {data.folder}"
        )
    if model is not None:
        asked = to_dict(fitted(model, data, training))
        for name, value in to_dict(model_config).items():
            if asked[name] != value:
                raise ConfigError(
                    f"a resumed run keeps its model: {name} is {value!r} in {folder.path}; "
                    f"received {asked[name]!r}; leave the model out"
                )
    return model_config, training


def digest(data: PreparedData) -> str:
    """Names the prepared text: the same text, tokenizer and settings have the same."""
    text = json.dumps(data.manifest, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def steps_of(config: TrainingConfig, data: PreparedData) -> int:
    """How many batches `epochs` passes over the rows fill; rows stand in one line, pass by pass."""
    rows = data.train.num_rows(config.sequence_length) * config.epochs
    return max(1, math.ceil(round(rows / config.batch_size, 6)))
