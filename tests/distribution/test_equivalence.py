"""Any number of replicas and workers trains like an independent eager loop on one device.

The loop (tests/optimization/reference.py) has no strategy, no graph, no micro-batches and an AdamW
in NumPy float64. Each topology runs all its cases in one process (or one per worker), since tracing
takes most of the time.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.distribution.cases import CONFIG, Case, batches_of, matrix
from tests.distribution.equivalence_run import freeze
from tests.distribution.processes import free_ports, tf_config
from tests.optimization import reference
from tests.rounding import (
    SIDES,
    UNIT_ROUNDOFF,
    additions_of,
    additions_of_sum,
    assert_within,
    rounding,
)
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.schedules import WarmupSchedule

ROOT = Path(__file__).parents[2]
TOPOLOGIES = {
    "1 replica": ("mirrored", 1, 1),
    "2 replicas": ("mirrored", 2, 1),
    "4 replicas": ("mirrored", 4, 1),
    "2 workers": ("multiworker", 1, 2),
    "3 workers": ("multiworker", 1, 3),
}
CASES = matrix()
SCHEDULE = WarmupSchedule(3e-3, 20, 5)
SECONDS = 1800


def cases_of(topology: str) -> dict[str, Case]:
    """All; where replicas are many, XLA, which compiles for each, in one case with each dropout."""
    if max(TOPOLOGIES[topology][1:]) <= 2:
        return CASES
    compiled = ("float32-1-micro-xla", "dropout-xla")
    return {t: case for t, case in CASES.items() if not case.xla or t in compiled}


def run_processes(topology: str, cases: dict[str, Case], out: Path) -> None:
    """Train all cases; what came of them is in `out`."""
    name, replicas, workers = TOPOLOGIES[topology]
    described = json.dumps({title: dataclasses.asdict(case) for title, case in cases.items()})
    command = [sys.executable, "-m", "tests.distribution.equivalence_run", str(out), name]
    command += [str(replicas if workers == 1 else 0), described]
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    processes = []
    for index in range(workers):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if workers > 1:
            environment["TF_CONFIG"] = tf_config(addresses, index)
        with open(out / f"log-{index}", "w") as log:
            processes.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
                )
            )
    try:
        for index, process in enumerate(processes):
            status = process.wait(timeout=SECONDS)
            assert status == 0, (out / f"log-{index}").read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory):
    """topology -> the folder with what its processes wrote.

    Those that the selected tests ask for start together, two at a time: a process that traces uses
    one core.
    """
    asked = [getattr(item, "callspec", None) for item in request.session.items]
    topologies = dict.fromkeys(c.params["topology"] for c in asked if c and "topology" in c.params)

    def run(topology: str) -> Path:
        folder = tmp_path_factory.mktemp("trained")
        run_processes(topology, cases_of(topology), folder)
        return folder

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = {t: pool.submit(run, t) for t in topologies if t in TOPOLOGIES}
        yield lambda topology: runs[topology].result()
        pool.shutdown(cancel_futures=True)


def found(folder: Path, title: str, worker: int = 0) -> tuple[dict, dict[str, np.ndarray]]:
    with np.load(folder / f"{title}-{worker}.npz") as arrays:
        return json.loads((folder / f"{title}-{worker}.json").read_text()), dict(arrays)


def workers_of(topology: str) -> range:
    return range(TOPOLOGIES[topology][2])


def new_model(frozen: bool) -> CausalLM:
    model = CausalLM(CONFIG, seed=3)
    if frozen:
        freeze(model)
    return model


def new_optimizer() -> reference.NumpyAdamW:
    return reference.NumpyAdamW(lambda step: float(SCHEDULE(step)))


def regularization(model: CausalLM) -> tf.Tensor:
    kernels = [block.feed_forward.outer.kernel.value for block in model.blocks]
    return tf.add_n([0.01 * tf.reduce_sum(kernel**2) for kernel in kernels])


@functools.cache
def expected(frozen: bool, regularized: bool, last_rows: int | None) -> dict:
    """What the independent loop gives, in float32."""
    model = new_model(frozen)
    before = weights_of(model)
    extra = regularization if regularized else None
    batches = batches_of(Case(last_rows=last_rows))
    trained = reference.train(model, batches, new_optimizer(), clip_norm=0.5, extra_loss=extra)
    losses = trained.losses
    tokens = [w.sum() for _, _, w in batches]
    correct, loss_sum = 0.0, 0.0
    for x, y, w in batches:  # the finished model's
        logits = model(x)
        correct += float(((logits.numpy().argmax(-1) == y) * w).sum())
        all_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits).numpy()
        loss_sum += float((all_losses * w).sum())
    if extra is not None:
        loss_sum += float(extra(model)) * sum(tokens)
    return {
        "before": before,
        "weights": weights_of(model),
        "losses": losses,
        "tokens": tokens,
        "epoch_loss": np.average(losses, weights=tokens),
        "evaluated_loss": loss_sum / sum(tokens),
        "accuracy": correct / sum(tokens),
    }


def weights_of(model: CausalLM) -> dict[str, np.ndarray]:
    return {
        v.path.partition("/")[2]: v.numpy().astype(np.float64)
        for v in model.weights
        if "seed_generator" not in v.path
    }


def expectation(case: Case) -> dict:
    return expected(case.frozen, case.regularized, case.last_rows)


@functools.cache
def of_precision(frozen: bool, regularized: bool, last_rows: int | None, dtype: str) -> tuple:
    """By how much products in a dtype may move each step's loss, and each trained weight."""
    bounds = reference.precision_bounds(
        functools.partial(new_model, frozen),
        new_optimizer,
        batches_of(Case(last_rows=last_rows)),
        dtype.removeprefix("mixed_"),
        clip_norm=0.5,
        gradients_of=functools.partial(
            reference.loss_and_gradients_of, extra_loss=regularization if regularized else None
        ),
    )
    return bounds.losses, by_path(new_model(frozen), bounds.weights)


