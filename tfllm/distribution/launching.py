"""Start local workers that train one model together, to try out what a cluster does.

This module does not import TensorFlow. Each worker learns of the others through TF_CONFIG, on
loopback.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfllm.config import ConfigError
from tfllm.distribution.cluster import Cluster, detect_cluster
from tfllm.distribution.worker_group import WORKER_LOST, Patience, ReceivedSignals, WorkerGroup
from tfllm.distribution.worker_output import Terminal
from tfllm.distribution.worker_process import (
    WorkerProcess,
    free_ports,
    share_gpus,
    shares,
    usable_cores,
)


def launch(
    command: Sequence[str],
    *,
    num_workers: int,
    logs: str | Path,
    restarts: int = 0,
    pin: bool = True,
    patience: Patience | None = None,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Run a command as several workers on this machine, until all have ended.

    The chief's output also goes to the terminal. SIGINT, SIGTERM and SIGHUP are passed on, so that
    the workers save and end; a second SIGINT kills them at once. If a worker fails, the others get
    some time to end by themselves. No worker outlives this process (on Linux, not even if it is
    killed with -9).

    Args:
        command: Program and arguments of every worker.
        num_workers: Number of workers.
        logs: Folder for worker-0.log and so on, which are appended to.
        restarts: How often all workers are started again after one was killed or lost. Defaults
            to 0.
        pin: Whether to give each worker its own share of the cores (on Linux) and of the GPUs.
            Defaults to True.
        patience: How long to wait for workers. Defaults to `Patience()`.
        environ: Environment variables of the workers, to which TF_CONFIG is added. Defaults to
            those of this process.

    Returns:
        The exit status of the worker that decided the end: 0; the status of an error that would
        occur again after a restart; 128 + n for signal n; 75 if a worker was lost.

    Raises:
        ConfigError: If a count is out of range; there are fewer GPUs than workers; or this process
            is itself one of several workers of a cluster.
        OSError: If the logs cannot be written, or a process cannot be started.
    """
    if num_workers < 1:
        raise ConfigError(f"workers must be at least 1; received {num_workers}")
    if restarts < 0:
        raise ConfigError(f"restarts must not be negative; received {restarts}")
    outer = detect_cluster(environ)
    if outer is not None and len(outer.workers) > 1:
        raise ConfigError(
            f"launch starts the workers of one machine; received an environment in which "
            f"{outer.source} already has {len(outer.workers)} workers: give them the command "
            "itself, without `tfllm launch`"
        )
    cores = usable_cores() if pin else None
    of_cores = shares(cores, num_workers) if cores else [None] * num_workers
    of_gpus = share_gpus(environ, num_workers) if pin else [{}] * num_workers
    logs = Path(logs)
    logs.mkdir(parents=True, exist_ok=True)
    terminal = Terminal()
    several = f"{num_workers} worker{'' if num_workers == 1 else 's'}"
    terminal.say(f"{several} on this machine; their output is in {logs}")
    with ReceivedSignals() as signals:
        for attempt in range(1, restarts + 2):
            addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(num_workers))
            with WorkerGroup(terminal, signals, patience or Patience()) as group:
                for i in range(num_workers):
                    config = Cluster(addresses, i, "tfllm launch").tf_config()
                    variables = {"TF_CONFIG": config, "PYTHONUNBUFFERED": "1", **of_gpus[i]}
                    title = f"worker {i} of {num_workers}, start {attempt} of {restarts + 1}"
                    log = logs / f"worker-{i}.log"
                    group.start(command, {**environ, **variables}, log, title, of_cores[i])
                group.wait()
                decisive = group.decisive()
            if group.cut_short:
                return 128 + signal.SIGINT
            if signals.received or not _restart_helps(decisive):
                break
            if attempt <= restarts:
                why = f"{decisive.describe_end()}: {several} start again"
                terminal.say(f"{why} (restart {attempt} of {restarts})")
            else:
                terminal.say("the same command continues from the last checkpoint")
    return decisive.status if decisive.status >= 0 else 128 - decisive.status


def _restart_helps(worker: WorkerProcess) -> bool:
    return worker.status < 0 or worker.status == WORKER_LOST


def logs_of(run: str | Path) -> Path:
    """The folder for the logs of a run's workers: RUN/logs.

    Raises:
        FileExistsError: If `run` is a file, or a folder with other contents, so that no run can be
            there.
    """
    run = Path(run)
    if run.exists() and not run.is_dir():
        raise FileExistsError(f"a run is a folder; received the file {run}")
    before = {"logs", ".lock", ".run.json"}  # files of a run that has not begun yet
    others = {p.name for p in run.iterdir()} - before if run.is_dir() else set()
    if others and not (run / "run.json").exists():
        raise FileExistsError(f"{run} has other files and no run; give an empty or a new folder")
    return run / "logs"
