"""Find the workers of a Slurm job step from the variables that `srun` sets, without `scontrol`.

The variables and the order of tasks (block or cyclic) are those of the manual pages srun(1) and
sbatch(1).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

from tfllm.config import ConfigError
from tfllm.distribution.variables import number, port

_FIRST_PORT = 20_000
"""Above the ports of services, and below those of Linux's outgoing connections (32,768 on)."""
_JOBS = 625
"""Number of port ranges over which jobs are spread."""
_PORTS_PER_JOB = 16
_REPEATED = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def in_step(environ: Mapping[str, str]) -> bool:
    """Whether `srun` started this process: a batch script itself also has a SLURM_PROCID."""
    return bool(environ.get("SLURM_STEP_NODELIST"))


def slurm_workers(environ: Mapping[str, str]) -> tuple[tuple[str, ...], int, str] | None:
    """The addresses of all tasks of this step, this task's number, and a name; None outside Slurm.

    Raises:
        ConfigError: If variables are missing or contradict one another; the job has several nodes,
            but the command was not started by `srun`; or tasks are placed in an unknown order.
    """
    if not environ.get("SLURM_JOB_ID"):
        return None
    if not in_step(environ):
        nodes = expand_hosts(environ.get("SLURM_JOB_NODELIST", ""))
        if len(nodes) > 1:
            raise ConfigError(
                f"a Slurm job with several nodes must start its workers with srun, but this "
                f"command was started without it; received the nodes "
                f"{environ['SLURM_JOB_NODELIST']}; put srun before the command"
            )
        return None
    index = number(environ, "SLURM_PROCID")
    counted = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    count = number(environ, counted)
    if index >= count:
        raise ConfigError(f"SLURM_PROCID must be below {counted} ({count}); received {index}")
    placed = _places(environ, count)
    host, local = placed[index]
    job = number(environ, "SLURM_JOB_ID")
    for name, ours in (("SLURMD_NODENAME", host), ("SLURM_LOCALID", str(local))):
        if environ.get(name, ours) != ours:
            raise ConfigError(
                f"the tasks of a step must be placed block by block or cyclically; then task "
                f"{index} has {name}={ours}, but received {environ[name]!r}; use "
                "srun --distribution=block, or set TF_CONFIG"
            )
    first = port(environ, _FIRST_PORT + job % _JOBS * _PORTS_PER_JOB)
    workers = tuple(f"{host}:{first + local}" for host, local in placed)
    return workers, index, f"Slurm job {job}"


def _places(environ: Mapping[str, str], count: int) -> list[tuple[str, int]]:
    """The host of each task, and its number on that host."""
    hosts = expand_hosts(environ["SLURM_STEP_NODELIST"])
    text = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE")
    if text:
        on_each = expand_counts(text)
    else:  # Slurm puts one more on the first nodes
        on_each = [count // len(hosts) + (i < count % len(hosts)) for i in range(len(hosts))]
    if len(on_each) != len(hosts) or sum(on_each) != count:
        raise ConfigError(
            f"Slurm's variables must agree; received {count} tasks, the nodes {', '.join(hosts)} "
            f"and the tasks per node {', '.join(map(str, on_each))}"
        )
    places = [(host, i) for host, n in zip(hosts, on_each, strict=True) for i in range(n)]
    if re.match("cyclic", environ.get("SLURM_DISTRIBUTION", "")):
        order = {host: i for i, host in enumerate(hosts)}
        places.sort(key=lambda place: (place[1], order[place[0]]))
    return places


def expand_counts(text: str) -> list[int]:
    """Expand Slurm's short form of one number per node: "2(x3),1" is 2, 2, 2, 1.

    Raises:
        ConfigError: If the text does not have that form.
    """
    counts: list[int] = []
    for part in text.split(","):
        match = _REPEATED.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"Slurm's tasks per node must read like 2(x3),1; received {text!r} at {part!r}"
            )
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def expand_hosts(text: str) -> list[str]:
    """Expand Slurm's short form of host names.

    "a[08-10,12],rack[0-1]n[1-2]" is a08, a09, a10, a12, rack0n1, rack0n2, rack1n1, rack1n2.

    Raises:
        ConfigError: If the brackets or ranges do not have that form.
    """
    hosts: list[str] = []
    for part in re.split(r",(?![^\[]*\])", text) if text else []:
        pieces = re.split(r"\[([^\[\]]*)\]", part)  # text and ranges alternate
        choices = [
            [piece] if i % 2 == 0 else _expand_ranges(piece, text) for i, piece in enumerate(pieces)
        ]
        names = ["".join(choice) for choice in itertools.product(*choices)]
        if any(not name or "[" in name or "]" in name for name in names):
            raise ConfigError(
                f"a Slurm list of nodes must read like a[1-3,5],b; received {text!r} at {part!r}"
            )
        hosts += names
    return hosts


def _expand_ranges(ranges: str, text: str) -> list[str]:
    """ "08-10,12" is 08, 09, 10, 12, with as many digits as the first number."""
    numbers: list[str] = []
    for part in ranges.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise ConfigError(
                f"a Slurm list of nodes must have ranges such as [1-3,5]; received {text!r} at "
                f"{part!r}"
            )
        numbers += [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    return numbers