def by_path(model: CausalLM, values: list) -> dict:
    """Values of the trained weights, by the weight's path below the model."""
    paths = [v.path.partition("/")[2] for v in model.trainable_variables]
    return dict(zip(paths, values, strict=True))


def loss_bounds(case: Case, wanted: dict) -> np.ndarray:
    """By how much the loss of each step may be off."""
    if case.dtype != "float32":
        return of_precision(case.frozen, case.regularized, case.last_rows, case.dtype)[0]
    # To a softmax, and the batch's tokens are added up.
    additions = additions_of(new_model(False).config, 8) + CONFIG["vocab_size"]
    relative = [rounding(additions_of_sum(tokens, additions)) for tokens in wanted["tokens"]]
    return np.multiply(relative, wanted["losses"])


def weight_bounds(case: Case, wanted: dict) -> dict[str, np.ndarray]:
    """By how much each weight may be off; one that is not trained, not at all."""
    key = (case.frozen, case.regularized, case.last_rows, case.dtype)
    trained = of_precision(*key)[1]
    if case.dtype == "float32":
        trained = of_both_sides(trained, wanted)
    return {name: np.zeros_like(value) for name, value in wanted["weights"].items()} | trained


def of_both_sides(bounds: dict, wanted: dict) -> dict[str, np.ndarray]:
    """Bounds of trained weights where what is compared with is as precise."""
    both = {}
    for name, bound in bounds.items():
        # An update rounds the weight three times; it may have been larger before.
        largest = np.maximum(np.abs(wanted["before"][name]), np.abs(wanted["weights"][name]))
        both[name] = SIDES * bound + rounding(3 * 20) * largest
    return both


SAME_NUMBERS = [t for t, case in CASES.items() if not case.dropout and case.poison is None]
OF_MANY = ("4 replicas", "2 workers", "3 workers")


def marked(topology: str, *values: str) -> object:
    """A topology that takes minutes of several processes is none of those of each change."""
    marks = [pytest.mark.exhaustive] if topology in OF_MANY else []
    return pytest.param(topology, *values, marks=marks)


