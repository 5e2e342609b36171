"""The contract of tasks for language models: one path from files to text, by task name."""

import json

import numpy as np
import pytest

from tests.data.chat_examples import chat_tokenizer, conversations, preferences, write_lines
from tests.data.documents import make_documents
from tests.tasks.tiny_cases import CASES
from tfllm import pretrained
from tfllm.config import ConfigError, ModelConfig, PrepareConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.tasks import TASKS, Chat, CodeGeneration, TextGeneration, evaluate, load, prepare
from tfllm.tasks.choosing import task_of_records
from tfllm.training import train

SIZES = {"num_layers": 1, "embedding_dim": 16, "num_heads": 2, "feed_forward_dim": 32}
SETTINGS = {
    "sequence_length": 48,
    "batch_size": 4,
    "steps": 4,
    "precision": "float32",
    "validate_every": 2,
    "checkpoint_every": 2,
    "keep_checkpoints": 5,
}
NEW = ("language_modeling", "code")
"""learned by new models; the others by a pretrained one"""
LANGUAGE_TASKS = (*NEW, "instruction", "preference")
ANSWERS = {
    "language_modeling": TextGeneration,
    "code": CodeGeneration,
    "instruction": Chat,
    "preference": Chat,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A pretrained model with a chat template."""
    tokenizer = chat_tokenizer()
    config = ModelConfig(vocab_size=tokenizer.vocab_size, max_sequence_length=64, **SIZES)
    folder = tmp_path_factory.mktemp("base") / "model"
    return str(pretrained.save(CausalLM(config, seed=1), folder, tokenizer))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    documents = [{"text": text} for text in make_documents(12, longest=40)]
    written = {
        "language_modeling": write_lines(folder / "documents.jsonl", documents),
        "instruction": write_lines(folder / "conversations.jsonl", conversations(12)),
        "preference": write_lines(folder / "preferences.jsonl", preferences(12)),
    }
    return {**written, "code": written["language_modeling"]}


@pytest.fixture(scope="module")
def begun(files, base, tmp_path_factory):
    """Starts a run of a task from its files."""

    def begin(name, run=None, **given):
        run = run or tmp_path_factory.mktemp("runs") / name
        model = SIZES if name in NEW else base
        vocabulary = {"vocab_size": 300} if name in NEW else {}
        how = PrepareConfig(validation_fraction=0.2, num_processes=1, **vocabulary)
        settings = {**SETTINGS, "task": name, "prepare": how, **given}
        return train(files[name], run, model, **settings, verbose=False)

    return begin


@pytest.fixture(scope="module")
def runs(begun):
    return {name: begun(name) for name in LANGUAGE_TASKS}


def test_every_task_is_in_a_contract():
    assert set(TASKS) == {*CASES, *LANGUAGE_TASKS}


@pytest.mark.parametrize("name", LANGUAGE_TASKS)
def test_a_run_from_files_says_its_task_and_ends_with_what_it_is_for(name, runs):
    run = runs[name]
    assert run.step == 4
    assert json.loads((run.folder / "run.json").read_text())["task"] == {"name": name}
    answers = load(run.folder)
    assert type(answers) is ANSWERS[name]
    assert answers.model.config == run.model.config
    assert answers.trained_length == 48
    again = type(answers).from_pretrained(run.folder)
    assert again.generate("the", max_new_tokens=3, temperature=0) == answers.generate(
        "the", max_new_tokens=3, temperature=0
    )
    held = f"class Other; it holds one of the class {type(answers).__name__}"
    with pytest.raises(ValueError, match=held):
        type("Other", (TextGeneration,), {}).from_pretrained(run.folder)


@pytest.mark.parametrize("name", LANGUAGE_TASKS)
def test_a_run_goes_on_and_can_be_made_longer_from_its_files(name, runs, begun, tmp_path):
    short = begun(name, tmp_path / "run", steps=2, schedule="constant", warmup_steps=0)
    longer = begun(name, tmp_path / "run", steps=4, schedule="constant", warmup_steps=0)
    at_once = begun(name, tmp_path / "other", steps=4, schedule="constant", warmup_steps=0)
    assert (short.step, longer.step) == (2, 4)
    for mine, theirs in zip(longer.model.weights, at_once.model.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    with pytest.raises(ConfigError, match=rf"is for the task {name}; received task='tagging'"):
        begun(name, tmp_path / "run", task="tagging")


@pytest.mark.parametrize("name", LANGUAGE_TASKS)
def test_data_that_are_prepared_by_themselves_are_those_of_the_run(
    name, runs, files, base, tmp_path
):
    how = PrepareConfig(
        validation_fraction=0.2,
        num_processes=1,
        **({"vocab_size": 300} if name in NEW else {"tokenizer": base}),
    )
    data = prepare(files[name], tmp_path / "data", how, task=name, show_progress=False)
    assert data.task == name
    there = runs[name].folder / "data"
    for shard in sorted(data.folder.glob("*.bin")):
        assert shard.read_bytes() == (there / shard.name).read_bytes()


def test_the_task_is_what_the_keys_of_the_records_say(files):
    for name in ("language_modeling", "instruction", "preference"):
        assert task_of_records(files[name]).name == name


@pytest.mark.parametrize("name", ["language_modeling", "code", "instruction"])
def test_text_is_evaluated_prepared_or_as_files(name, runs, files, tmp_path):
    run = runs[name]
    prepared = evaluate(run.folder, run.folder / "data", split="train")
    same = evaluate(load(run.folder), run.folder / "data", split="train")
    assert prepared == same
    assert prepared.task == name and prepared.perplexity > 1
    of_files = evaluate(run.folder, files[name], task=name)
    assert of_files.num_tokens > prepared.num_tokens  # those of validation, too
    with pytest.raises(ConfigError, match="for files, all records are used"):
        evaluate(run.folder, files[name], task=name, split="validation")
    with pytest.raises(ConfigError, match="columns is not for the task"):
        evaluate(run.folder, files[name], task=name, columns={"text": "a"})


def test_what_cannot_be_learned_is_refused_in_words(files, base, tmp_path):
    with pytest.raises(ConfigError, match="only a pretrained model can learn the task preference"):
        train(files["preference"], tmp_path / "run", SIZES, task="preference", verbose=False)
    with pytest.raises(ConfigError, match=r"task instruction .* received fill_in_the_middle=0.5"):
        prepare(
            files["instruction"],
            tmp_path / "data",
            PrepareConfig(tokenizer=base, fill_in_the_middle=0.5),
            task="instruction",
        )
    with pytest.raises(ConfigError, match="tokenizer must be that of the pretrained model"):
        train(
            files["instruction"],
            tmp_path / "run",
            base,
            prepare=PrepareConfig(tokenizer="other"),
            verbose=False,
        )
    assert not (tmp_path / "run" / "run.json").exists()
