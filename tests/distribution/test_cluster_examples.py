"""The cluster files in examples/: parsed as cluster managers do, and run with stand-ins."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfllm.cli.parsing import parse
from tfllm.distribution.cluster import detect_cluster

pytestmark = pytest.mark.alone

yaml = pytest.importorskip("yaml")
EXAMPLES = Path(__file__).parents[2] / "examples/cluster"

# ---- Kubernetes


@pytest.fixture(scope="module")
def manifest() -> dict[str, dict]:
    text = (EXAMPLES / "kubernetes-job.yaml").read_text(encoding="utf-8")
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def container(manifest) -> dict:
    (container,) = manifest["Job"]["spec"]["template"]["spec"]["containers"]
    return container


def test_the_pods_of_the_job_find_one_another_by_the_names_that_kubernetes_gives(
    manifest, container
):
    job, service = manifest["Job"], manifest["Service"]
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    (port,) = (p["containerPort"] for p in container["ports"])
    # A pod of an Indexed Job has the hostname JOB-INDEX, and under HOSTNAME.SUBDOMAIN an address
    # if the subdomain is the name of a headless Service that selects it.
    names = [f"{name}-{i}" for i in range(spec["completions"])]
    assert pod["subdomain"] == service["metadata"]["name"]
    for index, host in enumerate(names):
        environ = {variable["name"]: variable["value"] for variable in container["env"]}
        environ |= {"JOB_COMPLETION_INDEX": str(index), "HOSTNAME": host}
        cluster = detect_cluster(environ)
        assert cluster.index == index
        assert list(cluster.workers) == [f"{name}.{pod['subdomain']}:{port}" for name in names]
    assert [p["port"] for p in service["spec"]["ports"]] == [port]


def test_the_job_keeps_its_files_on_the_shared_volume(manifest, container):
    options = parse([*container["command"][1:], *container["args"]])
    (mount,) = container["volumeMounts"]
    assert all(p.startswith(mount["mountPath"] + "/") for p in (options.data, options.out))
    (volume,) = manifest["Job"]["spec"]["template"]["spec"]["volumes"]
    claim = manifest["PersistentVolumeClaim"]
    assert volume["name"] == mount["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_only_errors_that_a_restart_would_meet_again_fail_the_job(manifest, container):
    spec = manifest["Job"]["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # which the policy needs

    def action(status: int) -> str:
        for rule in spec["podFailurePolicy"]["rules"]:
            codes = rule.get("onExitCodes")
            if codes and codes["operator"] == "In" and status in codes["values"]:
                assert codes["containerName"] == container["name"]
                return rule["action"]
        return "Count"

    assert [action(s) for s in (1, 2)] == ["FailJob"] * 2
    assert [action(s) for s in (75, 143)] == ["Ignore"] * 2
    assert [action(s) for s in (137, 139)] == ["Count"] * 2


def test_the_liveness_probe_asks_whether_the_runs_log_grows(container, tmp_path):
    probe = container["livenessProbe"]
    *shell, script = probe["exec"]["command"]
    folder = parse([*container["command"][1:], *container["args"]]).out
    assert f"{folder}/metrics.jsonl" in script
    log = tmp_path / "metrics.jsonl"
    here = [*shell, script.replace(f"{folder}/metrics.jsonl", str(log))]
    assert subprocess.run(here, capture_output=True).returncode == 1  # none yet
    log.write_text("{}")
    assert subprocess.run(here).returncode == 0
    minutes = int(re.search(r"-mmin -(\d+)", script)[1])
    assert probe["initialDelaySeconds"] >= minutes * 60  # a resumed run finds an old log
    old = time.time() - minutes * 60 - 60
    os.utime(log, (old, old))
    assert subprocess.run(here).returncode == 1


# ---- Slurm

SRUN = """#!{python}
import contextlib, itertools, json, os, pathlib, subprocess, sys
here = pathlib.Path({folder!r})
flags = list(itertools.takewhile(lambda word: word.startswith("--"), sys.argv[1:]))
options = dict(flag.removeprefix("--").partition("=")[::2] for flag in flags)
command = sys.argv[1 + len(flags):]
tasks = json.loads((here / "tasks.json").read_text())
processes = []
for i, variables in enumerate(tasks):
    out = open(options["output"].replace("%t", str(i)), "ab")
    environ = {{**os.environ, **variables}}
    processes.append(
        subprocess.Popen(command, env=environ, stdout=out, stderr=out, start_new_session=True)
    )
(here / "groups").write_text(json.dumps([p.pid for p in processes]))
statuses = []
for p in processes:
    statuses.append(p.wait())
    with contextlib.suppress(ProcessLookupError):  # a task that has ended leaves nothing behind
        os.killpg(p.pid, 9)
sys.exit(max(s if s >= 0 else 128 - s for s in statuses))
"""
TFLLM = """#!{python}
import json, os, pathlib, signal, sys, time
here = pathlib.Path({folder!r})
index = os.environ["SLURM_PROCID"]
(here / f"arguments-{{index}}").write_text(json.dumps(sys.argv[1:]))
status = json.loads((here / "statuses.json").read_text())[int(index)]
def save(number, frame):
    time.sleep(0.3)
    (here / f"saved-{{index}}").touch()
    sys.exit(128 + number)
