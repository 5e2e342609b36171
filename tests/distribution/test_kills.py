"""A run that is killed repeatedly ends bit for bit like one that was never interrupted."""

from __future__ import annotations

import random
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.distribution.processes import SETTINGS, Workers, last_state, last_step, losses
from tests.optimization.reference import checkpoint_bounds
from tests.rounding import additions_of, additions_of_sum, assert_within, rounding
from tfllm.pretrained import load

STEPS = 300
KILLS = 7
TOPOLOGIES = {
    "one device": {"count": 1, "arguments": ["--strategy", "one"]},
    "two replicas": {"count": 1, "arguments": ["--strategy", "mirrored", "--replicas", "2"]},
    "two workers": {"count": 2, "arguments": []},
}


def workers(prepared, out, topology, **options):
    given = TOPOLOGIES[topology]
    options = {"steps": STEPS, **options}
    return Workers(prepared, out, *given["arguments"], count=given["count"], **options)


def assert_same_state(one, other):
    one, other = last_state(one), last_state(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    "topology",
    [
        topology
        if topology == "one device"
        else pytest.param(topology, marks=pytest.mark.exhaustive)
        for topology in TOPOLOGIES
    ],
)
def test_killed_at_random_moments_a_run_ends_bit_for_bit_the_same(topology, prepared, tmp_path):
    with workers(prepared, tmp_path / "whole", topology) as whole:
        assert set(whole.statuses()) == {0}, whole.log()
    draw = random.Random(topology)
    out, kills = tmp_path / "killed", 0
    for kill in range(KILLS):
        with workers(prepared, out, topology) as run:
            if kill == 0:  # while it starts: shorter than the shortest run of all steps
                time.sleep(draw.uniform(0.5, 4))
            else:
                before = last_step(out)
                left = (STEPS - before) // (KILLS - kill + 1)
                run.wait_for_step(before + draw.randint(1, max(left, 1)))
                time.sleep(draw.uniform(0, 0.05))  # a checkpoint may be half written
            victim = draw.choice(run.processes)
            assert victim.poll() is None, "it was not alive any more: let it make more steps"
            victim.send_signal(signal.SIGKILL)
            kills += 1
            if kill == 0:  # the others would wait for it to come back
                for process in run.processes:
                    process.kill()
            assert victim.wait() == -signal.SIGKILL
            others = [
                s for s, p in zip(run.statuses(60), run.processes, strict=True) if p != victim
            ]
            assert set(others) <= {75, -signal.SIGKILL}, run.log()
    with workers(prepared, out, topology) as run:
        assert set(run.statuses()) == {0}, run.log()
    assert kills == KILLS
    assert_same_state(tmp_path / "whole", out)
    both = losses(tmp_path / "whole"), losses(out)
    common = both[0].keys() & both[1].keys()
    assert STEPS in common
    assert all(both[0][step] == both[1][step] for step in common)


@pytest.mark.slow
@pytest.mark.alone
def test_on_another_number_of_replicas_the_data_and_the_losses_go_on(prepared, tmp_path):
    settings = {"steps": 60, "model.dropout": 0.0}
    often = {"checkpoint_every": 1, "keep_checkpoints": 60}
    with workers(prepared, tmp_path / "whole", "one device", **settings, **often) as whole:
        assert whole.statuses() == [0], whole.log()
    out = tmp_path / "moved"
    for topology in TOPOLOGIES:
        with workers(prepared, out, topology, **settings) as run:
            if topology != "two workers":
                run.wait_for_step(last_step(out) + 5)
                run.processes[0].kill()
            else:
                assert set(run.statuses()) == {0}, run.log()
    both = losses(tmp_path / "whole"), losses(out)
    common = both[0].keys() & both[1].keys()
    assert 60 in common
    # Other numbers of replicas add gradients in another order, and AdamW makes much of how the
    # smallest are rounded: the weights drift apart.
    states = {
        int(path.name.removeprefix("step-")): load_file(path / "state.safetensors")
        for path in (tmp_path / "whole" / "checkpoints").iterdir()
    }
    assert list(sorted(states)) == list(range(1, 61))
    config = load(tmp_path / "whole" / "model").model.config
    additions = additions_of(config, 16) + config.vocab_size
    tokens = 8 * 16
    bounds, of_loss = checkpoint_bounds(states, SETTINGS["learning_rate"], 2 * additions + tokens)
    of_sum = rounding(additions_of_sum(tokens, additions))
    for step in common:
        assert_within(both[1][step], both[0][step], of_loss + of_sum * both[0][step], str(step))
    state = last_state(out)
    for path, bound in bounds.items():
        assert_within(state[f"model/{path}"], states[60][f"model/{path}"], bound, path)
