"""Find which workers train together, from the environment that a cluster manager sets.

| source | what is read |
| --- | --- |
| TF_CONFIG | the JSON that TensorFlow defines, as `tfllm launch`, Kubeflow or Vertex AI set it |
| Kubernetes | an Indexed Job: JOB_COMPLETION_INDEX, together with TFLLM_WORKERS and TFLLM_SERVICE |
| Slurm | a task that `srun` started: see `tfllm/distribution/slurm.py` |

The first source that is present is used. TFLLM_PORT sets the port if the source does not name one.
This module does not import TensorFlow.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfllm.config import ConfigError
from tfllm.distribution.slurm import in_step, slurm_workers
from tfllm.distribution.variables import number, port

_KUBERNETES = ("TFLLM_WORKERS", "TFLLM_SERVICE")
_KUBERNETES_PORT = 2222
_REFUSED = {
    "ps": "parameter servers do not work with Keras 3",
    "evaluator": "the workers of a run validate together, and nothing waits for an evaluator",
    "master": "TensorFlow 2 calls it chief",
}


@dataclass(frozen=True)
class Cluster:
    """The processes that train one model together."""

    workers: tuple[str, ...]
    """the "host:port" of each worker, in the same order on all of them"""
    index: int
    """index of this process in `workers`"""
    source: str
    """where the cluster was found, for messages"""

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run's files."""
        return self.index == 0

    def tf_config(self) -> str:
        """The value of TensorFlow's variable TF_CONFIG: JSON in which every process is a worker."""
        task = {"type": "worker", "index": self.index}
        return json.dumps({"cluster": {"worker": list(self.workers)}, "task": task})


def detect_cluster(environ: Mapping[str, str] = os.environ) -> Cluster | None:
    """Find the cluster that this process is a worker of; None if the environment names none.

    A cluster of one worker is also returned: the caller decides whether one worker needs any
    communication. A Job's JOB_COMPLETION_INDEX by itself does not make a cluster (its pods may do
    separate things), nor does a Slurm job on one node whose command was not started by `srun`.

    Args:
        environ: Environment variables. Defaults to those of this process.

    Raises:
        ConfigError: If the variables are incomplete, damaged, or contradict one another; or if
            there are tasks that are not supported (parameter servers, evaluators).
    """
    cluster = _tf_config(environ) or _kubernetes(environ)
    if cluster is None:
        found = slurm_workers(environ)
        return None if found is None else Cluster(*found)
    _check_against_slurm(cluster, environ)
    return cluster


class NamesUnknown(TimeoutError):
    """The names of other workers cannot be resolved yet."""

    exit_status = 75
    """EX_TEMPFAIL: it may succeed later."""


def wait_for_names(
    cluster: Cluster,
    seconds: float = 300.0,
    tell: Callable[[str], None] = lambda message: None,
) -> None:
    """Wait until every worker's name can be resolved: a pod has none before it is scheduled.

    Args:
        cluster: Cluster of the workers.
        seconds: Maximum time to wait. Defaults to 300.
        tell: Function that gets one line of text if it has to wait. Defaults to none.

    Raises:
        NamesUnknown: If some names could not be resolved in this time.
    """
    end = time.monotonic() + seconds
    missing = _unresolved(cluster.workers)
    if missing:
        tell(f"waiting until the names of {', '.join(missing)} can be resolved")
    while missing:
        if time.monotonic() >= end:
            raise NamesUnknown(
                f"every worker's name must resolve within {seconds:.0f} s; {', '.join(missing)} "
                f"did not ({cluster.source}); are all workers running, and are the names right?"
            )
        time.sleep(1.0)
        missing = _unresolved(missing)


def _unresolved(addresses: tuple[str, ...]) -> tuple[str, ...]:
    missing = []
    for address in addresses:
        host, _, port_ = address.rpartition(":")
        try:
            socket.getaddrinfo(host.strip("[]"), int(port_), type=socket.SOCK_STREAM)
        except OSError:
            missing.append(address)
    return tuple(missing)


# ---- TF_CONFIG


