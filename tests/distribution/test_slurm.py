"""Slurm's short forms and placement of tasks, compared with TensorFlow's reading of the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as theirs

from tfllm.config import ConfigError
from tfllm.distribution.cluster import detect_cluster
from tfllm.distribution.slurm import expand_counts, expand_hosts

STEP = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_NODELIST": "gpu[08-09,11]",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_PROCID": "3",
}


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", []),
        ("a", ["a"]),
        ("a,b-1,c.d", ["a", "b-1", "c.d"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[08-10,12,001]", ["n08", "n09", "n10", "n12", "n001"]),
        ("n[99-101]", ["n99", "n100", "n101"]),
        ("r[0-1]n[1-2]x", ["r0n1x", "r0n2x", "r1n1x", "r1n2x"]),
        ("a[1,2],b,c[3]", ["a1", "a2", "b", "c3"]),
        ("[1-2]", ["1", "2"]),
    ],
)
def test_lists_of_hosts_are_written_out(text, hosts):
    assert expand_hosts(text) == hosts


@given(
    st.lists(
        st.tuples(
            st.text("abc-.", min_size=1, max_size=3),
            st.lists(st.tuples(st.integers(0, 200), st.integers(0, 12), st.integers(1, 4))),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_lists_of_hosts_are_read_as_tensorflow_reads_them(parts):
    """TensorFlow knows one pair of brackets a name."""
    text = ",".join(
        name + (f"[{','.join(f'{a:0{w}}-{a + n:0{w}}' for a, n, w in ranges)}]" if ranges else "")
        for name, ranges in parts
    )
    assert expand_hosts(text) == theirs.expand_hostlist(text)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 5)), min_size=1, max_size=6))
def test_tasks_per_node_are_read_as_tensorflow_reads_them(parts):
    text = ",".join(f"{n}(x{times})" if times > 1 else str(n) for n, times in parts)
    assert expand_counts(text) == theirs.expand_tasks_per_node(text)


@pytest.mark.parametrize("text", ["a[1-2", "a1-2]", "a[x]", "a[3-1]", "a[3-]", "a[]", "a,,b", ",a"])
def test_a_damaged_list_of_hosts_is_refused(text):
    with pytest.raises(ConfigError, match="a Slurm list of nodes must"):
        expand_hosts(text)


@pytest.mark.parametrize("text", ["", "2(x)", "2(3)", "two", "2,,1"])
def test_damaged_tasks_per_node_are_refused(text):
    with pytest.raises(ConfigError, match="must read like"):
        expand_counts(text)


def test_tasks_have_the_places_that_tensorflow_gives_them(monkeypatch):
    found = [detect_cluster({**STEP, "SLURM_PROCID": str(i)}) for i in range(5)]
    assert [cluster.index for cluster in found] == list(range(5))
    assert len({cluster.workers for cluster in found}) == 1
    assert found[0].source == "Slurm job 1234567"
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    first = int(found[0].workers[0].rpartition(":")[2])
    resolver = theirs.SlurmClusterResolver(
        port_base=first, gpus_per_node=2, gpus_per_task=1, auto_set_gpu=False
    )
    assert resolver.cluster_spec().as_dict() == {"worker": list(found[0].workers)}


def test_a_cyclic_distribution_gives_each_node_one_task_in_turn():
    cluster = detect_cluster({**STEP, "SLURM_DISTRIBUTION": "cyclic:block"})
    hosts = [worker.rpartition(":")[0] for worker in cluster.workers]
    assert hosts == ["gpu08", "gpu09", "gpu11", "gpu08", "gpu09"]
    ports = [int(worker.rpartition(":")[2]) for worker in cluster.workers]
    assert [port - ports[0] for port in ports] == [0, 0, 0, 1, 1]


def test_without_tasks_per_node_the_first_nodes_have_one_more():
    environ = {**STEP, "SLURM_STEP_TASKS_PER_NODE": ""}
    assert detect_cluster(environ) == detect_cluster(STEP)


@pytest.mark.parametrize("job", [0, 1, 624, 625, 10_000_000])
def test_ports_follow_from_the_job_and_lie_below_those_of_outgoing_connections(job):
    def first_port(job: int) -> int:
        return int(detect_cluster({**STEP, "SLURM_JOB_ID": str(job)}).workers[0].split(":")[1])

    assert 20_000 <= first_port(job) <= 30_000 - 16
    assert abs(first_port(job) - first_port(job + 1)) >= 16
    workers = detect_cluster({**STEP, "TFLLM_PORT": "5000"}).workers
    assert workers[:2] == ("gpu08:5000", "gpu08:5001")


def test_the_steps_nodes_and_tasks_count_and_not_the_jobs():
    job = {"SLURM_JOB_NODELIST": "gpu[08-20]", "SLURM_NTASKS": "13", "SLURM_TASKS_PER_NODE": "1"}
    assert detect_cluster({**STEP, **job}) == detect_cluster(STEP)
    old = {k: v for k, v in STEP.items() if k != "SLURM_STEP_NUM_TASKS"}
    assert detect_cluster({**old, "SLURM_NTASKS": "5"}) == detect_cluster(STEP)


def test_a_command_that_srun_did_not_start_is_no_worker():
    """A batch script has a SLURM_PROCID of 0, whatever it asked for."""
    batch = {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NODEID": "0"}
    assert detect_cluster({**batch, "SLURM_JOB_NODELIST": "a1"}) is None
    with pytest.raises(ConfigError, match=r"received the nodes a\[1-2\]; put srun before"):
        detect_cluster({**batch, "SLURM_JOB_NODELIST": "a[1-2]"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SLURM_PROCID": ""}, "SLURM_PROCID must be a whole number; received ''"),
        ({"SLURM_PROCID": "5"}, "below SLURM_STEP_NUM_TASKS (5); received 5"),
        ({"SLURM_STEP_NUM_TASKS": "many"}, "received 'many'"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x3)"}, "Slurm's variables must agree; received 5 tasks"),
        ({"SLURM_STEP_TASKS_PER_NODE": "5"}, "gpu08, gpu09, gpu11 and the tasks per node 5"),
        ({"SLURMD_NODENAME": "gpu08"}, "task 3 has SLURMD_NODENAME=gpu09, but received 'gpu08'"),
        ({"SLURM_LOCALID": "0"}, "task 3 has SLURM_LOCALID=1, but received '0'"),
    ],
)
def test_contradictory_variables_are_refused(change, message):
    with pytest.raises(ConfigError) as error:
        detect_cluster({**STEP, **change})
    assert message in str(error.value)


def test_a_task_that_stands_where_it_is_expected_is_accepted():
    where = {"SLURMD_NODENAME": "gpu09", "SLURM_LOCALID": "1", "SLURM_DISTRIBUTION": "block:cyclic"}
    assert detect_cluster({**STEP, **where}) == detect_cluster(STEP)
