"""Make a `tf.distribute` strategy by name, and divide a batch among its replicas."""

from __future__ import annotations

import errno
import os
import socket
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tensorflow as tf

from tfllm.config import ConfigError
from tfllm.distribution.cluster import Cluster, detect_cluster, wait_for_names
from tfllm.distribution.worker_lost import lost_workers_named
from tfllm.optimization.supported_strategies import refuse_unsupported

StrategyName = Literal["auto", "one", "mirrored", "multiworker", "tpu"]

_TPU_VARIABLES = ("TPU_NAME", "TPU_WORKER_HOSTNAMES", "COLAB_TPU_ADDR")


def strategy(
    name: StrategyName | str = "auto",
    *,
    replicas: int | None = None,
    cluster: Cluster | None = None,
) -> tf.distribute.Strategy:
    """Make the strategy of a run. Call it before any other use of TensorFlow.

    A process has one strategy: if it is called again for the same devices, it returns the same one.

    Args:
        name: "one" for one device; "mirrored" for all GPUs of this machine, or for `replicas`
            logical devices of its CPU, to try it out; "multiworker" for the machines of a cluster;
            "tpu"; or "auto" for the cluster that the environment describes, else a TPU, else
            several GPUs, else one device. Defaults to "auto".
        replicas: Number of devices of this process; on a CPU, of logical devices. Defaults to all
            GPUs.
        cluster: The cluster. Defaults to the one that the environment describes (TF_CONFIG, Slurm,
            Kubernetes).

    Raises:
        ConfigError: If the name is unknown, or the combination cannot work.
        RuntimeError: If devices are not available, or the worker is already running.
    """
    if name not in get_args(StrategyName):
        raise ConfigError(
            f"strategy must be one of {', '.join(get_args(StrategyName))}; received {name!r}"
        )
    if replicas is not None and replicas < 1:
        raise ConfigError(f"replicas must be at least 1; received {replicas}")
    refuse_unsupported(tf.distribute.get_strategy())
    _warn_of_idle_gpus()
    cluster = cluster or detect_cluster()
    several = cluster is not None and len(cluster.workers) > 1
    if name == "auto":
        if several:
            name = "multiworker"
        elif any(os.environ.get(variable) for variable in _TPU_VARIABLES):
            name = "tpu"
        else:
            name = "mirrored" if (replicas or len(_gpus())) > 1 else "one"
    if several and name != "multiworker":
        assert cluster is not None
        raise ConfigError(
            f"{cluster.source} describes {len(cluster.workers)} workers, which only the strategy "
            f"multiworker (or auto) joins into one run; received {name!r}, with which each of them "
            "would train separately and write to the same folder"
        )
    if name == "one":
        if replicas not in (None, 1):
            raise ConfigError(f"the strategy one has one replica; received replicas={replicas}")
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return _the_one(_mirrored, replicas)
    if name == "tpu":
        if replicas is not None:
            raise ConfigError(
                f"a TPU's replicas are its cores; leave replicas out; received {replicas}"
            )
        return _the_one(_tpu)
    if cluster is None:
        raise ConfigError(
            "the strategy multiworker needs a cluster: TF_CONFIG, a Slurm or Kubernetes job, or "
            "`tfllm launch --workers N -- train ...`; the environment describes none"
        )
    return _the_one(_multi_worker, cluster, replicas)


_made: dict[tuple, tf.distribute.Strategy] = {}
"""The strategy of this process, by the arguments that made it."""


def _the_one(make: Any, *arguments: Any) -> tf.distribute.Strategy:
    """The only strategy of this process: a second one's collectives would reuse the same keys."""
    key = (make, *arguments)
    if _made and key not in _made:
        raise ConfigError(
            f"a process has one strategy, and this one already has {next(iter(_made.values()))!r}; "
            "start a new process for another"
        )
    if key not in _made:
        _made[key] = make(*arguments)
    return _made[key]


def _warn_of_idle_gpus() -> None:
    """Warn of unused GPUs, since TensorFlow is silent if it does not find their libraries."""
    found = Path("/proc/driver/nvidia/gpus")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if not hidden and not _gpus() and found.is_dir() and any(found.iterdir()):
        warnings.warn(
            "this machine has NVIDIA GPUs, but TensorFlow cannot use them, so the CPU is used; "
            "install the CUDA libraries with: pip install 'tfllm[gpu]'",
            stacklevel=3,
        )


def _gpus() -> list[Any]:
    return tf.config.list_physical_devices("GPU")


def _logical_devices(replicas: int | None) -> list[str]:
    """The devices of this process: GPUs, or logical devices of the CPU."""
    gpus = _gpus()
    if gpus:
        if (replicas or 1) > len(gpus):
            raise RuntimeError(f"this machine has {len(gpus)} GPUs; received replicas={replicas}")
        return [f"GPU:{i}" for i in range(replicas or len(gpus))]
    wanted = replicas or 1
    (cpu,) = tf.config.list_physical_devices("CPU")
    configured = tf.config.get_logical_device_configuration(cpu)
    if wanted > len(configured or [None]):
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * wanted
            )
        except RuntimeError as error:
            raise RuntimeError(
                f"{wanted} logical devices of the CPU must be requested before TensorFlow is used; "
                "call tfllm.training.strategy first"
            ) from error
    return [f"CPU:{i}" for i in range(wanted)]


