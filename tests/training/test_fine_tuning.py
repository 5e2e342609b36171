"""Runs that start from a pretrained model: what is trained and kept, and how they are resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from tests.data.chat_examples import chat_tokenizer, conversations, preferences, write_lines
from tests.optimization import reference
from tests.rounding import (
    SIDES,
    UNIT_ROUNDOFF,
    about,
    additions_of,
    additions_of_sum,
    assert_within,
    weight_rounding,
)
from tfllm import pretrained
from tfllm.config import ConfigError, GenerationConfig, LoraConfig, ModelConfig, PrepareConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.adamw import AdamW
from tfllm.pretrained.adapters import load_adapter, load_merged
from tfllm.pretrained.model_folder import is_pretrained
from tfllm.tasks import prepare
from tfllm.training import CheckpointError, train
from tfllm.training.callbacks import RunCallback

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "sequence_length": 48,
    "batch_size": 4,
    "steps": 10,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "precision": "float32",
    "validate_every": 4,
    "checkpoint_every": 4,
    "keep_checkpoints": 10,
}
LORA = {**SETTINGS, "lora_rank": 2, "lora_dropout": 0.1, "gradient_accumulation": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A chat model with random weights, its tokenizer, and how it is to generate."""
    tokenizer = chat_tokenizer()
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        embedding_dim=16,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        feed_forward_dim=24,
        max_sequence_length=64,
    )
    folder = tmp_path_factory.mktemp("base") / "model"
    generation = GenerationConfig(max_new_tokens=7, temperature=0.5)
    return pretrained.save(CausalLM(config, seed=5), folder, tokenizer, generation=generation)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    records = conversations(60)
    return write_lines(tmp_path_factory.mktemp("examples") / "chat.jsonl", records)


@pytest.fixture(scope="module")
def data(base, examples, tmp_path_factory):
    config = PrepareConfig(tokenizer=str(base), validation_fraction=0.2, num_processes=1)
    return prepare(examples, tmp_path_factory.mktemp("data") / "d", config, show_progress=False)


