"""How the environment is read; a half-set or contradictory one is refused."""

import json
import socket
from dataclasses import FrozenInstanceError

import pytest

from tfllm.config import ConfigError
from tfllm.distribution import cluster as cluster_module
from tfllm.distribution.cluster import Cluster, detect_cluster, wait_for_names


def tf_config(task=("worker", 0), **jobs) -> dict[str, str]:
    values: dict = {"cluster": jobs}
    if task:
        values["task"] = {"type": task[0], "index": task[1]}
    return {"TF_CONFIG": json.dumps(values)}


POD = {
    "JOB_COMPLETION_INDEX": "2",
    "TFLLM_WORKERS": "3",
    "TFLLM_SERVICE": "peers",
    "HOSTNAME": "my-train-2",
}
TASK = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
}


def test_an_empty_environment_names_no_cluster():
    assert detect_cluster({}) is None
    assert detect_cluster({"TF_CONFIG": ""}) is None
    assert detect_cluster({"TF_CONFIG": "{}"}) is None
    assert detect_cluster({"TF_CONFIG": '{"cluster": {}, "task": {}, "environment": "x"}'}) is None
    assert detect_cluster({"JOB_COMPLETION_INDEX": "3", "HOSTNAME": "sweep-3"}) is None


@pytest.mark.parametrize("index", [0, 1, 2])
def test_tensorflow_reads_the_same_cluster_from_tf_config(index, monkeypatch):
    import tensorflow as tf

    environ = tf_config(("worker", index), worker=["a:1", "b:2", "[::1]:3"])
    cluster = detect_cluster(environ)
    assert cluster == Cluster(("a:1", "b:2", "[::1]:3"), index, "TF_CONFIG")
    assert cluster.is_chief == (index == 0)
    monkeypatch.setenv("TF_CONFIG", cluster.tf_config())
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert resolver.cluster_spec().as_dict() == {"worker": list(cluster.workers)}
    assert (resolver.task_type, resolver.task_id) == ("worker", index)


def test_the_chief_of_tf_config_is_worker_0():
    jobs = {"chief": ["c:1"], "worker": ["a:1", "b:1"], "ps": []}
    workers = ("c:1", "a:1", "b:1")
    assert detect_cluster(tf_config(("chief", 0), **jobs)) == Cluster(workers, 0, "TF_CONFIG")
    assert detect_cluster(tf_config(("worker", 0), **jobs)) == Cluster(workers, 1, "TF_CONFIG")
    assert detect_cluster(tf_config(("worker", "1"), **jobs)) == Cluster(workers, 2, "TF_CONFIG")


def test_what_is_written_for_tensorflow_is_read_again():
    for cluster in (detect_cluster(POD), detect_cluster(TASK)):
        again = detect_cluster({"TF_CONFIG": cluster.tf_config()})
        assert (again.workers, again.index) == (cluster.workers, cluster.index)


def test_one_worker_is_a_cluster_of_one():
    assert detect_cluster(tf_config(worker=["a:1"])) == Cluster(("a:1",), 0, "TF_CONFIG")
    alone = {**POD, "TFLLM_WORKERS": "1", "JOB_COMPLETION_INDEX": "0", "HOSTNAME": "t-0"}
    assert detect_cluster(alone).workers == ("t-0.peers:2222",)


def test_a_cluster_does_not_change():
    with pytest.raises(FrozenInstanceError):
        Cluster(("a:1",), 0, "x").index = 1


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TF_CONFIG": "{"}, "TF_CONFIG must be JSON"),
        ({"TF_CONFIG": "[1]"}, "must be a JSON object"),
        (tf_config(None, worker=["a:1", "b:1"]), "must have both"),
        ({"TF_CONFIG": '{"task": {"type": "worker", "index": 0}}'}, "must have both"),
        (tf_config(worker=["a:1"], ps=["p:1"]), "'ps': parameter servers do not work with Keras 3"),
        (tf_config(("ps", 0), worker=["a:1"]), "'ps': parameter servers do not work"),
        (tf_config(("evaluator", 0), worker=["a:1"]), "'evaluator': the workers of a run validate"),
        (tf_config(("master", 0), master=["a:1"]), "TensorFlow 2 calls it chief"),
        (tf_config(("boss", 0), worker=["a:1"]), "received 'boss'"),
        (tf_config(("worker", 2), worker=["a:1", "b:1"]), "one of its 2 worker addresses"),
        (tf_config(("worker", -1), worker=["a:1", "b:1"]), "received the index -1"),
        (tf_config(("worker", True), worker=["a:1", "b:1"]), "received the index True"),
        (tf_config(("chief", 0), worker=["a:1"]), "one of its 0 chief addresses"),
        (tf_config(("chief", 0), chief=["a:1", "b:1"]), "may name one chief"),
        (tf_config(worker=["a", "b:1"]), 'a list of "host:port"'),
        (tf_config(worker=["a:99999"]), 'a list of "host:port"'),
        (tf_config(worker="a:1"), 'a list of "host:port"'),
        (tf_config(worker=["a:1", "a:1"]), "name each address once"),
        ({"TF_CONFIG": '{"cluster": [1], "task": {"index": 0}}'}, "must have both"),
    ],
)
def test_a_damaged_tf_config_is_refused_with_the_reason(environ, message):
    with pytest.raises(ConfigError, match="TF_CONFIG") as error:
        detect_cluster(environ)
    assert message in str(error.value)


