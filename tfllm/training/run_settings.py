"""What a run is made of: its settings, for a new run or from the folder of one that goes on."""

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
    """What a run is made of besides its data.

    Args:
        model: the architecture, as the task says it.
        training: settings of the training, with nothing left open but what is measured.
        base: the path or name of the pretrained model that the run begins with, or None.
        steps_before: of a run that is made longer, how many it had; else None.
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
    """The settings that a command asks for, with nothing left open but what is measured."""
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
    """The settings of the run in `folder`, after a check that nothing else is asked for.

    Args:
        task: of the run.
        folder: of the run.
        data: that was given.
        model: that was given; a pretrained one may lie elsewhere now, but not be another.
        config: that was given.
        settings: that were given over `config`.
        all_of_them: what was not given is asked for, too, as by the command that began the run;
            else only what was given must be the run's.

    Raises:
        ConfigError: something else is asked for.
    """
    saved = folder.read()
    model_config: Any = build(task.config_class, saved["model"])
    training = build(TrainingConfig, saved["training"])
    asked_check = {**chosen(config), **settings}.get("memory_check")
    if asked_check is not None or all_of_them:  # of the machine: no other run for that
        training = dataclasses.replace(training, memory_check=asked_check or "refuse")
    base = saved.get("base", {}).get("path")
    hint = (
        "say the same settings, or --resume alone to go on with those of the run; give another "
        "folder for another run"
        if all_of_them
        else "a resumed run keeps its settings: leave this out"
    )
    if (model is not None or all_of_them) and is_pretrained(model) != (base is not None):
        raise ConfigError(
            f"{folder.path} holds a run that began with "
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
                f"{folder.path} holds a run whose {name} is {getattr(training, name)!r}; received "
                f"{value!r}; {hint}"
            )
    if model is not None or all_of_them:
        wanted = to_dict(task.architecture(model, data, training))
        for name, value in to_dict(model_config).items():
            if wanted[name] != value:
                raise ConfigError(
                    f"{folder.path} holds a run whose model's {name} is {value!r}; received "
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
    """The settings of a run that is asked to have more steps than it had; None where it is not.

    Raises:
        ConfigError: with more steps, those that are done would have been other ones.
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
        advice = f"its warm-up had {warmup} steps: give warmup_steps={warmup} with it"
        if training.schedule == "constant":
            raise ConfigError(_not_longer(folder, before, after, done, int(other[0]), advice))
    advice = (
        f"a {training.schedule} schedule is made for its number of steps. Train {after} steps in "
        f"another folder; or go on from the weights there with a schedule of its own "
        f"(model={folder.path}, steps={after - before}). A run with schedule=constant can be made "
        "longer at any time, and one with wsd before its decay begins"
    )
    raise ConfigError(_not_longer(folder, before, after, done, int(other[0]), advice))


def _not_longer(
    folder: RunFolder, before: int, after: int, done: int, first: int, advice: str
) -> str:
    return (
        f"{folder.path} holds a run of {before} steps, {done} of which are done; had it been begun "
        f"with {after}, its learning rate would have been another from step {first + 1} on, since "
        f"{advice}"
    )


def total_steps(config: TrainingConfig, data: PreparedData) -> int:
    """How many steps a run has."""
    return config.steps or steps_of(config, data)


def warmup_of(config: TrainingConfig, total: int) -> int:
    """How many of a run's steps warm up."""
    warmup = config.warmup_steps
    return min(max(10, total // 50) if warmup is None else warmup, total)


def schedule_of(config: TrainingConfig, total: int) -> WarmupSchedule:
    """The learning rates of a run of so many steps."""
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
    """The settings in which a configuration is not the default one."""
    if config is None:
        return {}
    defaults = to_dict(TrainingConfig())
    return {name: value for name, value in to_dict(config).items() if value != defaults[name]}


def steps_of(config: TrainingConfig, data: PreparedData) -> int:
    """How many batches `epochs` passes over the rows fill; rows stand in one line, pass by pass."""
    assert config.batch_size is not None
    rows = data.train.num_rows(config.sequence_length) * config.epochs
    return max(1, math.ceil(round(rows / config.batch_size, 6)))
