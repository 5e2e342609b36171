"""The simulation of scaling compared with closed forms, and its traffic with the real step."""

import dataclasses
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rounding import in_double
from tfllm.models.flops import flops_per_token
from tfllm.models.parameter_count import num_parameters
from tfllm.models.sizes import size

ROOT = Path(__file__).parents[1]


@pytest.fixture
def model(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("scaling_model")


@pytest.fixture
def simulation(model):
    return importlib.import_module("scaling_simulation")


def work(model, **changes):
    values = {"parameters": 1e9, "flops": 1e14, "gradient_bytes": 4e9, "tokens": 1e4}
    return model.Work(**{**values, "checkpoint_every": math.inf, **changes})


NUMBERS = (1, 2, 8, 16, 64, 1024)


@pytest.mark.parametrize("zero1", [False, True])
@pytest.mark.parametrize("algorithm", ["ring", "hierarchical", "best"])
def test_with_an_infinite_network_nothing_is_lost(model, algorithm, zero1):
    cluster = model.Cluster(
        intra_bandwidth=math.inf, inter_bandwidth=math.inf, intra_latency=0, inter_latency=0
    )
    given = work(model, algorithm=algorithm, zero1=zero1, checkpoint_every=100)
    for number in NUMBERS:
        step = model.simulate(given, number, cluster)
        assert step.efficiency == 1.0
        one = model.simulate(given, 1, cluster)
        assert step.tokens_per_second == in_double(number * one.tokens_per_second)


def test_one_accelerator_communicates_nothing(model):
    cluster = model.Cluster(intra_bandwidth=1.0, inter_bandwidth=1.0, inter_latency=1e3)
    step = model.simulate(work(model, zero1=True), 1, cluster)
    assert step.communication == 0 and step.efficiency == 1
    assert step.seconds == 1e14 / (312e12 * 0.4)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_ring_sends_2_n_minus_1_over_n_of_the_size(model, number):
    sent = 0.0
    for _ in range(2 * (number - 1)):  # the ring, message by message: reduce-scatter, all-gather
        sent += 12e6 / number
    assert model.ring_bytes(12e6, number) == in_double(sent)
    # One network throughout, without latency: the time is these bytes over the bandwidth.
    cluster = model.Cluster(
        intra_bandwidth=1e9, inter_bandwidth=1e9, intra_latency=0, inter_latency=0
    )
    step = model.simulate(work(model, gradient_bytes=12e6, algorithm="ring"), number, cluster)
    assert step.all_reduce == in_double(sent / 1e9)


def test_latency_alone_counts_the_messages(model):
    cluster = model.Cluster(
        intra_bandwidth=math.inf, inter_bandwidth=math.inf, intra_latency=1.0, inter_latency=100.0
    )
    cost = {
        algorithm: model.simulate(work(model, algorithm=algorithm), 32, cluster).all_reduce
        for algorithm in ("ring", "hierarchical", "best")
    }
    assert cost["ring"] == 2 * 31 * 100
    assert cost["hierarchical"] == cost["best"] == 2 * (7 * 1 + 3 * 100)


def test_the_hierarchical_form_by_hand(model):
    cluster = model.Cluster(
        intra_bandwidth=8e9, inter_bandwidth=1e9, intra_latency=0, inter_latency=0
    )
    step = model.simulate(work(model, gradient_bytes=8e9, algorithm="hierarchical"), 32, cluster)
    # 7/8 of 8 GB at 8 GB/s twice, and 2 x 3/4 of the node's 8 GB at 1 GB/s.
    assert step.all_reduce == in_double(2 * 0.875 + 12)
    one_node = model.simulate(work(model, gradient_bytes=8e9), 8, cluster)
    assert one_node.all_reduce == in_double(2 * 0.875)


def test_overlap_hides_no_more_than_the_backward_pass(model):
    fast, slow = model.Cluster(), model.Cluster(inter_bandwidth=1e8)
    given = work(model, overlap=1.0)
    assert model.simulate(given, 64, fast).exposed == 0
    step = model.simulate(given, 64, slow)
    assert step.exposed == in_double(step.all_reduce - 2 / 3 * step.compute)
    half = model.simulate(dataclasses.replace(given, overlap=0.5), 64, fast)
    assert half.exposed == in_double(half.all_reduce / 2)


def test_zero1_gathers_once_more_and_shares_the_moments(model):
    cluster = model.Cluster()
    plain, shared = work(model), work(model, zero1=True)
    step = model.simulate(shared, 64, cluster)
    assert step.all_gather == in_double(step.all_reduce / 2)  # float32 weights and gradients
    assert model.state_bytes(plain, 64) == 16e9
    assert model.state_bytes(shared, 64) == 8e9 + 8e9 / 64


def test_checkpoints_stall_for_the_copy_and_for_what_is_not_written_in_time(model):
    cluster = model.Cluster(copy_bandwidth=12e9, checkpoint_bandwidth=1e9)
    seldom = model.simulate(work(model, checkpoint_every=1000), 1, cluster)
    assert seldom.checkpoint == in_double(1 / 1000)  # 12 GB
    often = model.simulate(work(model, checkpoint_every=2), 1, cluster)
    assert often.checkpoint == in_double((1 + 12 - 2 * often.compute) / 2)


def test_the_tokens_for_an_efficiency_reach_it(model):
    cluster, given = model.Cluster(), work(model)
    tokens = model.tokens_for(0.9, given, 512, cluster)
    grown = dataclasses.replace(given, tokens=tokens, flops=given.flops * tokens / given.tokens)
    assert model.simulate(grown, 512, cluster).efficiency == in_double(0.9)


def test_published_efficiencies_lie_between_no_overlap_and_full_overlap(simulation):
    for point in simulation.PUBLISHED:
        low, high = point.simulated(0.0), point.simulated(1.0)
        assert low <= point.efficiency <= high, point.name


def test_the_command_prints_its_assumptions_and_draws(simulation, capsys, tmp_path):
    out = tmp_path / "scaling.png"
    simulation.main(["--models", "llama-1b", "--accelerators", "8", "1024", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "A simulation, not a measurement" in printed and "no stragglers" in printed
    (row,) = [line for line in printed.splitlines() if line.startswith("| 1,024 |")]
    config = size("llama-1b")
    compute = 16384 * flops_per_token(config, 2048) / (312e12 * 0.4)
    assert f"| {1000 * compute:,.0f} ms |" in row and "| 16.8M |" in row
    num_bytes = 4 * num_parameters(config)
    assert f"An all-reduce of {num_bytes / 1e9:.3g} GB of gradients" in printed
    assert out.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "lama-1b"], "did you mean 'llama-1b'"),
        (["--accelerators", "12"], "fill whole nodes of 8; received [12]"),
        (["--overlap", "2"], "must lie in [0, 1]; received 2"),
        (["--run", "nowhere"], "there is no run in nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused(simulation, arguments, message):
    with pytest.raises(SystemExit, match=r"^[^\n]*$") as refused:
        simulation.main(arguments)
    assert message in str(refused.value.code)


def test_a_measured_run_gives_model_rows_and_speed(simulation, tmp_path, capsys):
    config = {"vocab_size": 61, "embedding_dim": 16, "num_layers": 2, "num_heads": 4}
    training = {"sequence_length": 16, "batch_size": 8}
    (tmp_path / "run.json").write_text(json.dumps({"model": config, "training": training}))
    line = {
        "step": 1,
        "tokens": 128,
        "tokens_per_second": 640,
        "tokens_per_second_per_replica": 320,
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    simulation.main(
        ["--run", str(tmp_path), "--accelerators", "1", "--days-for", str(5 * 86400 * 320)]
    )
    printed = capsys.readouterr().out
    assert f"as measured in {tmp_path}" in printed
    # 64 tokens of a replica at 320 tokens/s.
    (row,) = [s for s in printed.splitlines() if s.startswith("| 1 | 64 | 200 ms |")]
    assert "| 0.20 s | 100% | 320 | 5 |" in row


MEASURE = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tfllm.config import ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.models.parameter_count import num_parameters
from tfllm.optimization.adamw import AdamW
sent = []
context = tf.distribute.ReplicaContext
reduce = context.all_reduce
def counted(self, op, value, *rest):
    if self.replica_id_in_sync_group is not None:
        sent.append(sum(t.shape.num_elements() * t.dtype.size for t in tf.nest.flatten(value)))
    return reduce(self, op, value, *rest)
context.all_reduce = counted
config = ModelConfig(61, 16, 2, 4, num_kv_heads=2, max_sequence_length=8)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = CausalLM(config, dtype="mixed_bfloat16")
    model.compile(AdamW(1e-3))
x = tf.zeros([4, 8], tf.int32)
model.fit(tf.data.Dataset.from_tensors((x, x)).repeat(), steps_per_epoch=1, verbose=0)
print(sent, num_parameters(config))
"""


@pytest.mark.slow
def test_the_real_step_reduces_the_bytes_that_are_simulated():
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    sent, parameters = json.loads(f"[{done.stdout.splitlines()[-1].replace('] ', '], ')}]")
    # Once on each replica, and once each time the step is traced: float32 gradients, in bfloat16
    # training too, and some numbers such as the loss.
    assert sent and all(0 <= size - 4 * parameters <= 100 for size in sent), (sent, parameters)