@pytest.fixture(scope="module")
def pairs(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    source = write_lines(folder / "pairs.jsonl", preferences(40))
    config = PrepareConfig(tokenizer=str(base), validation_fraction=0.2, num_processes=1)
    return prepare(source, folder / "data", config, show_progress=False)


@pytest.fixture(scope="module")
def lora_run(base, data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("runs") / "lora", base, **LORA, verbose=False)


def stopped(step, *arguments, **settings):
    """The run, ended by a signal in a step."""
    begin = RunCallback.on_train_batch_begin

    def stop(self, batch, logs=None):
        if self.progress.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        begin(self, batch, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunCallback, "on_train_batch_begin", stop)
        run = train(*arguments, **settings, verbose=False)
    assert (run.step, run.interrupted_by, run.model_folder) == (step, "SIGTERM", None)


def lines_of(run, name):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def weights_of(folder):
    return {v.path.partition("/")[2]: v.numpy() for v in pretrained.load(folder).model.weights}


def last_state(folder):
    return load_file(max((folder / "checkpoints").glob("step-*")) / "state.safetensors")


def test_lora_learns_and_leaves_the_base_as_it_is(lora_run, base, data):
    losses = lines_of(lora_run.folder, "validation_loss")
    assert losses[-1] < losses[0]
    own = {v.path.partition("/")[2]: v.numpy() for v in lora_run.model.own_weights}
    for path, value in weights_of(base).items():
        np.testing.assert_array_equal(own[path], value, err_msg=path)
    assert lora_run.num_trained == sum(v.numpy().size for v in lora_run.model.trainable_weights)
    assert lora_run.num_trained < lora_run.num_parameters - lora_run.num_trained
    settings = json.loads((lora_run.folder / "run.json").read_text())
    chosen = {"trainable": "lora", "lora_rank": 2, "lora_alpha": 4.0, "base_dtype": "float32"}
    assert chosen.items() <= settings["training"].items()
    assert settings["base"]["path"] == str(base)


def test_a_base_of_8_bits_is_adapted_and_the_whole_model_has_the_exact_one(base, data, tmp_path):
    run = train(data, tmp_path / "run", base, **{**LORA, "base_dtype": "int8"}, verbose=False)
    assert run.model.dtype_policy.name == "int8_float32"
    losses = lines_of(run.folder, "validation_loss")
    assert losses[-1] < losses[0]
    assert not any("kernel" in name for name in last_state(run.folder))  # of the base, nothing
    adapted = pretrained.load(base).model
    load_adapter(adapted, run.adapter_folder)
    adapted.merge_adapter()
    ids = np.arange(40).reshape(2, 20)
    whole = pretrained.load(run.model_folder).model
    np.testing.assert_array_equal(whole(ids), adapted(ids))


def test_a_run_ends_with_an_adapter_and_a_whole_model(lora_run, base, data):
    ids = np.arange(40).reshape(2, 20)
    whole = pretrained.load(lora_run.model_folder)
    assert whole.generation == pretrained.load(base).generation
    assert whole.tokenizer.settings["chat_template"] == chat_tokenizer().settings["chat_template"]
    adapted = pretrained.load(base).model
    load_adapter(adapted, lora_run.adapter_folder)
    expected = lora_run.model(ids).numpy()
    assert np.abs(expected - pretrained.load(base).model(ids)).max() > 0.1
    np.testing.assert_array_equal(adapted(ids), expected)
    assert_within(whole.model(ids), expected, weight_rounding(adapted, lambda: adapted(ids)))
    by_hand = load_merged(base, lora_run.adapter_folder).model
    for mine, theirs in zip(whole.model.weights, by_hand.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=mine.path)


def test_checkpoints_hold_only_what_is_trained(lora_run):
    state = last_state(lora_run.folder)
    kinds = ("model/", "optimizer/momentum/", "optimizer/velocity/")
    for kind in kinds:
        names = [name for name in state if name.startswith(kind)]
        assert len(names) == len(lora_run.model.trainable_weights)
        assert all("/default/" in name for name in names)
    others = [name for name in state if not name.startswith(kinds)]
    assert sorted(others) == ["optimizer/iterations"]


def test_frozen_weights_hold_no_optimizer_state(tiny_config):
    model = CausalLM(tiny_config)
    model.add_adapter(LoraConfig(rank=2))
    model.compile(AdamW(1e-2))
    batches = reference.make_batches(np.random.default_rng(0), num=2)
    model.fit(reference.dataset(batches), shuffle=False, verbose=0)
    trained = sum(v.numpy().size for v in model.trainable_weights)
    assert model.optimizer.state_bytes() == 2 * 4 * trained
    assert trained < sum(v.numpy().size for v in model.own_weights)


@pytest.mark.parametrize("rematerialize", [False, True])
def test_an_adapter_is_fitted_as_by_an_independent_loop(rematerialize, tiny_config):
    def adapted():
        model = CausalLM(tiny_config, seed=3, rematerialize=rematerialize)
        model.add_adapter(LoraConfig(rank=2, targets="q_proj,o_proj,up_proj"))
        rng = np.random.default_rng(1)  # a zero B would leave A without a gradient
        for variable in model.trainable_variables:
            variable.assign(rng.normal(0, 0.1, variable.shape))
        return model

    batches = reference.make_batches(np.random.default_rng(0), num=6)
    model, other = adapted(), adapted()
    model.gradient_accumulation = 2
    model.compile(AdamW(3e-3, 0.1, beta_2=0.95, epsilon=1e-8, global_clipnorm=0.5))
    model.fit(reference.dataset(batches), shuffle=False, verbose=0)
    trained = reference.train(other, batches, reference.NumpyAdamW(3e-3), clip_norm=0.5)
    assert reference.largest_difference(model, adapted()) > 0.005
    trained.assert_weights_of(model)


def test_a_stopped_run_ends_bit_for_bit_like_one_in_one_go(lora_run, base, data, tmp_path):
    stopped(6, data, tmp_path / "run", base, **LORA)
    run = train(data, tmp_path / "run", resume=True, verbose=False)
    assert run.step == 10
    here, there = last_state(run.folder), last_state(lora_run.folder)
    assert here.keys() == there.keys()
    for name, value in there.items():
        np.testing.assert_array_equal(here[name], value, err_msg=name)
    for folder in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert (run.folder / folder).read_bytes() == (lora_run.folder / folder).read_bytes()
    again = train(data, tmp_path / "run", base, **LORA, verbose=False)  # nothing is left to do
    assert again.step == 10


def test_a_changed_base_is_refused_on_resume(base, data, tmp_path):
    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    settings = {**LORA, "steps": 4, "lora_targets": "v_proj", "lora_layers": "1"}
    stopped(2, data, tmp_path / "run", copy, **settings)
    other = pretrained.load(copy)
    for variable in other.model.weights:
        variable.assign(variable + 0.01 * tf.ones_like(variable))
    pretrained.save(other.model, copy, other.tokenizer)
    with pytest.raises(ConfigError, match=r"other weights than those of .*base"):
        train(data, tmp_path / "run", resume=True, verbose=False)
    with pytest.raises(ConfigError, match="other weights"):
        train(data, tmp_path / "run", copy, **settings, verbose=False)
    shutil.move(copy, tmp_path / "lost")
    with pytest.raises(FileNotFoundError, match="base"):
        train(data, tmp_path / "run", resume=True, verbose=False)
    run = train(data, tmp_path / "run", base, resume=True, verbose=False)  # it lies elsewhere now
    assert run.step == 4


def test_the_last_blocks_alone_are_trained(base, data, tmp_path):
    settings = {**SETTINGS, "top_layers": 1}
    run = train(data, tmp_path / "run", base, **settings, verbose=False)
    before, after = weights_of(base), weights_of(run.model_folder)
    moved = {path for path in before if (before[path] != after[path]).any()}
    assert moved == {path for path in before if path.startswith(("block_1/", "final_norm/"))}
    assert {n for n in last_state(run.folder) if n.startswith("model/")} == {
        f"model/{path}" for path in moved
    }
    assert run.adapter_folder is None and not (run.folder / "adapter").exists()


def test_all_weights_are_trained_from_where_they_were(base, data, tmp_path):
    settings = {**SETTINGS, "steps": 2, "learning_rate": 1e-5}
    run = train(data, tmp_path / "run", str(base), **settings, verbose=False)
    before, after = weights_of(base), weights_of(run.model_folder)
    differences = {path: np.abs(before[path] - after[path]).max() for path in before}
    # AdamW's first two steps are no longer than their learning rates, which are at most these.
    assert min(differences.values()) > 0 and max(differences.values()) < 2 * 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_run_upon_a_base_in_few_bits_goes_on(dtype, base, data, tmp_path):
    settings = {**LORA, "steps": 4, "base_dtype": dtype}
    if dtype == "bfloat16":
        settings["precision"] = "bfloat16"
    stopped(2, data, tmp_path / "run", base, **settings)
    run = train(data, tmp_path / "run", resume=True, verbose=False)
    stored = {v.dtype for v in run.model.own_weights if len(v.shape) == 2}
    assert stored == {dtype}
    assert {v.dtype for v in run.model.trainable_weights} == {"float32"}
    # The adapter is merged into the base as it is, not as it was rounded for the training.
    whole, exact = pretrained.load(run.model_folder).model, pretrained.load(base).model
    load_adapter(exact, run.adapter_folder)
    ids = np.arange(40).reshape(2, 20)
    bound = weight_rounding(exact, lambda: exact(ids))
    assert_within(whole(ids), exact(ids), bound)
    # Only one side is rounded. A step of int8, of 127 to a row's largest weight, is as coarse as
    # bfloat16 is there.
    coarser = UNIT_ROUNDOFF["bfloat16"] / UNIT_ROUNDOFF["float32"]
    assert_within(run.model(ids), exact(ids), coarser * bound / SIDES)


def test_files_are_prepared_in_the_run(base, examples, data, tmp_path):
    config = PrepareConfig(validation_fraction=0.2, num_processes=1)
    settings = {**SETTINGS, "steps": 2, "top_layers": 1, "verbose": False, "prepare": config}
    run = train(examples, tmp_path / "run", base, **settings)
    here, there = run.folder / "data" / "manifest.json", data.folder / "manifest.json"
    assert json.loads(here.read_text())["splits"] == json.loads(there.read_text())["splits"]
    again = train(examples, tmp_path / "run", base, **settings)  # the data are there already
    assert again.step == 2
    alone = train(examples, tmp_path / "run", resume=True, verbose=False)
    assert alone.step == 2


DEFAULTS = {
    "all weights": ({}, {"learning_rate": 1e-5, "weight_decay": 0.01, "batch_size": 8}),
    "lora": ({"lora_rank": 4}, {"learning_rate": 2e-4, "weight_decay": 0.0, "lora_alpha": 8.0}),
    "top": ({"trainable": "top"}, {"learning_rate": 1e-5, "top_layers": 2}),
    "said": ({"lora_rank": 4, "learning_rate": 0.5, "weight_decay": 0.1}, {"learning_rate": 0.5}),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_depend_on_what_is_trained(name):
    from tfllm.config import TrainingConfig

    given, expected = DEFAULTS[name]
    resolved = TrainingConfig(**given).resolved(pretrained=True)
    assert expected.items() <= vars(resolved).items()
    assert resolved.resolved(pretrained=True) == resolved
    assert TrainingConfig().resolved(pretrained=False).learning_rate == 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequence_length": 65}, r"at most the model's context \(64\); received 65"),
        ({"lora_rank": 2, "lora_targets": "q_pro"}, "unknown LoRA target 'q_pro'.*'q_proj'"),
        ({"lora_rank": 2, "lora_layers": "0,2"}, r"layers must lie in \[0, 2\)"),
        ({"lora_rank": 2, "lora_targets": "q_proj,c_attn"}, "must not name a projection twice"),
        ({"lora_alpha": 2}, "lora_alpha is for trainable=lora"),
        ({"top_layers": 3}, r"top_layers must lie in \[0, 2\]"),
        ({"lora_rank": 2, "top_layers": 1}, "top_layers is for trainable=top"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_a_file_is_written(
    settings, message, base, data, tmp_path
):
    with pytest.raises(ConfigError, match=message):
        train(data, tmp_path / "run", base, **{**SETTINGS, **settings}, verbose=False)
    assert not (tmp_path / "run").exists()


def test_only_a_pretrained_model_is_trained_in_part(data, pairs, tmp_path):
    with pytest.raises(
        ConfigError, match="only a pretrained model can be trained in part; name one"
    ):
        train(data, tmp_path / "run", "llama-1m", **LORA, verbose=False)
    with pytest.raises(ConfigError, match="only a pretrained model can learn the task preference"):
        train(pairs, tmp_path / "run", "llama-1m", **SETTINGS, verbose=False)
    assert not (tmp_path / "run").exists()


def test_a_preset_of_keras_hub_is_told_what_trains_it(data, tmp_path):
    preset = tmp_path / "preset"
    preset.mkdir()
    config = {"module": "keras_hub.src.models.llama.llama_backbone", "class_name": "LlamaBackbone"}
    (preset / "config.json").write_text(
        json.dumps({**config, "registered_name": "x", "config": {}})
    )
    (preset / "task.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"preset of KerasHub; .*enable_lora\(rank\)"):
        train(data, tmp_path / "run", preset, **LORA, verbose=False)
    assert not (tmp_path / "run").exists()


def test_data_of_another_tokenizer_are_refused(base, tmp_path):
    (tmp_path / "text.txt").write_text("other words for another tokenizer " * 200)
    config = PrepareConfig(vocab_size=300, num_processes=1)
    other = prepare(tmp_path / "text.txt", tmp_path / "data", config, show_progress=False)
    with pytest.raises(ConfigError, match="prepared with another tokenizer"):
        train(other, tmp_path / "run", base, **{**SETTINGS, "sequence_length": 16}, verbose=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (None, False),
        ("llama-4m", False),
        ("llama-4x", False),
        ("hf://org/name", True),
        ("model.gguf", True),
        ("./here", True),
        (Path("here"), True),
    ],
)
def test_a_path_is_told_from_a_size(model, expected):
    assert is_pretrained(model) == expected


# ------------------------------------------------------------------ preferences


DPO = {**LORA, "lora_dropout": 0.0, "lora_targets": "q_proj,v_proj", "dpo_beta": 0.5}


@pytest.fixture(scope="module")
def preference_run(base, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "preferences"
    return train(pairs, folder, base, **{**DPO, "steps": 14}, verbose=False)


def test_preferences_are_learned(preference_run, base, pairs):
    losses = lines_of(preference_run.folder, "loss")
    assert lines_of(preference_run.folder, "margin")[-1] > 0
    assert losses[-1] < np.log(2)
    accuracies = lines_of(preference_run.folder, "validation_accuracy")
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    assert not lines_of(preference_run.folder, "perplexity")
    assert preference_run.validation_perplexity is None
    assert set(preference_run.validation_metrics) == {"accuracy", "margin"}
    adapted = pretrained.load(base).model
    load_adapter(adapted, preference_run.adapter_folder)
    ids = np.arange(20).reshape(2, 10)
    whole = pretrained.load(preference_run.model_folder).model
    assert_within(whole(ids), adapted(ids), weight_rounding(adapted, lambda: adapted(ids)))


def test_the_reference_is_what_the_base_thinks_of_the_replies(preference_run, base, pairs):
    state = load_file(preference_run.folder / "reference" / "state.safetensors")
    model = pretrained.load(base).model
    batch = pairs.train.batch(range(5), 48)
    for pair in range(5):
        for side in range(2):
            real = int(batch.inputs["segment_ids"][pair, side].sum())
            logits = model(batch.inputs["token_ids"][pair, side : side + 1, :real])[0]
            log_probs = tf.math.log_softmax(tf.cast(logits, tf.float64)).numpy()
            labels, weights = (a[pair, side, :real] for a in (batch.labels, batch.weights))
            expected = (log_probs[np.arange(real), labels] * weights).sum()
            additions = additions_of(model.config, real) + model.config.vocab_size
            additions = additions_of_sum(weights.sum(), additions)
            assert state["train"][pair, side] == about(expected, additions)
    assert state["validation"].shape == (pairs.validation.num_documents, 2)


@pytest.mark.slow
def test_preference_tuning_goes_on_with_the_same_reference(preference_run, base, pairs, tmp_path):
    settings = {**DPO, "steps": 14}
    stopped(6, pairs, tmp_path / "run", base, **settings)
    written = (tmp_path / "run/reference/state.safetensors").stat().st_mtime_ns
    run = train(pairs, tmp_path / "run", resume=True, verbose=False)
    assert (run.folder / "reference/state.safetensors").stat().st_mtime_ns == written
    for name, value in last_state(preference_run.folder).items():
        np.testing.assert_array_equal(last_state(run.folder)[name], value, err_msg=name)


def test_a_damaged_reference_is_noticed(base, pairs, tmp_path):
    settings = {**SETTINGS, "learning_rate": 1e-3, "steps": 4, "checkpoint_every": 2}
    stopped(2, pairs, tmp_path / "run", base, **settings)
    path = tmp_path / "run/reference/state.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match="cannot be recomputed"):
        train(pairs, tmp_path / "run", resume=True, verbose=False)
    path.write_bytes(whole)
    assert train(pairs, tmp_path / "run", resume=True, verbose=False).step == 4


@pytest.mark.slow
def test_an_adapter_has_its_reference_computed_anew(base, pairs, tmp_path):
    stopped(6, pairs, tmp_path / "run", base, **DPO)
    path = tmp_path / "run/reference/state.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x7f")
    with pytest.warns(UserWarning, match="it is recomputed"):
        train(pairs, tmp_path / "run", resume=True, verbose=False)
    assert path.read_bytes() == whole


# ------------------------------------------------------------------ several replicas


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["examples", "preferences"])
def test_replicas_and_workers_train_the_adapter_of_one_device(kind, base, data, pairs, tmp_path):
    """In processes of their own, through the command line."""
    folder = data.folder if kind == "examples" else pairs.folder
    settings = {**LORA, "lora_dropout": 0.0, "gradient_accumulation": 1, "learning_rate": 1e-3}
    settings |= {"checkpoint_every": 1}
    adapters = {}
    for how in ("one", "replicas", "workers"):
        command = [sys.executable, "-m", "tfllm.cli"]
        if how == "workers":
            command += ["launch", "--workers", "2", "--"]
        command += ["train", "--data", folder, "--out", tmp_path / how, "--model", base]
        if how != "workers":
            command += ["--replicas", "2" if how == "replicas" else "1"]
        command += ["--set", *(f"{name}={value}" for name, value in settings.items())]
        result = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-3000:]
        adapters[how] = load_file(tmp_path / how / "adapter" / "adapter_model.safetensors")
    states = {
        int(path.name.removeprefix("step-")): load_file(path / "state.safetensors")
        for path in (tmp_path / "one" / "checkpoints").iterdir()
    }
    assert list(sorted(states)) == list(range(1, 11))
    config = pretrained.load(base).model.config
    # Forth, back, and over the tokens of four rows, or of both replies to four prompts.
    additions = 2 * (additions_of(config, 48) + config.vocab_size) + 8 * 48
    bounds, _ = reference.checkpoint_bounds(states, 1e-3, additions)
    for how in ("replicas", "workers"):
        state = last_state(tmp_path / how)
        for path, bound in bounds.items():
            assert_within(state[f"model/{path}"], states[10][f"model/{path}"], bound, path)
        assert adapters[how].keys() == adapters["one"].keys()
        for name, value in adapters["one"].items():  # whose names are others
            assert_within(adapters[how][name], value, max(b.max() for b in bounds.values()), name)