def _mirrored(replicas: int | None) -> tf.distribute.Strategy:
    if replicas is None and not _gpus():
        raise ConfigError(
            "the strategy mirrored spreads a batch over several devices, but this machine has no "
            "GPU; give replicas (--replicas 2) to try it out on logical devices of the CPU"
        )
    return tf.distribute.MirroredStrategy(_logical_devices(replicas))


def _multi_worker(cluster: Cluster, replicas: int | None) -> tf.distribute.Strategy:
    on_gpu = bool(_gpus())
    if on_gpu and (replicas or 1) > len(_gpus()):
        raise RuntimeError(f"this machine has {len(_gpus())} GPUs; received replicas={replicas}")
    if on_gpu and replicas is not None:
        tf.config.set_visible_devices(_gpus()[:replicas], "GPU")
    elif (replicas or 1) > 1:
        raise ConfigError(
            "a worker without GPUs is one replica: collectives between workers cannot address the "
            f"logical devices of a CPU; received replicas={replicas}; start more workers instead"
        )
    wait_for_names(cluster, tell=lambda message: print(message, file=sys.stderr))
    _refuse_a_running_worker(cluster)
    os.environ["TF_CONFIG"] = cluster.tf_config()  # TensorFlow reads it there
    implementation = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        # With pieces, one is sent while another is summed: 10 % less time on two CPU workers.
        bytes_per_pack=0 if on_gpu else 4 << 20,
        implementation=implementation.AUTO if on_gpu else implementation.RING,
    )
    with lost_workers_named(cluster.index, several=len(cluster.workers) > 1):
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


def _refuse_a_running_worker(cluster: Cluster) -> None:
    """TensorFlow aborts the process if its port is taken; raise an explanation instead."""
    address = cluster.workers[cluster.index]
    port = int(address.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))  # as TensorFlow does: the name may only be known to others
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return
            raise RuntimeError(
                f"worker {cluster.index} cannot listen on {address} ({error.strerror}); is it "
                "already running? Start each worker once, each with its own index"
            ) from error


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        made = tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, OSError, ImportError, tf.errors.OpError) as error:
        raise RuntimeError(
            f"no TPU could be reached ({' '.join(str(error).split())}). On a TPU VM install "
            "tensorflow-tpu and set TPU_NAME=local; elsewhere set TPU_NAME to the TPU's name"
        ) from error
    if made.extended.num_hosts > 1:
        raise RuntimeError(
            "only TPUs of one host can be used: each host of a pod would read the same rows; "
            f"received a TPU of {made.extended.num_hosts} hosts"
        )
    return made


@dataclass(frozen=True)
class BatchPlan:
    """How the rows of one update are divided."""

    batch_size: int
    """rows of an update of the weights, over all replicas of all workers"""
    workers: int
    replicas: int
    """number of replicas of all workers"""
    gradient_accumulation: int
    """number of micro-batches that each replica computes one after the other"""

    def __post_init__(self) -> None:
        parts = self.replicas * self.gradient_accumulation
        if self.batch_size % parts:
            raise ConfigError(
                f"batch_size counts the rows of all replicas and micro-batches, and must be "
                f"divisible by their number ({self.replicas} replicas x "
                f"{self.gradient_accumulation} micro-batches = {parts}); received "
                f"{self.batch_size}; {-(-self.batch_size // parts) * parts} would do"
            )

    @property
    def rows_per_replica(self) -> int:
        """The rows of an update on one device."""
        return self.batch_size // self.replicas

    @property
    def rows_per_micro_batch(self) -> int:
        """The rows that a device computes at once."""
        return self.rows_per_replica // self.gradient_accumulation

    def describe(self, sequence_length: int) -> str:
        """Describe the plan in one line, as the command line prints it."""

        def several(count: int, noun: str) -> str:
            return f"{count} {noun}{'' if count == 1 else 's'}"

        parts = [several(self.workers, "worker")] if self.workers > 1 else []
        parts.append(several(self.replicas // self.workers, "replica"))
        if self.gradient_accumulation > 1:
            parts.append(f"{self.gradient_accumulation} micro-batches")
        return (
            f"a batch of {several(self.batch_size, 'row')} "
            f"({self.batch_size * sequence_length:,} tokens) = {' x '.join(parts)} x "
            f"{several(self.rows_per_micro_batch, 'row')} of {sequence_length} tokens"
        )


def plan_batch(
    batch_size: int, gradient_accumulation: int, current: tf.distribute.Strategy
) -> BatchPlan:
    """Divide `batch_size` rows under a strategy.

    Raises:
        ConfigError: If they cannot be divided evenly.
    """
    workers = num_workers(current)
    return BatchPlan(batch_size, workers, current.num_replicas_in_sync, gradient_accumulation)


def is_multi_worker(current: tf.distribute.Strategy) -> bool:
    """Whether other processes take part in each step."""
    return isinstance(current, tf.distribute.MultiWorkerMirroredStrategy)


def num_workers(current: tf.distribute.Strategy) -> int:
    """The number of processes that take part in each step."""
    if not is_multi_worker(current):
        return 1
    jobs = current.cluster_resolver.cluster_spec().as_dict()
    if set(jobs) != {"worker"}:
        raise ConfigError(
            "every process of a cluster must be a worker, and worker 0 is the chief; received the "
            f"jobs {', '.join(sorted(jobs))}; let tfllm.training.strategy make the strategy"
        )
    return len(jobs["worker"])


def worker_index(current: tf.distribute.Strategy) -> int:
    """The number of this process; 0 is the chief, the only one that writes files."""
    return int(current.cluster_resolver.task_id or 0) if is_multi_worker(current) else 0
