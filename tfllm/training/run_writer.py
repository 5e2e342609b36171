"""Output of a run while it trains: the progress bar, metrics.jsonl and TensorBoard logs."""

from __future__ import annotations

import json
import sys
from types import TracebackType

import tensorflow as tf
from tqdm import tqdm

from tfllm.training.checkpoints.checkpoints import Progress
from tfllm.training.run_folder import RunFolder

# Marks values as scalars, which TensorBoard plots as a line. `tf.summary.scalar` does the same, but
# requires TensorBoard to be installed.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
    data_class="DATA_CLASS_SCALAR",
)


class RunWriter:
    """Writer of a run's logs, which are open inside its `with` block. Only the chief has one.

    Args:
        folder: folder of the run.
        progress: progress of the run.
        total_steps: number of steps of the run.
        verbose: whether to show a progress bar.
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
                if error is None:  # otherwise the first error is more informative
                    raise self._error(lost) from lost

    def show(self, text: str | None, steps: int) -> None:
        """Advance the progress bar by `steps`, and replace the text after it if one is given."""
        if text is not None:
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(steps)

    def say(self, line: str) -> None:
        """Print a line above the progress bar."""
        if self.verbose:
            tqdm.write(line, file=sys.stderr)

    def log(self, values: dict[str, float]) -> None:
        """Write values to metrics.jsonl, as one line, and to the TensorBoard logs.

        Raises:
            OSError: the disk is full or cannot be written to.
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
            f"the logs in {self.folder.path} could not be written: {error}. Free some space; the "
            "same command continues from the last checkpoint"
        )