if status == "wait":
    signal.signal(signal.SIGTERM, save)
    (here / f"ready-{{index}}").touch()
    time.sleep(60)
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


class Slurm:
    """Stand-ins for srun, scontrol and tfllm that a batch script finds first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.started: list[subprocess.Popen] = []
        self.script = EXAMPLES / "slurm.sbatch"
        asked = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", self.script.read_text(), re.M)
        self.asked = dict(asked)
        nodes, each = (int(self.asked[name]) for name in ("nodes", "ntasks-per-node"))
        step = {
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NODELIST": f"node[01-{nodes:02d}]",
            "SLURM_STEP_NUM_TASKS": str(nodes * each),
            "SLURM_STEP_TASKS_PER_NODE": f"{each}(x{nodes})",
        }
        self.tasks = [
            {
                **step,
                "SLURM_PROCID": str(i),
                "SLURM_LOCALID": str(i % each),
                "SLURMD_NODENAME": f"node{i // each + 1:02d}",
            }
            for i in range(nodes * each)
        ]
        (folder / "tasks.json").write_text(json.dumps(self.tasks))
        (folder / "bin").mkdir()
        for name, code in (("srun", SRUN), ("tfllm", TFLLM)):
            self._program(name, code.format(python=sys.executable, folder=str(folder)))
        self._program("scontrol", f'#!/bin/sh\necho "$@" >> {folder}/scontrol\n')
        self.environ = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": step["SLURM_STEP_NODELIST"],
            "SLURM_CPUS_PER_TASK": self.asked["cpus-per-task"],
            "SLURM_PROCID": "0",
            "DATA": "/shared/texts",
            "RUN": str(self.run),
        }

    def _program(self, name: str, code: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(code)
        path.chmod(0o755)

    def start(self, *statuses: int | str, **environ: str) -> subprocess.Popen:
        (self.folder / "statuses.json").write_text(json.dumps(statuses))
        process = subprocess.Popen(
            ["bash", str(self.script)],
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen) -> tuple[int, str, bool]:
        """The status, what the script said, and whether the job was put into the queue again."""
        out = process.communicate(timeout=30)[0]
        asked = self.folder / "scontrol"
        again = asked.exists() and asked.read_text() == "requeue 4711\n"
        asked.unlink(missing_ok=True)
        return process.returncode, out, again


@pytest.fixture
def slurm(tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    slurm = Slurm(tmp_path)
    yield slurm
    for process in slurm.started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_the_batch_script_is_valid_for_bash(slurm):
    subprocess.run(["bash", "-n", str(slurm.script)], check=True)
    assert "requeue" in slurm.asked
    number, seconds = slurm.asked["signal"].split("@")
    assert number == "TERM" and int(seconds) >= 60  # without B: to the tasks, not to the script


def test_the_tasks_of_the_batch_script_are_the_workers_of_one_run(slurm):
    assert slurm.end(slurm.start(0, 0))[:2] == (0, f"finished: {slurm.run}/model\n")
    clusters = [detect_cluster({**slurm.environ, **task}) for task in slurm.tasks]
    assert [cluster.index for cluster in clusters] == [0, 1]
    assert len({cluster.workers for cluster in clusters}) == 1
    assert [w.split(":")[0] for w in clusters[0].workers] == ["node01", "node02"]
    for i in (0, 1):
        options = parse(json.loads((slurm.folder / f"arguments-{i}").read_text()))
        assert (options.command, options.data, options.out) == (
            *("train", "/shared/texts"),
            str(slurm.run),
        )
        assert (slurm.run / f"logs/worker-{i}.log").exists()


@pytest.mark.parametrize(
    ("statuses", "status", "again"),
    [
        ((0, 0), 0, False),
        ((0, 75), 0, False),  # the chief had finished
        ((75, 1), 1, False),  # the cause, lower than its consequence
        ((2, 2), 1, False),
        ((75, 75), 75, True),
        ((75, -9), 137, True),
        ((143, 143), 143, True),  # out of time, saved
    ],
)
def test_the_job_goes_back_into_the_queue_where_that_helps(slurm, statuses, status, again):
    found, _, queued = slurm.end(slurm.start(*statuses))
    assert (found, queued) == (status, again)


def test_the_job_does_not_go_back_for_ever(slurm):
    assert slurm.end(slurm.start(75, 75, SLURM_RESTART_COUNT="19"))[2]
    status, out, again = slurm.end(slurm.start(75, 75, SLURM_RESTART_COUNT="20"))
    assert (status, again) == (75, False)
    assert "20 restarts are enough" in out


@pytest.mark.parametrize("script_too", [False, True])
def test_sigterm_lets_the_workers_save(slurm, script_too):
    """Slurm sends it to every process of the step, and to the script where it ends the job."""
    process = slurm.start("wait", "wait")
    end = time.monotonic() + 20
    while not all((slurm.folder / f"ready-{i}").exists() for i in (0, 1)):
        assert time.monotonic() < end
        time.sleep(0.02)
    if script_too:
        process.send_signal(signal.SIGTERM)
    for group in json.loads((slurm.folder / "groups").read_text()):
        os.killpg(group, signal.SIGTERM)
    status, out, again = slurm.end(process)
    assert all((slurm.folder / f"saved-{i}").exists() for i in (0, 1))
    assert (status, again) == (143, not script_too), out
