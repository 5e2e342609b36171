"""Checkpoints that are written in the background while training continues."""

from __future__ import annotations

import threading
import warnings
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from tfllm.training.checkpoints.checkpoints import Checkpoints, Progress


class BackgroundCheckpoints(Checkpoints):
    """`Checkpoints` whose `save` returns at once and leaves the writing to a thread.

    Only one checkpoint is written at a time: every method that changes checkpoints first waits for
    the previous write, so that the progress on disk never refers to a checkpoint that is not there
    yet. An error of the thread is raised by the next such method, by `check`, or at the end of the
    `with` block. Unless it is killed, a process finishes the write that it has started.

    `save` holds the arrays until they are written. Call `wait` before `state_of`, so that there is
    never more than one copy of the state.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        super().__init__(folder, keep)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, state: dict[str, np.ndarray], progress: Progress) -> Path:
        """Start writing a checkpoint.

        Args:
            state: result of `tfllm.training.checkpoints.model_state.state_of`; must not be changed
                afterwards.
            progress: progress of the run; may be changed afterwards.

        Returns:
            Folder of the checkpoint.

        Raises:
            OSError: the previous checkpoint could not be written; this one was not started.
        """
        self.wait()
        # At exit, Python waits for threads that are not daemons.
        thread = threading.Thread(
            target=self._write, args=(state, replace(progress)), name="checkpoint", daemon=False
        )
        thread.start()
        self._thread = thread
        return self.path(progress.step)

    def update(self, progress: Progress) -> None:
        """Rewrite the progress in the checkpoint of this step.

        Raises:
            OSError: the progress or the previous checkpoint could not be written.
            CheckpointError: the checkpoint's present progress is damaged.
        """
        self.wait()
        super().update(progress)

    def set_aside(self, step: int) -> Path:
        """Rename a damaged checkpoint, so that it is ignored; returns its new path."""
        self.wait()
        return super().set_aside(step)

    def recover(self) -> None:
        """Clean up after a process that was killed; only the process that writes may call it."""
        self.wait()
        super().recover()

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is on disk.

        Raises:
            OSError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise the error of the thread, if there was one, without waiting for it.

        Raises:
            OSError: a checkpoint could not be written.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """The same as `wait`; more can be saved afterwards."""
        self.wait()

    def __enter__(self) -> BackgroundCheckpoints:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the writing to end."""
        try:
            self.wait()
        except Exception as lost:
            if error is None:
                raise
            warnings.warn(str(lost), stacklevel=2)  # the first error is more informative

    def _write(self, state: dict[str, np.ndarray], progress: Progress) -> None:
        try:
            super().save(state, progress)
        except BaseException as error:
            self._error = error
