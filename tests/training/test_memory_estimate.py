"""The estimate of a run's memory, compared with manual values and measured processes."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tfllm.config import ConfigError, ModelConfig, TrainingConfig
from tfllm.layers import attention_in_chunks, masks
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.longer_context import with_context
from tfllm.models.parameter_count import num_parameters
from tfllm.models.sizes import size
from tfllm.tasks.language_model.language_modeling import LanguageModeling
from tfllm.training import memory_estimate, train
from tfllm.training.memory_check import available_memory, check_memory
from tfllm.training.memory_estimate import estimate_memory, settings_that_fit

SMALL = ModelConfig(
    vocab_size=4096,
    embedding_dim=128,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    feed_forward_dim=352,
    max_sequence_length=8192,
)


def training(**settings):
    given = {"precision": "float32", "trainable": "all", "batch_size": 8, "sequence_length": 512}
    return TrainingConfig(**{**given, **settings})


def test_weights_gradients_and_optimizer_by_hand():
    number = num_parameters(SMALL) - (2 * 3 + 1) * 128  # norms are left out
    found = estimate_memory(SMALL, training(), rows=8)
    assert found.weights == 4 * number
    assert found.optimizer == 8 * number
    half = estimate_memory(SMALL, training(precision="bfloat16"), rows=8)
    assert half.weights == 6 * number
    shared = estimate_memory(SMALL, training(shard_optimizer=True), rows=8, replicas=4)
    assert shared.optimizer == 2 * number
    lora = estimate_memory(SMALL, training(trainable="lora", lora_rank=8), rows=8)
    assert lora.optimizer < 0.1 * found.optimizer


def test_scores_grow_with_the_square_of_the_length_and_the_rest_with_the_rows():
    encoder = EncoderConfig(4096, 128, 3, 4, 352)

    def of(rows, length, **settings):
        return estimate_memory(encoder, training(sequence_length=length, **settings), rows=rows)

    long, short = of(8, 2048), of(8, 1024)
    # Each number is whole bytes: what is cut off is less than one, here multiplied.
    assert 0 <= long.scores - 4 * short.scores < 4
    rest, rest_short = (e.activations + e.work - e.scores for e in (long, short))
    assert abs(rest - 2 * rest_short) < 2 * 2  # of two such numbers
    assert of(16, 1024).activations == 2 * short.activations
    # One block's scores and its work, instead of those of all three.
    recomputed = of(8, 1024, rematerialize=True)
    assert recomputed.scores < short.scores and recomputed.total < short.total


def test_scores_of_long_rows_grow_with_the_length_only():
    long, short = (
        estimate_memory(SMALL, training(sequence_length=length), rows=16) for length in (4096, 2048)
    )
    assert 0 < long.scores == 2 * short.scores
    assert short.scores < 1.1 * 2**30  # 3 blocks of 2 GiB would be whole
    assert (memory_estimate.LONG_CAUSAL, memory_estimate.LONG) == (masks.LONG_CAUSAL, masks.LONG)
    chunks = memory_estimate._CHUNK_ROWS, memory_estimate._MOST_CHUNKS
    assert chunks == (attention_in_chunks._ROWS, attention_in_chunks._MOST_CHUNKS)


def test_a_run_that_is_too_large_is_refused_with_settings_that_fit(monkeypatch):
    """A model of 1M parameters at 4,096 tokens: 16 rows took 23 GiB before attention in chunks."""
    model = dataclasses.replace(size("llama-1m"), max_sequence_length=4096)
    config = training(sequence_length=4096, batch_size=64)
    assert estimate_memory(model, config, rows=16).total < 5 * 2**30
    assert estimate_memory(model, config, rows=64).total > 15 * 2**30
    monkeypatch.setattr("tfllm.training.memory_check.available_memory", lambda: 8 * 2**30)
    with pytest.raises(ConfigError, match=r"memory of this process is 8 GiB") as refused:
        check_memory(model, config, rows=64)
    told = re.search(r"It would fit with gradient_accumulation=(\d+)", str(refused.value))
    assert told is not None and "memory_check=warn" in str(refused.value)
    count = int(told.group(1))
    assert estimate_memory(model, config, rows=64 // count).total < 8 * 2**30
    with pytest.warns(UserWarning, match="It would fit with gradient_accumulation"):
        check_memory(model, dataclasses.replace(config, memory_check="warn"), rows=64)
    check_memory(model, dataclasses.replace(config, memory_check="off"), rows=64)


def test_what_is_near_is_warned_of(monkeypatch):
    config = training(sequence_length=1024)
    total = estimate_memory(SMALL, config, rows=8).total
    monkeypatch.setattr("tfllm.training.memory_check.available_memory", lambda: total)
    with pytest.warns(UserWarning, match="would fit with"):
        check_memory(SMALL, config, rows=8)
    monkeypatch.setattr("tfllm.training.memory_check.available_memory", lambda: 2 * total)
    check_memory(SMALL, config, rows=8)
    monkeypatch.setattr("tfllm.training.memory_check.available_memory", lambda: total // 4)
    with pytest.raises(ConfigError, match="in each of 2 replicas"):
        check_memory(SMALL, config, rows=8, replicas=2, replicas_here=2)
    monkeypatch.setattr("tfllm.training.memory_check.available_memory", lambda: None)
    check_memory(SMALL, config, rows=10**6)  # the system does not tell


def test_settings_that_fit_change_as_little_as_can_be():
    config = training(sequence_length=1024, batch_size=8)
    needed = {
        n: estimate_memory(SMALL, dataclasses.replace(config, gradient_accumulation=n), rows=8 // n)
        for n in (1, 2, 4, 8)
    }
    assert settings_that_fit(SMALL, config, needed[1].total) == {}
    assert settings_that_fit(SMALL, config, needed[4].total) == {"gradient_accumulation": 4}
    least = settings_that_fit(SMALL, config, needed[8].total - 1)
    assert least == {"gradient_accumulation": 8, "rematerialize": True}
    one_row = dataclasses.replace(config, batch_size=1, rematerialize=True)
    shorter = settings_that_fit(SMALL, one_row, estimate_memory(SMALL, one_row, rows=1).total - 1)
    assert list(shorter) == ["sequence_length"]
    assert settings_that_fit(SMALL, config, 1) == {}


def test_other_architectures_have_an_estimate():
    encoder = EncoderConfig(30522, 384, 6, 12, 1536)
    found = estimate_memory(encoder, training(batch_size=32, sequence_length=256), rows=32)
    # MiniLM's without its pooler, and without segments, norms and biases, which are left out.
    assert found.weights == 4 * (22_565_376 - 2 * 384 - 13 * 2 * 384 - 6 * (5 * 384 + 1536))
    assert found.scores > 2 * 6 * 32 * 12 * 256 * 256 * 4  # before and after dropout


def test_available_memory_is_that_of_the_control_group(tmp_path):
    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert available_memory(tmp_path) is None
    write("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 900 kB\n")
    write("proc/self/status", "Name: x\nVmRSS: 10 kB\n")
    assert available_memory(tmp_path) == 910 * 1024
    write("proc/self/cgroup", "0::/a/b\n")
    write("sys/fs/cgroup/a/memory.max", f"{500 * 1024}\n")
    write("sys/fs/cgroup/a/memory.current", f"{300 * 1024}\n")
    write("sys/fs/cgroup/a/memory.stat", f"anon 7\ninactive_file {50 * 1024}\n")
    write("sys/fs/cgroup/a/b/memory.max", "max\n")
    assert available_memory(tmp_path) == (250 + 10) * 1024
    write("proc/self/cgroup", "5:cpu,memory:/c\n3:pids:/\n")
    write("sys/fs/cgroup/memory/c/memory.limit_in_bytes", f"{2**63 - 4096}\n")
    write("sys/fs/cgroup/memory/c/memory.usage_in_bytes", "1\n")
    assert available_memory(tmp_path) == 910 * 1024


def test_a_run_says_its_estimate_first_and_an_impossible_one_writes_nothing(
    data, model_config, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("tfllm.training.memory_check.available_memory", lambda: 2**20)
    settings = {"sequence_length": 16, "batch_size": 4, "steps": 1, "precision": "float32"}
    with pytest.raises(ConfigError, match="use a smaller model"):
        train(data, tmp_path / "run", model_config, **settings)
    assert "estimate: about" in capsys.readouterr().err
    assert not (tmp_path / "run" / "run.json").exists()


def test_the_estimate_imports_no_tensorflow():
    code = (
        "import sys, tfllm.training.memory_estimate, tfllm.training.memory_check;"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.strip() == "False"


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    "changes",
    [
        {"sequence_length": 512, "batch_size": 16},
        {"sequence_length": 4096, "batch_size": 4},
        {"sequence_length": 1024},
        {"sequence_length": 1024, "rematerialize": True},
        {"sequence_length": 1024, "gradient_accumulation": 4},
        {"sequence_length": 1024, "precision": "bfloat16"},
    ],
    ids=str,
)
def test_the_estimate_is_what_a_process_is_measured_to_take(changes):
    """Within a quarter, which is what a run must miss to be refused."""
    config = training(**changes)
    given = {"model": dataclasses.asdict(SMALL), "training": dataclasses.asdict(config)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.measured_memory", json.dumps(given)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    rows = config.batch_size // config.gradient_accumulation
    assert estimate_memory(SMALL, config, rows=rows).total == pytest.approx(
        int(done.stdout), rel=0.25
    )


# ------------------------------------------------------------------ the context


def test_a_longer_context_is_said_or_refused():
    with pytest.warns(UserWarning, match=r"longer than the model's context of 1,024 tokens"):
        longer = with_context(size("llama-1m"), 2048)
    assert longer.max_sequence_length == 2048
    assert with_context(longer, 2048) is longer
    with pytest.raises(ConfigError, match=r"learned \(512 tokens\).*max_sequence_length=1024"):
        with_context(size("gpt2-1m"), 1024)
    with pytest.raises(ConfigError, match=r"learned \(512 tokens\)"):
        with_context(EncoderConfig(100, 16, 1, 2), 513)


def test_a_new_model_for_longer_rows_is_warned_of(data, model_config):
    with pytest.warns(UserWarning, match="sequence_length=48 is longer than the model's context"):
        assert (
            LanguageModeling()
            .architecture(model_config, data, training(sequence_length=48))
            .max_sequence_length
            == 48
        )
    learned = dataclasses.replace(model_config, positions="learned")
    with pytest.raises(ConfigError, match=r"learned \(32 tokens\); received 48"):
        LanguageModeling().architecture(learned, data, training(sequence_length=48))
