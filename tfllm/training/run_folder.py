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

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any


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
        if self.path.is_dir() and not there and any(self.path.iterdir()) and not resume:
            raise FileExistsError(
                f"{self.path} holds other files and no run; give an empty or a new folder"
            )
        if resume and not there:
            raise FileNotFoundError(
                f"{self.path} holds no run to resume; leave resume out to start"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        lock = open(self.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
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
                f"{self.path} holds a run already; resume it (--resume), or give another folder"
            )

    def close(self) -> None:
        """Let the folder go."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def read(self) -> dict[str, Any]:
        """What run.json says."""
        return json.loads((self.path / "run.json").read_text(encoding="utf-8"))

    def write(self, values: dict[str, Any]) -> None:
        """Write run.json, beside and renamed."""
        beside = self.path / ".run.json"
        beside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        beside.rename(self.path / "run.json")