def _tf_config(environ: Mapping[str, str]) -> Cluster | None:
    text = environ.get("TF_CONFIG", "").strip()
    if not text:
        return None
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"TF_CONFIG must be JSON ({error}); received {text!r}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"TF_CONFIG must be a JSON object; received {text!r}")
    jobs, task = values.get("cluster") or {}, values.get("task") or {}
    if not jobs and not task:
        return None  # one machine, as in TensorFlow
    if not isinstance(jobs, dict) or not isinstance(task, dict) or not jobs or not task:
        raise ConfigError(
            'TF_CONFIG must have both {"cluster": {"worker": ["host:port", ...]}, '
            f'"task": {{"type": "worker", "index": 0}}}}; received {text}'
        )
    kind, index = task.get("type"), task.get("index", 0)
    for job in [kind, *(job for job, addresses in jobs.items() if addresses)]:
        if job in _REFUSED:
            raise ConfigError(
                f"TF_CONFIG may have the tasks chief and worker; received {job!r}: {_REFUSED[job]}"
            )
        if job not in ("chief", "worker"):
            raise ConfigError(f"TF_CONFIG may have the tasks chief and worker; received {job!r}")
    chiefs, others = _addresses(jobs, "chief"), _addresses(jobs, "worker")
    if len(chiefs) > 1:
        raise ConfigError(f"TF_CONFIG may name one chief; received {', '.join(chiefs)}")
    own = chiefs if kind == "chief" else others
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    if type(index) is not int or not 0 <= index < len(own):
        raise ConfigError(
            f"TF_CONFIG's task must be one of its {len(own)} {kind} addresses, counted from 0; "
            f"received the index {index!r}"
        )
    workers = (*chiefs, *others)
    if len(set(workers)) < len(workers):
        raise ConfigError(
            f"TF_CONFIG must name each address once; received {', '.join(sorted(workers))}"
        )
    return Cluster(workers, index + (len(chiefs) if kind == "worker" else 0), "TF_CONFIG")


def _addresses(jobs: dict[str, Any], job: str) -> tuple[str, ...]:
    addresses = jobs.get(job) or []
    if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
        raise ConfigError(
            f'TF_CONFIG\'s {job} addresses must be a list of "host:port"; received {addresses!r}'
        )
    return tuple(addresses)


def _is_address(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    host, _, port_ = value.rpartition(":")
    return bool(host) and port_.isdecimal() and 0 < int(port_) < 65536


# ---- Kubernetes


def _kubernetes(environ: Mapping[str, str]) -> Cluster | None:
    given = [name for name in _KUBERNETES if environ.get(name)]
    if not given:
        return None
    missing = [n for n in (*_KUBERNETES, "JOB_COMPLETION_INDEX") if not environ.get(n)]
    if missing:
        raise ConfigError(
            f"{_are(given)} set, but {_are(missing)} not: the workers of an "
            "Indexed Job need TFLLM_WORKERS (the number of its completions) and TFLLM_SERVICE (its "
            "headless Service), and Kubernetes sets JOB_COMPLETION_INDEX (completionMode: Indexed)"
        )
    count, index = number(environ, "TFLLM_WORKERS"), number(environ, "JOB_COMPLETION_INDEX")
    if index >= count:
        raise ConfigError(
            f"JOB_COMPLETION_INDEX must be below TFLLM_WORKERS ({count}); received {index}; set "
            "TFLLM_WORKERS to the Job's completions"
        )
    job, suffix = environ.get("TFLLM_JOB", ""), f"-{index}"
    if not job:
        host = environ.get("HOSTNAME", "")
        if not host.endswith(suffix) or host == suffix:
            raise ConfigError(
                f"the hostname of an Indexed Job's pod must be the Job's name and then {suffix!r}; "
                f"received HOSTNAME={host!r}; set TFLLM_JOB to the Job's name"
            )
        job = host.removesuffix(suffix)
    service, at = environ["TFLLM_SERVICE"], port(environ, _KUBERNETES_PORT)
    workers = tuple(f"{job}-{i}.{service}:{at}" for i in range(count))
    return Cluster(workers, index, f"Kubernetes job {job}")


# ---- Slurm


def _check_against_slurm(cluster: Cluster, environ: Mapping[str, str]) -> None:
    """Refuse the result of `export TF_CONFIG=...` in a batch script: all tasks have one index."""
    if not in_step(environ):
        return
    index, tasks = environ.get("SLURM_PROCID", ""), environ.get("SLURM_STEP_NUM_TASKS", "")
    workers = len(cluster.workers)
    # If the numbers of workers and tasks differ, something other than srun started the workers.
    if workers > 1 and tasks == str(workers) and index != str(cluster.index):
        raise ConfigError(
            f"{cluster.source} and Slurm must give a task the same number; received "
            f"{cluster.index} and SLURM_PROCID={index}; unset one of them (Slurm alone is enough)"
        )


def _are(names: Sequence[str]) -> str:
    """The names with their verb: "A is", or "A and B are"."""
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"
