"""The settings of a run: those of a new run, or of a run that is resumed from its folder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfllm.config import ConfigError, TrainingConfig, build, to_dict
from tfllm.data import PreparedData
from tfllm.optimization.schedules import WarmupSchedule
from tfllm.pretrained.model_folder import is_pretrained
from tfllm.tasks.task import Task
from tfllm.training.checkpoints.checkpoints import Checkpoints
from tfllm.training.run_folder import RunFolder


class RunSettings(NamedTuple):
    """Settings of a run except for its data.

    Args:
        model: the architecture, an instance of the task's `config_class`.
        training: settings of the training, resolved except for those that are measured.
        base: path or name of the pretrained model that the run starts from, or None.
        steps_before: previous number of steps of a run that is made longer, otherwise None.
    """

    model: Any
    training: TrainingConfig
    base: str | None = None
    steps_before: int | None = None


def new(
    task: Task,
    data: PreparedData,
    model: Any,
    config: TrainingConfig | None,
    settings: dict[str, Any],
) -> RunSettings:
    """The settings of a new run, resolved except for those that are measured."""
    base = str(model) if is_pretrained(model) else None
    given = {**task.defaults(pretrained=base is not None), **chosen(config), **settings}
    asked = task.resolved(build(TrainingConfig, given), pretrained=base is not None)
    return RunSettings(task.architecture(model, data, asked), asked, base)


def resumed(
    task: Task,
    folder: RunFolder,
    data: PreparedData,
    model: Any,
    config: TrainingConfig | None,
    settings: dict[str, Any],
    *,
    all_of_them: bool,
) -> RunSettings:
    """The settings of the run in `folder`, after a check that those given now agree with them.

    Args:
        task: task of the run.
        folder: folder of the run.
        data: the given data.
        model: the given model; a pretrained model may have moved, but must be the same.
        config: the given configuration.
        settings: the given settings, which override `config`.
        all_of_them: whether all settings must agree, including the defaults of those that are not
            given, as if the command that started the run were repeated; otherwise only the given
            ones must.

    Raises:
        ConfigError: a setting differs from that of the run.
    """
    saved = folder.read()
    model_config: Any = build(task.config_class, saved["model"])
    training = build(TrainingConfig, saved["training"])
    asked_check = {**chosen(config), **settings}.get("memory_check")
    if asked_check is not None or all_of_them:  # may change, since it does not affect the result
        training = dataclasses.replace(training, memory_check=asked_check or "refuse")
    base = saved.get("base", {}).get("path")
    hint = (
        "give the same settings, or only --resume to continue with those of the run; give another "
        "folder for another run"
        if all_of_them
        else "a resumed run keeps its settings: leave this out"
    )
    if (model is not None or all_of_them) and is_pretrained(model) != (base is not None):
        raise ConfigError(
            f"{folder.path} contains a run that started from "
            f"{'new weights' if base is None else f'the pretrained model {base}'}; received "
            f"model={model!r}; {hint}"
        )
    if data.digest != saved["data"]["digest"]:
        raise ConfigError(
            f"the run in {folder.path} was trained on other data ({saved['data']['folder']}); "
            f"received {data.folder}"
        )
    given = {**chosen(config), **settings}
    asked = build(TrainingConfig, {**task.defaults(pretrained=base is not None), **given})
    if all_of_them:
        asked = task.resolved(asked, pretrained=base is not None)
    longer = _made_longer(folder, training, asked, given, data)
    steps_before = None
    if longer is not None:
        steps_before, training = total_steps(training, data), longer
    for name, value in to_dict(asked).items():
        is_asked = all_of_them or (name in given and value is not None)
        if is_asked and value not in ("auto", getattr(training, name)):
            raise ConfigError(
                f"{folder.path} contains a run whose {name} is {getattr(training, name)!r}; "
                f"received {value!r}; {hint}"
            )
    if model is not None or all_of_them:
        wanted = to_dict(task.architecture(model, data, training))
        for name, value in to_dict(model_config).items():
            if wanted[name] != value:
                raise ConfigError(
                    f"{folder.path} contains a run whose model's {name} is {value!r}; received "
                    f"{wanted[name]!r}; {hint}"
                )
    if is_pretrained(model):
        base = str(model)
    return RunSettings(model_config, training, base, steps_before)


def _made_longer(
    folder: RunFolder,
    training: TrainingConfig,
    asked: TrainingConfig,
    given: Mapping[str, Any],
    data: PreparedData,
) -> TrainingConfig | None:
    """The settings of a run that is to be made longer; None if no more steps are asked for.

    Raises:
        ConfigError: the steps done so far would have had other learning rates in the longer run.
    """
    values: dict[str, Any] = {}
    if asked.steps is not None:
        values["steps"] = asked.steps
    elif training.steps is None and "epochs" in given:
        values["epochs"] = asked.epochs
    before = total_steps(training, data)
    longer = dataclasses.replace(training, **values)
    if total_steps(longer, data) <= before:
        return None
    if training.warmup_steps is None and asked.warmup_steps == warmup_of(training, before):
        longer = dataclasses.replace(longer, warmup_steps=asked.warmup_steps)
    done = max(Checkpoints(folder.checkpoints, 1).steps(), default=0)
    steps = tf.range(done)
    rates = [schedule_of(c, total_steps(c, data))(steps).numpy() for c in (training, longer)]
    other = (rates[0] != rates[1]).nonzero()[0]
    if not len(other):
        return longer
    after, warmup = total_steps(longer, data), warmup_of(training, before)
    if training.warmup_steps is None and warmup_of(longer, after) != warmup:
        advice = f"its warmup had {warmup} steps: also give warmup_steps={warmup}"
        if training.schedule == "constant":
            raise ConfigError(_not_longer(folder, before, after, done, int(other[0]), advice))
    advice = (
        f"a {training.schedule} schedule depends on the number of steps. Train {after} steps in "
        f"another folder, or start a new run with its own schedule from these weights "
        f"(model={folder.path}, steps={after - before}). A run with schedule=constant can be made "
        "longer at any time, and one with wsd before its decay begins"
    )
    raise ConfigError(_not_longer(folder, before, after, done, int(other[0]), advice))


def _not_longer(
    folder: RunFolder, before: int, after: int, done: int, first: int, advice: str
) -> str:
    return (
        f"{folder.path} contains a run of {before} steps, {done} of which are done; a run of "
        f"{after} steps would have had another learning rate from step {first + 1} on, since "
        f"{advice}"
    )


def total_steps(config: TrainingConfig, data: PreparedData) -> int:
    """Number of steps of a run."""
    return config.steps or steps_of(config, data)


def warmup_of(config: TrainingConfig, total: int) -> int:
    """Number of warmup steps of a run with `total` steps."""
    warmup = config.warmup_steps
    return min(max(10, total // 50) if warmup is None else warmup, total)


def schedule_of(config: TrainingConfig, total: int) -> WarmupSchedule:
    """The learning-rate schedule of a run with `total` steps."""
    assert config.learning_rate is not None
    return WarmupSchedule(
        config.learning_rate,
        total,
        warmup_of(config, total),
        config.schedule,
        config.decay_fraction,
        config.final_learning_rate,
    )


def chosen(config: TrainingConfig | None) -> dict[str, Any]:
    """The settings of a configuration that differ from the defaults."""
    if config is None:
        return {}
    defaults = to_dict(TrainingConfig())
    return {name: value for name, value in to_dict(config).items() if value != defaults[name]}


def steps_of(config: TrainingConfig, data: PreparedData) -> int:
    """Number of batches that `epochs` passes over the rows fill; a batch may span two passes."""
    assert config.batch_size is not None
    rows = data.train.num_rows(config.sequence_length) * config.epochs
    return max(1, math.ceil(round(rows / config.batch_size, 6)))