EVERYWHERE = pytest.mark.parametrize("topology", [marked(of) for of in TOPOLOGIES])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "title"),
    [marked(of, title) for of in TOPOLOGIES for title in SAME_NUMBERS if title in cases_of(of)],
)
def test_any_topology_trains_as_an_eager_loop_on_one_device(topology, title, trained):
    case, wanted = CASES[title], expectation(CASES[title])
    for worker in workers_of(topology):
        result, state = found(trained(topology), title, worker)
        assert result["iterations"] == 20
        logs = result["steps"]
        size = case.steps_per_execution
        steps = [min(step, 19) for step in range(size - 1, 19 + size, size)]
        rates = [float(SCHEDULE(step + 1)) for step in steps]  # of the update to come
        assert [log["learning_rate"] for log in logs] == rates
        losses, bounds = np.array(wanted["losses"]), loss_bounds(case, wanted)
        assert_within([log["loss"] for log in logs], losses[steps], bounds[steps])
        for given, value in (
            (result["history"]["loss"], wanted["epoch_loss"]),
            (result["evaluated"]["loss"], wanted["evaluated_loss"]),
        ):
            assert_within(given, value, bounds.max())  # a mean of the like
        if case.metrics:
            name = next(n for n in result["evaluated"] if "accuracy" in n)
            # Sums of quarters are exact; each side rounds their quotient once.
            bound = SIDES * UNIT_ROUNDOFF["float32"] * wanted["accuracy"]
            assert_within(result["evaluated"][name], wanted["accuracy"], bound)
        assert_same_weights(state, wanted, case)


def assert_same_weights(state: dict, wanted: dict, case: Case) -> None:
    bounds = weight_bounds(case, wanted)
    for name, value in wanted["weights"].items():
        assert_within(state[name], value, bounds[name], name)
    trained = [name for name in bounds if bounds[name].any()]
    moved = [np.abs(wanted["weights"][n] - wanted["before"][n]).ravel() for n in trained]
    moved, together = np.concatenate(moved), np.concatenate([bounds[n].ravel() for n in trained])
    assert moved.max() > 0.01  # there was something to learn
    assert np.median(together) < 0.2 * np.median(moved)  # a fault is a step of 3e-3 or more


def assert_same_state(given: dict, wanted: dict, case: Case, bounds: dict) -> None:
    """That weights and AdamW's moments are the same but for the order of the gradients' sums."""
    # Through the model, back, and over the tokens.
    additions = 2 * additions_of(new_model(False).config, 8) + case.rows * 8
    for name, value in wanted.items():
        squared = 2 if name.startswith("optimizer/velocity") else 1
        moment = squared * rounding(additions, value)
        assert_within(given[name], value, bounds.get(name, moment), name)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("topology", ["2 workers", "3 workers"])
def test_all_workers_have_the_same_weights_bit_for_bit(topology, trained):
    for title in cases_of(topology):
        _, chief = found(trained(topology), title)
        for worker in workers_of(topology):
            _, other = found(trained(topology), title, worker)
            for name, value in chief.items():
                np.testing.assert_array_equal(other[name], value, err_msg=f"{title}: {name}")


def new_dropping_model() -> CausalLM:
    case = CASES["dropout"]
    model = CausalLM({**CONFIG, "dropout": case.dropout}, seed=3)
    model.gradient_accumulation = case.accumulation
    model.compile("sgd")  # counts the steps, on which the masks depend
    return model


def dropped_gradients(model: CausalLM, replicas: int, traced: bool = False):
    """A function of a step and its batch: loss and gradients in an eager loop in which each
    replica's rows get that replica's masks."""
    variables = [v.value for v in model.trainable_variables]
    rows_of = np.split(np.arange(CASES["dropout"].rows), replicas)

    def sums_of(x, y, w):
        total, sums = 0.0, [0.0] * len(variables)
        for replica, rows in enumerate(rows_of):
            model._seed_dropout(types.SimpleNamespace(replica_id_in_sync_group=replica))
            for part in np.split(rows, model.gradient_accumulation):
                with tf.GradientTape() as tape:
                    logits = model(tf.gather(x, part), training=True)
                    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                        tf.gather(y, part), logits
                    )
                    loss = tf.reduce_sum(losses * tf.gather(w, part))
                found = tape.gradient(loss, variables)
                sums = [s + tf.convert_to_tensor(g) for s, g in zip(sums, found, strict=True)]
                total += loss
        return total, sums

    sums_of = tf.function(sums_of) if traced else sums_of

    def loss_and_gradients(step, batch):
        model.optimizer.iterations.assign(step)
        total, sums = sums_of(*map(tf.constant, batch))
        tokens = batch[2].sum()
        return float(total) / tokens, [s.numpy().astype(np.float64) / tokens for s in sums]

    return loss_and_gradients


