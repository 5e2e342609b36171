"""Checkpoints that are written while training goes on."""

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

    One checkpoint at a time is written: whatever changes a checkpoint waits for the one before, so
    that what the disk says of a step, such as that it is the best, is never ahead of its
    checkpoint. An error of the thread is raised by the next call that changes something, by
    `check`, or at the end of the `with` block. A process that ends in any way but by being killed
    writes to the end what it has begun.

    `save` keeps the arrays until they are written; `wait` before `state_of`, and there is never
    more than one copy of the state.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        super().__init__(folder, keep)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, state: dict[str, np.ndarray], progress: Progress) -> Path:
        """Begin to write a checkpoint.

        Args:
            state: what `tfllm.training.checkpoints.model_state.state_of` gives; not to be changed
                any more.
            progress: where the run stands; it may go on.

        Raises:
            OSError: the checkpoint before could not be written, and this one was not begun.
        """
        self.wait()
        # Python waits for a thread that is no daemon, however the process comes to its end.
        thread = threading.Thread(
            target=self._write, args=(state, replace(progress)), name="checkpoint", daemon=False
        )
        thread.start()
        self._thread = thread
        return self.path(progress.step)

    def update(self, progress: Progress) -> None:
        """Write anew what the checkpoint of this step says of its run.

        Raises:
            OSError: this or the checkpoint before could not be written.
            CheckpointError: what it says now is damaged.
        """
        self.wait()
        super().update(progress)

    def set_aside(self, step: int) -> Path:
        """Rename a damaged checkpoint, so that it counts for nothing; returns where it is now."""
        self.wait()
        return super().set_aside(step)

    def recover(self) -> None:
        """Clean up after a process that was killed; for the one process that writes the run."""
        self.wait()
        super().recover()

    def wait(self) -> None:
        """Wait until what was begun is on the disk.

        Raises:
            OSError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise the error that the thread met, if it met one; does not wait.

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
            warnings.warn(str(lost), stacklevel=2)  # the first error says more

    def _write(self, state: dict[str, np.ndarray], progress: Progress) -> None:
        try:
            super().save(state, progress)
        except BaseException as error:
            self._error = error
