"""Checkpoints of a run: weights, optimizer state and position, written beside and renamed."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

_PREFIX = "step-"


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit."""


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """updates of the weights so far"""
    tokens: int = 0
    """tokens trained on so far"""
    validation_loss: float | None = None
    """at this step, if it was measured"""
    best_step: int | None = None
    best_validation_loss: float = math.inf
    settings: dict[str, Any] = field(default_factory=dict)
    """of the run, to be held against those of a resumed one"""


class Checkpoints:
    """The checkpoints in a folder, one sub-folder `step-00000250` each.

    Args:
        folder: of all checkpoints.
        keep: how many of the last are kept; the best is kept besides.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, in order."""
        if not self.folder.is_dir():
            return []
        names = (p.name for p in self.folder.iterdir() if p.name.startswith(_PREFIX))
        return sorted(int(n.removeprefix(_PREFIX)) for n in names)

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"{_PREFIX}{step:08d}"

    def save(self, model: keras.Model, progress: Progress) -> Path:
        """Write a checkpoint, and delete those that need not be kept.

        Raises:
            OSError: the disk is full or cannot be written; the earlier checkpoints stay.
        """
        target = self.path(progress.step)
        beside = target.with_name(f".writing-{target.name}")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            state = {name: np.asarray(v.value) for name, v in _variables(model).items()}
            try:
                save_file(state, beside / "state.safetensors")
            except SafetensorError as error:  # how the library reports a full disk
                raise OSError(str(error)) from error
            text = json.dumps(asdict(progress), indent=1)
            (beside / "progress.json").write_text(text, encoding="utf-8")
            for file in beside.iterdir():
                with open(file, "rb") as opened:
                    os.fsync(opened.fileno())
            shutil.rmtree(target, ignore_errors=True)  # the same step, saved again
            beside.rename(target)
        except OSError as error:
            last = self.steps()[-1:]
            raise OSError(
                f"the checkpoint of step {progress.step} could not be written to {self.folder}: "
                f"{error}. The last good one is "
                f"{'that of step ' + str(last[0]) if last else 'none'}; make room and train with "
                "resume."
            ) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        needed = {*self.steps()[-self.keep :], progress.best_step}
        for step in self.steps():
            if step not in needed:
                shutil.rmtree(self.path(step), ignore_errors=True)
        return target

    def progress(self, step: int) -> Progress:
        """What the checkpoint of a step says of its run."""
        path = self.path(step) / "progress.json"
        try:
            return Progress(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    def restore(self, model: keras.Model, step: int, *, optimizer: bool = True) -> Progress:
        """Put a checkpoint's values into a model and its optimizer.

        Nothing is changed unless all of it can be read.

        Raises:
            CheckpointError: the file is damaged, or holds other variables than the model.
        """
        progress = self.progress(step)
        path = self.path(step) / "state.safetensors"
        variables = _variables(model, optimizer=optimizer)
        try:
            with safe_open(path, framework="numpy") as file:
                names = set(file.keys())
                missing = [n for n in variables if n not in names]
                if missing:
                    raise CheckpointError(
                        f"{path} has no {missing[0]!r} (nor {len(missing) - 1} others): it was "
                        "made by a run with another model or optimizer"
                    )
                for name, variable in variables.items():
                    shape = tuple(file.get_slice(name).get_shape())
                    if shape != tuple(variable.shape):
                        raise CheckpointError(
                            f"{path}: {name} has the shape {shape}, the model's {variable.shape}"
                        )
                for name, variable in variables.items():
                    variable.assign(file.get_tensor(name))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is damaged or cut short ({error}). Delete the folder "
                f"{self.path(step).name} to go on from an earlier checkpoint."
            ) from error
        return progress


def _variables(model: keras.Model, *, optimizer: bool = True) -> dict[str, Any]:
    """Name to variable. Dropout's seeds are functions of the step and left out."""
    named = {f"model/{v.path}": v for v in model.trainable_variables}
    named |= {
        f"model/{v.path}": v
        for v in model.non_trainable_variables
        if "seed_generator_state" not in v.path
    }
    if optimizer:
        named |= {f"optimizer/{i}/{v.path}": v for i, v in enumerate(model.optimizer.variables)}
    return named
