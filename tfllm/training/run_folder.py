"""The folder of a run: its layout, and a lock that lets one process at a time write to it.

```text
RUN/
├── run.json          settings, versions and the results
├── metrics.jsonl     a line for each logged step and each validation
├── tensorboard/      the same for TensorBoard
├── logs/             worker-0.log ...: the output of each worker, if there are several
├── data/             data prepared from the files that the run was given
├── reference/        for preference tuning: log-probabilities of the replies at the start
├── checkpoints/      step-00000250/ ...: the latest ones and the best
├── adapter/          for LoRA: the finished adapter, in PEFT's layout
└── model/            the finished model, a Hugging Face folder
```
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import socket
import time
import warnings
from pathlib import Path
from typing import IO, Any

from tfllm.files import read_json, write_file

_LOCK = ".lock"
_LOGS = "logs"
"""may exist before the run, since the launcher of the workers writes it"""
_DATA = "data"
"""may exist before the run, which is started after its data are prepared"""
_UNFINISHED = (f".{_DATA}.", ".run.json")
"""prefixes of files that a killed preparation, or a killed start, left"""
_NO_RUN_YET = {_LOCK, _LOGS, _DATA}


_LEASE_SECONDS = 150
"""time after which a network file system releases the locks of a machine that was lost"""


class RunFolder:
    """A run's folder, held by this process from `open` to `close`.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.adapter = self.path / "adapter"
        self.data = self.path / _DATA
        self.reference = self.path / "reference"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self._lock: IO[str] | None = None

    def open(self, *, resume: bool = False) -> bool:
        """Lock the folder.

        Args:
            resume: whether the folder must contain a run already.

        Returns:
            Whether the folder contains a run already.

        Raises:
            FileExistsError: it contains other files.
            FileNotFoundError: there is no run to resume.
            NotADirectoryError: the path is a file.
            RuntimeError: another process is training in it.
        """
        there = (self.path / "run.json").exists()
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"a run is a folder; received the file {self.path}")
        others = self.path.is_dir() and {
            path.name
            for path in self.path.iterdir()
            if path.name not in _NO_RUN_YET and not path.name.startswith(_UNFINISHED)
        }
        if others and not there and not resume:
            raise FileExistsError(
                f"{self.path} contains other files, but no run; give an empty or a new folder"
            )
        if resume and not there:
            raise FileNotFoundError(
                f"{self.path} contains no run to resume; leave resume out to start one"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        lock = open(self.path / _LOCK, "a+", encoding="utf-8")  # noqa: SIM115
        here = socket.gethostname()
        end = time.monotonic() + _LEASE_SECONDS
        while not _locked(lock):
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            if owner.endswith(f" on {here}") or time.monotonic() > end:
                lock.close()
                raise RuntimeError(
                    f"another process (pid {owner}) is training in {self.path}; wait for it, stop "
                    "it, or give another folder"
                )
            time.sleep(2)  # the locks of a machine that was lost are held for a while
        lock.truncate(0)
        lock.write(f"{os.getpid()} on {here}")
        lock.flush()
        self._lock = lock
        return there

    def close(self) -> None:
        """Unlock the folder; if no run was started in it, leave it as it was before `open`."""
        if self._lock is None:
            return
        if not (self.path / "run.json").exists():
            (self.path / _LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the folder is not empty
                self.path.rmdir()
        self._lock.close()
        self._lock = None

    def read(self) -> dict[str, Any]:
        """Read run.json.

        Raises:
            ValueError: it is damaged.
        """
        return read_json(self.path / "run.json", "start a new run")

    def trim_metrics(self, step: int) -> None:
        """Remove the lines of steps after `step`, which a resumed run repeats, from the log."""
        if not self.metrics.exists():
            return
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step(line) <= step]
        if kept != lines:
            write_file(self.metrics, "".join(kept))

    def write(self, values: dict[str, Any]) -> None:
        """Write run.json."""
        write_file(self.path / "run.json", json.dumps(values, indent=1) + "\n")


def _locked(file: IO[str]) -> bool:
    """Try to lock a file; returns whether this process may write.

    Where the file system does not support locks, a warning is given instead.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        warnings.warn(
            f"{file.name} cannot be locked here ({error.strerror}); make sure that no other "
            "process trains in this folder",
            stacklevel=3,
        )
    return True


def _step(line: str) -> float:
    """The step of a line of the log; infinity for a truncated line."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except ValueError:
        return math.inf
