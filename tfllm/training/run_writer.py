"""What a run shows and writes while it trains: the progress bar, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import sys
from types import TracebackType

import tensorflow as tf
from tqdm import tqdm

from tfllm.training.checkpoints.checkpoints import Progress
from tfllm.training.run_folder import RunFolder

# What makes TensorBoard draw a line. `tf.summary.scalar` writes the same and needs TensorBoard.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
    data_class="DATA_CLASS_SCALAR",
)


class RunWriter:
    """The logs of a run, open while it is entered (`with`). Only the chief has one.

    Args:
        folder: of the run.
        progress: where the run stands.
        total_steps: of the run.
        verbose: whether to draw a progress bar.
    """

    def __init__(
        self, folder: RunFolder, progress: Progress, *, total_steps: int, verbose: bool
    ) -> None:
        self.folder = folder
        self.progress = progress
        self.total_steps = total_steps
        self.verbose = verbose

    def __enter__(self) -> RunWriter:
        """Open the logs."""
        self._metrics = open(self.folder.metrics, "a", encoding="utf-8")
        self._board = tf.summary.create_file_writer(str(self.folder.tensorboard))
        self._bar = tqdm(
            total=self.total_steps,
            initial=self.progress.step,
            desc="training",
            unit="step",
            disable=not self.verbose,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10,
        )
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the logs."""
        self._bar.close()
        for log in (self._metrics, self._board):
            try:
                log.close()
            except (OSError, tf.errors.OpError) as lost:
                if error is None:  # else the first error says more
                    raise self._error(lost) from lost

    def show(self, text: str | None, steps: int) -> None:
        """Move the progress bar by `steps`; with another `text` behind it, if one is given."""
        if text is not None:
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(steps)

    def say(self, line: str) -> None:
        """Print a line above the progress bar."""
        if self.verbose:
            tqdm.write(line, file=sys.stderr)

    def log(self, values: dict[str, float]) -> None:
        """Write a line of metrics.jsonl, and the same for TensorBoard.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        line = {"step": self.progress.step, "tokens": self.progress.tokens, **values}
        try:
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()
            with self._board.as_default(step=self.progress.step):
                for name, value in values.items():
                    tf.summary.write(name, tf.constant(value, tf.float32), metadata=_SCALAR)
        except (OSError, tf.errors.OpError) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> OSError:
        return OSError(
            f"the logs in {self.folder.path} could not be written: {error}. Make room; the same "
            "command goes on from the last checkpoint"
        )
