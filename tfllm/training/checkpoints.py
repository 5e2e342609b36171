"""Checkpoints of a run: weights, optimizer state and position, written beside and renamed."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

_PREFIX = "step-"
_NAME = re.compile(_PREFIX + r"(\d{8,})")
_PROGRESS = "progress.json"


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit."""


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """batches so far: updates of the weights, but for those that float16 skipped"""
    tokens: int = 0
    """tokens trained on so far"""
    validation_loss: float | None = None
    """at this step, if it was measured"""
    validation_due: bool = False
    """at this step, but not measured, since the run was interrupted"""
    best_step: int | None = None
    best_validation_loss: float = math.inf
    """of all steps so far"""


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
        matches = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

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
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            state = {name: np.asarray(v.value) for name, v in _variables(model).items()}
            try:
                save_file(state, beside / "state.safetensors")
            except SafetensorError as error:  # how the library reports a full disk
                raise OSError(str(error)) from error
            _write(beside / _PROGRESS, progress)
            with open(beside / "state.safetensors", "rb") as written:
                os.fsync(written.fileno())
            shutil.rmtree(target, ignore_errors=True)  # of a run that went on from before it
            beside.rename(target)
        except OSError as error:
            raise self._not_written(progress, error) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        needed = {*self.steps()[-self.keep :], progress.step, progress.best_step}
        for step in self.steps():
            if step not in needed:
                shutil.rmtree(self.path(step), ignore_errors=True)
        return target

    def update(self, progress: Progress) -> None:
        """Write anew what the checkpoint of this step says of its run.

        Raises:
            OSError: the disk is full or cannot be written; the checkpoint stays as it was.
        """
        path = self.path(progress.step) / _PROGRESS
        try:
            _write(path.with_name("." + path.name), progress)
            path.with_name("." + path.name).replace(path)
        except OSError as error:
            raise self._not_written(progress, error) from error

    def set_aside(self, step: int) -> Path:
        """Rename a damaged checkpoint, so that it counts for nothing; returns where it is now."""
        aside = self.folder / f"damaged-{self.path(step).name}"
        shutil.rmtree(aside, ignore_errors=True)
        return self.path(step).rename(aside)

    def _not_written(self, progress: Progress, error: OSError) -> OSError:
        steps = self.steps()
        last = f"The last good one is that of step {steps[-1]}" if steps else "There is none yet"
        return OSError(
            f"the checkpoint of step {progress.step} could not be written to {self.folder}: "
            f"{error}. {last}; make room and train with resume"
        )

    def progress(self, step: int) -> Progress:
        """What the checkpoint of a step says of its run."""
        path = self.path(step) / _PROGRESS
        try:
            return Progress(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged or cut short ({error})") from error

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
                        f"{path} lacks {len(missing)} variables, such as {missing[0]!r}: it was "
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
            raise CheckpointError(f"{path} is damaged or cut short ({error})") from error
        return progress


def _write(path: Path, progress: Progress) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(progress), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _variables(model: keras.Model, *, optimizer: bool = True) -> dict[str, Any]:
    """Name to variable. Dropout's seeds are functions of the step and left out."""

    def name(variable: Any) -> str:
        # Without the model's own name: Keras counts the models of a process in it.
        path = variable.path.removeprefix(f"{model.name}/")
        return path.replace(f"{model.name}_", "")

    named = {f"model/{name(v)}": v for v in model.weights if "seed_generator_state" not in v.path}
    if optimizer:
        # The first part is the optimizer's name, in which Keras counts, too.
        named |= {
            f"optimizer/{i}/{name(v).partition('/')[2]}": v
            for i, v in enumerate(model.optimizer.variables)
        }
    return named