@functools.cache
def expected_with_dropout(replicas: int) -> dict:
    model, optimizer = new_dropping_model(), new_optimizer()
    loss_and_gradients, before = dropped_gradients(model, replicas), weights_of(model)
    variables = [v.value for v in model.trainable_variables]
    for step, batch in enumerate(batches_of(CASES["dropout"])):
        gradients = reference.clipped(loss_and_gradients(step, batch)[1], 0.5)
        weights = optimizer.update([v.numpy().astype(np.float64) for v in variables], gradients)
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(weight.astype(np.float32))
    return {"before": before, "weights": weights_of(model)}


@functools.cache
def bounds_with_dropout(replicas: int) -> dict[str, np.ndarray]:
    """By how much each weight may be off after training with dropout.

    Masks decide which gradients are small, whose rounding AdamW enlarges, so that what the model
    without dropout would give tells nothing.
    """
    bounds = reference.precision_bounds(
        new_dropping_model,
        new_optimizer,
        batches_of(CASES["dropout"]),
        "float32",
        clip_norm=0.5,
        gradients_of=functools.partial(dropped_gradients, replicas=replicas, traced=True),
    )
    by_name = by_path(new_dropping_model(), bounds.weights)
    return of_both_sides(by_name, expected_with_dropout(replicas))


@pytest.mark.slow
@EVERYWHERE
def test_each_replica_drops_what_an_eager_loop_drops_for_it(topology, trained):
    replicas = max(TOPOLOGIES[topology][1:])
    wanted, bounds = expected_with_dropout(replicas)["weights"], bounds_with_dropout(replicas)
    _, state = found(trained(topology), "dropout")
    for name, value in wanted.items():
        assert_within(state[name], value, bounds[name], name)
    if replicas > 1:  # the masks are not those of one replica
        of_one = expected_with_dropout(1)["weights"]
        assert max(np.abs(of_one[n] - value).max() for n, value in wanted.items()) > 1e-3


@pytest.mark.slow
@EVERYWHERE
def test_dropout_is_reproducible_and_does_something(topology, trained):
    _, once = found(trained(topology), "dropout")
    _, again = found(trained(topology), "dropout-again")
    _, without = found(trained(topology), "even-last-batch")
    # Only who adds first may differ.
    bounds = bounds_with_dropout(max(TOPOLOGIES[topology][1:]))
    assert_same_state(again, once, CASES["dropout"], bounds)
    difference = [np.abs(once[n] - without[n]).max() for n in once if "optimizer" not in n]
    assert max(difference) > 1e-3
    with_xla, _ = found(trained(topology), "dropout-xla")
    assert np.all(np.isfinite([log["loss"] for log in with_xla["steps"]]))


@pytest.mark.slow
@EVERYWHERE
def test_nan_on_one_replica_alone_is_seen_by_all(topology, trained):
    for worker in workers_of(topology):
        result, _ = found(trained(topology), "nan-on-one-replica", worker)
        losses = [log["loss"] for log in result["steps"]]
        assert np.all(np.isfinite(losses[:5]))
        assert np.all(np.isnan(losses[5:]))


@pytest.mark.slow
@EVERYWHERE
def test_an_overflow_on_one_replica_alone_is_skipped_by_all(topology, trained):
    for worker in workers_of(topology):
        result, state = found(trained(topology), "overflow-on-one-replica", worker)
        assert result["iterations"] == 19
        assert all(np.all(np.isfinite(value)) for value in state.values())
        rates = [log["learning_rate"] for log in result["steps"]]
        assert rates[5] == rates[4]  # the schedule waits, too


@pytest.mark.slow
@EVERYWHERE
def test_shared_optimizer_state_is_the_whole_state_in_parts(topology, trained):
    replicas = max(TOPOLOGIES[topology][1:])
    whole, state = found(trained(topology), "float32-2-micro")
    shared, parts = found(trained(topology), "shards")
    assert state.keys() == parts.keys()
    case = CASES["shards"]  # gradients are added in another order
    assert_same_state(parts, state, case, weight_bounds(case, expectation(case)))
    assert whole["state_bytes"] == 8 * whole["num_trainable"]
    assert shared["state_bytes"] <= (1 / replicas + 0.05) * whole["state_bytes"]
