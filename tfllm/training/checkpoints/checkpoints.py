"""Checkpoints of a run: weights, optimizer state and position, written atomically."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.training.checkpoints.checkpoint_files import (
    PROGRESS,
    CheckpointError,
    read_progress,
    read_state,
    remove,
    sync_folder,
    verify,
    write_checkpoint,
    write_progress,
)

__all__ = ["CheckpointError", "Checkpoints", "Progress"]

_PREFIX = "step-"
_NAME = re.compile(_PREFIX + r"(\d{8,})")
_LEFT_OVER = re.compile(r"\.(replaced|writing|deleting)-(" + _NAME.pattern + ")")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


@dataclass
class Progress:
    """Progress of a run."""

    step: int = 0
    """batches so far: updates of the weights, including those that float16 skipped"""
    tokens: int = 0
    """tokens trained on so far"""
    validation_loss: float | None = None
    """validation loss at this step, if it was measured"""
    validation_due: bool = False
    """whether a validation was due at this step, but not done because the run was interrupted"""
    best_step: int | None = None
    best_validation_loss: float = math.inf
    """lowest validation loss so far"""
    history: list[dict[str, float]] = field(default_factory=list)
    """an entry for each interval that ended with a validation; never changed in place"""
    loss_sum: float = 0.0
    """sum of the losses of the steps since the last entry of the history"""
    loss_steps: int = 0
    """number of these steps"""
    stopped: bool = False
    """whether a callback or patience has ended the run at this step"""
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    """state of the user's callbacks"""


