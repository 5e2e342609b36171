"""The folder of a run: what is where in it, and that one process at a time writes to it.

```text
RUN/
├── run.json          settings, versions and what was measured at the end
├── metrics.jsonl     a line for each logged step and each validation
├── tensorboard/      the same for TensorBoard
├── checkpoints/      step-00000250/ ...: the last ones and the best
└── model/            the finished model, a Hugging Face folder
```
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from pathlib import Path
from typing import IO, Any

_LOCK = ".lock"


class RunFolder:
    """A run's folder, held by this process from `open` to `close`.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self._lock: IO[str] | None = None

    def open(self, *, resume: bool) -> None:
        """Take the folder.

        Raises:
            FileExistsError: it holds a run already, and `resume` is false.
            FileNotFoundError: there is nothing to resume.
            RuntimeError: another process trains in it.
        """
        there = (self.path / "run.json").exists()
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"a run is a folder; received the file {self.path}")
        others = self.path.is_dir() and {p.name for p in self.path.iterdir()} - {_LOCK}
        if others and not there and not resume:
            raise FileExistsError(
                f"{self.path} holds other files and no run; give an empty or a new folder"
            )
        if resume and not there:
            raise FileNotFoundError(
                f"{self.path} holds no run to resume; leave resume out to start one"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        lock = open(self.path / _LOCK, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise RuntimeError(
                f"another process (pid {owner}) is training in {self.path}; wait for it, stop it, "
                "or give another folder"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock
        if there and not resume:
            self.close()
            raise FileExistsError(
                f"{self.path} holds a run already; go on with it (resume), give another folder, or "
                "delete this one"
            )

    def close(self) -> None:
        """Let the folder go; one in which no run began is as it was before `open`."""
        if self._lock is None:
            return
        if not (self.path / "run.json").exists():
            (self.path / _LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it is not empty
                self.path.rmdir()
        self._lock.close()
        self._lock = None

    def read(self) -> dict[str, Any]:
        """What run.json says.

        Raises:
            ValueError: it is damaged.
        """
        path = self.path / "run.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); start a new run") from error

    def trim_metrics(self, step: int) -> None:
        """Take lines about steps after `step`, which a resumed run does again, out of the log."""
        if not self.metrics.exists():
            return
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step(line) <= step]
        if kept != lines:
            beside = self.metrics.with_name("." + self.metrics.name)
            beside.write_text("".join(kept), encoding="utf-8")
            beside.replace(self.metrics)

    def write(self, values: dict[str, Any]) -> None:
        """Write run.json, beside and renamed."""
        beside = self.path / ".run.json"
        beside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        beside.rename(self.path / "run.json")


def _step(line: str) -> float:
    """Of a line of the log; a line that was cut short is of no step."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except ValueError:
        return math.inf
