"""Real processes of `tfllm train`: one, or several workers on loopback."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "sequence_length": 16,
    "batch_size": 8,
    "gradient_accumulation": 2,
    "learning_rate": 1e-2,
    "precision": "float32",
    "validation_batches": 1,
    "validate_every": 100,
    "checkpoint_every": 5,
    "keep_checkpoints": 3,
    "model.embedding_dim": 16,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.feed_forward_dim": 32,
    "model.dropout": 0.1,
}
LONG = 240
"""seconds that nothing here takes, on a machine that does other things as well"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def tf_config(addresses: list[str], index: int) -> str:
    task = {"type": "worker", "index": index}
    return json.dumps({"cluster": {"worker": addresses}, "task": task})


class Workers:
    """The processes of one run, from `with` to the end of its block.

    Args:
        data: prepared text.
        out: the run's folder.
        count: workers; 1 is a process alone.
        arguments: of the command, behind the settings above.
        each: more arguments for the worker of that number.
        environment: more variables, for the worker of that number.
        file_limit: bytes that no file of theirs may exceed.
    """

    def __init__(
        self,
        data,
        out,
        *arguments,
        count=1,
        each=None,
        environment=None,
        file_limit=None,
        **settings,
    ):
        self.out = Path(out)
        self.logs = [self.out.with_name(f"{self.out.name}-{i}.log") for i in range(count)]
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
        given = [f"{key}={value}" for key, value in {**SETTINGS, **settings}.items()]
        self.command = [sys.executable, "-m", "tfllm.cli", "train", "--data", str(data)]
        self.command += ["--out", str(out), *map(str, arguments), "--set", *given]
        self.processes = []
        self.file_limit = file_limit
        for index in range(count):
            self.start(index, (each or {}).get(index, []), (environment or {}).get(index, {}))

    def start(self, index, arguments=(), environment=None):
        variables = {
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_NUM_INTRAOP_THREADS": "1",  # sums in one order
            "PYTHONPATH": str(ROOT),
            **(environment or {}),
        }
        if len(self.addresses) > 1:
            variables["TF_CONFIG"] = tf_config(self.addresses, index)
        with open(self.logs[index], "a") as log:
            process = subprocess.Popen(
                [*self.command, *arguments],
                cwd=self.out.parent,  # from where nothing is imported
                env=variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=self.limit_files,
            )
        self.processes.append(process)
        return process

    def limit_files(self):
        if self.file_limit:  # Python ignores the signal, so that writing on is an error
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_limit, self.file_limit))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.kill()
            process.wait()

    def statuses(self, seconds=LONG):
        """Wait for all; their exit statuses."""
        end = time.monotonic() + seconds
        return [p.wait(timeout=max(end - time.monotonic(), 0.1)) for p in self.processes]

    def log(self, index=0):
        return self.logs[index].read_text()

    def wait_for_step(self, step, seconds=LONG):
        """Wait until a checkpoint of `step` or a later one is on the disk, or all have ended."""
        end = time.monotonic() + seconds
        while last_step(self.out) < step and any(p.poll() is None for p in self.processes):
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)


def last_step(out: Path) -> int:
    names = [p.name for p in (out / "checkpoints").glob("step-*")]
    return max((int(re.sub(r"\D", "", name)) for name in names), default=0)


def last_state(out: Path):
    return load_file(out / "checkpoints" / f"step-{last_step(out):08d}" / "state.safetensors")


def losses(out: Path) -> dict[int, float]:
    """Step to loss, of the steps that were logged."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}