class Checkpoints:
    """The checkpoints in a folder, each in a subfolder such as `step-00000250`.

    A checkpoint appears complete or not at all, and checksums cover every byte of it. While it is
    written, replaced or deleted, its folder has another name, such as `.writing-step-00000250`;
    `recover` cleans up such folders after a process was killed.

    Args:
        folder: folder of all checkpoints.
        keep: number of latest checkpoints to keep, in addition to the best one.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """The steps of all checkpoints, in increasing order."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.fullmatch(name) for name in os.listdir(self.folder))
        return sorted(int(match[1]) for match in matches if match)

    def path(self, step: int) -> Path:
        """The folder of the checkpoint of a step."""
        return self.folder / f"{_PREFIX}{step:08d}"

    def recover(self) -> None:
        """Clean up after a process that was killed; only the process that writes may call it.

        A complete checkpoint that the process had not renamed yet, or had moved out of the way to
        replace it, gets its proper name if there is no complete checkpoint of that name.

        Raises:
            OSError: the disk cannot be read or written.
        """
        if not self.folder.is_dir():
            return
        matches = [_LEFT_OVER.fullmatch(name) for name in sorted(os.listdir(self.folder))]
        for match in (m for m in matches if m):
            left, target = self.folder / match[0], self.folder / match[2]
            if match[1] != "deleting" and not _is_whole(target) and _is_whole(left):
                if os.path.lexists(target):
                    self.set_aside(int(match[3]))
                sync_folder(left)
                left.rename(target)
            else:
                remove(left)
        for step in self.steps():
            if self.path(step).is_dir():
                remove(self.path(step) / f".{PROGRESS}")
        sync_folder(self.folder)

    def save(self, state: dict[str, np.ndarray], progress: Progress) -> Path:
        """Write a checkpoint, and then delete those that need not be kept.

        Args:
            state: result of `tfllm.training.checkpoints.model_state.state_of`.
            progress: progress of the run.

        Returns:
            Folder of the checkpoint.

        Raises:
            OSError: the disk is full or cannot be written to; the existing checkpoints are
                unchanged.
        """
        target = self.path(progress.step)
        temporary = self._hidden("writing", target)
        with self._writing(progress.step):
            try:
                remove(temporary)
                if not self.folder.is_dir():
                    self.folder.mkdir(parents=True)
                    sync_folder(self.folder.parent)
                temporary.mkdir()
                write_checkpoint(temporary, state, _as_dict(progress))
                self._put(temporary, target)
            finally:
                with contextlib.suppress(OSError):
                    remove(temporary)
        needed = {*self.steps()[-self.keep :], progress.step, progress.best_step}
        for step in self.steps():
            if step not in needed:
                self._delete(self.path(step))
        return target

    def update(self, progress: Progress) -> None:
        """Rewrite the progress in the checkpoint of this step.

        Raises:
            OSError: the disk is full or cannot be written to; the checkpoint is unchanged.
            CheckpointError: the checkpoint's present progress is damaged.
        """
        folder = self.path(progress.step)
        with self._writing(progress.step):
            _, state = read_progress(folder)
            write_progress(folder, _as_dict(progress), state)

    def set_aside(self, step: int) -> Path:
        """Rename a damaged checkpoint, so that it is ignored; returns its new path."""
        aside = self.folder / f"damaged-{self.path(step).name}"
        remove(aside)
        self.path(step).rename(aside)
        sync_folder(self.folder)
        return aside

    def progress(self, step: int) -> Progress:
        """Read the progress in the checkpoint of a step.

        Raises:
            CheckpointError: the checkpoint is damaged or missing.
        """
        values, _ = read_progress(self.path(step))
        if values.get("best_validation_loss", 0) is None:
            values["best_validation_loss"] = math.inf
        try:
            return Progress(**values)
        except TypeError as error:
            raise CheckpointError(
                f"{self.path(step) / PROGRESS} was written by another version of tfllm ({error}); "
                "train with that version, or in another folder"
            ) from error

    def read(self, step: int) -> tuple[dict[str, np.ndarray], Progress]:
        """Read the state and the progress in the checkpoint of a step, after verifying them.

        Raises:
            CheckpointError: the checkpoint is damaged or missing.
            OSError: it cannot be read for another reason.
        """
        progress = self.progress(step)
        return read_state(self.path(step)), progress

    def _put(self, temporary: Path, target: Path) -> None:
        """Move a complete checkpoint to its place, or leave everything as it was."""
        replaced = self._hidden("replaced", target)
        again = os.path.lexists(target)  # written before the run resumed from an earlier step
        try:
            if again:
                remove(replaced)
                target.rename(replaced)
            temporary.rename(target)
            sync_folder(self.folder)
        except BaseException:
            with contextlib.suppress(OSError):
                if not temporary.exists():
                    target.rename(temporary)
            with contextlib.suppress(OSError):
                if again:
                    replaced.rename(target)
            raise
        if again:
            self._delete(replaced)

    def _delete(self, path: Path) -> None:
        """Delete a checkpoint; it is renamed first, so that no partial one has its name."""
        deleting = self._hidden("deleting", path)
        with contextlib.suppress(OSError):  # it does no harm if it stays
            remove(deleting)
            path.rename(deleting)
            remove(deleting)

    def _hidden(self, kind: str, path: Path) -> Path:
        match = _NAME.search(path.name)
        assert match
        return self.folder / f".{kind}-{match[0]}"

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Add to an error which checkpoint could not be written, and which is the last good one."""
        try:
            yield
        except OSError as error:
            steps = self.steps()
            last = (
                f"The last good one is that of step {steps[-1]}" if steps else "There is none yet"
            )
            what = "free some space" if error.errno in _NO_SPACE else "fix that"
            explained = OSError(
                f"the checkpoint of step {step} could not be written to {self.folder}: {error}. "
                f"{last}; {what}, and the same command continues from there"
            )
            explained.errno = error.errno
            raise explained from error


def _as_dict(progress: Progress) -> dict[str, Any]:
    values = asdict(progress)
    if math.isinf(progress.best_validation_loss):  # JSON has no infinity
        values["best_validation_loss"] = None
    return values


def _is_whole(folder: Path) -> bool:
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True