# ---- Kubernetes


def test_the_pods_of_an_indexed_job_are_workers():
    workers = ("my-train-0.peers:2222", "my-train-1.peers:2222", "my-train-2.peers:2222")
    assert detect_cluster(POD) == Cluster(workers, 2, "Kubernetes job my-train")
    with_port = {**POD, "TFLLM_PORT": "4000", "TFLLM_SERVICE": "peers.ns.svc.cluster.local"}
    assert detect_cluster(with_port).workers[0] == "my-train-0.peers.ns.svc.cluster.local:4000"


def test_on_the_host_network_the_job_is_named():
    on_host = {**POD, "HOSTNAME": "node-17"}
    with pytest.raises(ConfigError, match=r"received HOSTNAME='node-17'; set TFLLM_JOB"):
        detect_cluster(on_host)
    assert detect_cluster({**on_host, "TFLLM_JOB": "my-train"}) == detect_cluster(POD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"TFLLM_WORKERS": ""}, "TFLLM_SERVICE is set, but TFLLM_WORKERS is not"),
        ({"TFLLM_SERVICE": ""}, "TFLLM_WORKERS is set, but TFLLM_SERVICE is not"),
        ({"JOB_COMPLETION_INDEX": ""}, "TFLLM_WORKERS and TFLLM_SERVICE are set, but JOB"),
        ({"JOB_COMPLETION_INDEX": ""}, "but JOB_COMPLETION_INDEX is not"),
        ({"TFLLM_WORKERS": "2"}, "below TFLLM_WORKERS (2); received 2"),
        ({"TFLLM_WORKERS": "two"}, "TFLLM_WORKERS must be a whole number; received 'two'"),
        ({"JOB_COMPLETION_INDEX": "-1"}, "must be a whole number; received '-1'"),
        ({"HOSTNAME": ""}, "received HOSTNAME=''"),
        ({"HOSTNAME": "-2"}, "received HOSTNAME='-2'"),
        ({"TFLLM_PORT": "80"}, "TFLLM_PORT must be in 1024..65535; received 80"),
    ],
)
def test_a_half_set_indexed_job_is_refused(change, message):
    with pytest.raises(ConfigError) as error:
        detect_cluster({**POD, **change})
    assert message in str(error.value)


# ---- several at once


def test_what_was_set_by_hand_goes_before_the_cluster_managers():
    by_hand = tf_config(("worker", 1), worker=["a:1", "b:1"])
    assert detect_cluster({**by_hand, **POD, **TASK}).source == "TF_CONFIG"
    assert detect_cluster({**POD, **TASK}).source == "Kubernetes job my-train"
    # Local workers that were started inside a batch script or one task of several.
    of_three = tf_config(("worker", 2), worker=["a:1", "b:1", "c:1"])
    assert detect_cluster({**of_three, **TASK}).index == 2
    batch = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "a,b"}
    assert detect_cluster({**by_hand, **batch}).index == 1


def test_one_tf_config_for_all_tasks_is_refused():
    same = tf_config(("worker", 0), worker=["a:1", "b:1"])
    assert detect_cluster({**same, **TASK, "SLURM_PROCID": "0"}).index == 0
    with pytest.raises(ConfigError, match=r"same number; received 0 and SLURM_PROCID=1"):
        detect_cluster({**same, **TASK})


# ---- names


def test_names_are_waited_for(monkeypatch):
    asked, told = [], []

    def resolve(host, port, **options):
        asked.append(host)
        if host == "late" and asked.count("late") < 3:
            raise socket.gaierror("not known")
        return [()]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(cluster_module.time, "sleep", lambda seconds: None)
    wait_for_names(Cluster(("early:1", "late:1"), 0, "test"), tell=told.append)
    assert told == ["waiting until the names of late:1 can be resolved"]
    assert asked == ["early", "late", "late", "late"]


def test_names_that_stay_unknown_are_named():
    unknown = Cluster(("127.0.0.1:1", "no-such-host.invalid:1", "[::1]:1"), 0, "test")
    with pytest.raises(TimeoutError, match=r"within 0 s; no-such-host\.invalid:1 did not \(test\)"):
        wait_for_names(unknown, seconds=0)


def test_the_processs_own_environment_is_the_default(monkeypatch):
    for name in (*POD, *TASK, "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    assert detect_cluster() is None
    monkeypatch.setenv("TF_CONFIG", Cluster(("a:1", "b:1"), 1, "x").tf_config())
    assert detect_cluster().index == 1
