"""Folders as current libraries write them; see record_folders.py."""

import functools
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.pretrained.record_folders import FOLDERS, HERE, POOLINGS, PROMPTS, SENTENCES, TIED
from tests.rounding import assert_within, weight_rounding
from tfllm import pretrained
from tfllm.config import ConfigError
from tfllm.tasks import load

VECTORS = dict(np.load(FOLDERS / "vectors.npz"))

# ------------------------------------------------------------------ weights that are one


@functools.cache
def weights(name):
    """Of the recorded folder, by our names."""
    return [w.numpy() for w in pretrained.load(HERE / TIED[name][0]).model.weights]


def with_weights(folder, name, tensors):
    shutil.copytree(HERE / TIED[name][0], folder, dirs_exist_ok=True)
    if isinstance(tensors, dict):
        save_file(tensors, folder / "model.safetensors")
    else:
        shutil.copy(tensors, folder / "model.safetensors")
    return folder


def same(folder, name):
    for ours, theirs in zip(pretrained.load(folder).model.weights, weights(name), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)


@pytest.mark.parametrize("name", TIED)
def test_a_file_of_save_model_is_the_model(name, tmp_path):
    """It keeps one name of a weight that has several, and drops the model's own."""
    same(with_weights(tmp_path / "a", name, FOLDERS / "save_model" / f"{name}.safetensors"), name)


NAMES = {
    "llama": ("model.embed_tokens.weight", "lm_head.weight"),
    "gpt2": ("transformer.wte.weight", "lm_head.weight"),
    "t5": ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    "marian": ("model.shared.weight", "model.encoder.embed_tokens.weight", "lm_head.weight"),
    "masked": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_under_any_one_of_its_names_is_that_weight(name, tmp_path):
    tensors = load_file(HERE / TIED[name][0] / "model.safetensors")
    first, *others = NAMES[name]
    value = tensors.pop(first)
    for number, other in enumerate(others):
        assert other not in tensors
        same(with_weights(tmp_path / str(number), name, {**tensors, other: value}), name)
    with pytest.raises(ValueError, match=rf"lack weights of the model: {first}"):
        pretrained.load(with_weights(tmp_path / "none", name, tensors))
    two = {**tensors, others[0]: value, first: value + 1}
    with pytest.raises(ValueError, match=r"but they differ"):
        pretrained.load(with_weights(tmp_path / "two", name, two))


# ------------------------------------------------------------------ sentence vectors


@pytest.fixture
def sentence(tmp_path):
    """The recorded folder, with what is otherwise in the one of another name."""

    def folder_of(name="sentence"):
        folder = tmp_path / "folder"
        shutil.copytree(FOLDERS / "sentence", folder)
        if name != "sentence":
            shutil.copytree(FOLDERS / name, folder, dirs_exist_ok=True)
        return folder

    return folder_of


def close(task, name, run=None):
    """That a task's vectors, or what `run()` gives, are the library's."""
    run = run or (lambda: task.embed(SENTENCES))
    assert_within(run(), VECTORS[name], weight_rounding(task.model, run))


def test_a_folder_of_sentence_transformers_6_gives_its_vectors(sentence, tmp_path):
    """Long texts are cut at the length in tokenizer_config.json, prompts are chosen by name."""
    folder = sentence()
    task = load(folder)
    assert (task.sequence_length, task.prompts, task.prompt_name) == (9, PROMPTS, "query")
    close(task, "sentence")
    close(task, "sentence, document", lambda: task.embed(SENTENCES, prompt_name="document"))
    close(task.with_settings({"prompt_name": None}), "sentence, none")
    assert np.abs(VECTORS["sentence"] - VECTORS["sentence, none"]).max() > 0.1
    assert set(task.signatures) == {"serving_default", "query", "document"}
    served = task.signatures["document"]
    close(task, "sentence, document", lambda: served(text=SENTENCES)["vector"])
    with pytest.raises(ConfigError, match="unknown prompt_name 'dokument'; did you mean 'document"):
        task.embed(SENTENCES, prompt_name="dokument")
    # Saved again, it is the same in all of that.
    model, tokenizer, _ = pretrained.load(folder)
    again = load(pretrained.save(model, tmp_path / "again", tokenizer))
    assert again.information == task.information
    close(again, "sentence")


@pytest.mark.parametrize("name", [*POOLINGS, "lowercase"])
def test_every_pooling_gives_the_vectors_of_the_library(name, sentence, tmp_path):
    folder = sentence(f"sentence_{name}")
    task = load(folder)
    close(task, f"sentence_{name}")
    model, tokenizer, _ = pretrained.load(folder)
    again = load(pretrained.save(model, tmp_path / "again", tokenizer))
    close(again, f"sentence_{name}")


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "pooling_mode must be .*'median'"),
        (
            "1_Pooling/config.json",
            {"include_prompt": False},
            "include_prompt is only supported as Tru",
        ),
        (
            "config_sentence_transformers.json",
            {"default_prompt_name": "passage"},
            r"default_prompt_name must be one of the prompts \(document, query\).*'passage'",
        ),
        ("config_sentence_transformers.json", {"prompts": {"a": 3}}, "give each name a text"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "task is only sup"),
        *(
            ("sentence_bert_config.json", values, f"{next(iter(values))} is only supported as")
            for values in (
                {"processing_kwargs": {"text": {"add_special_tokens": False}}},
                {"tokenizer_args": {"model_max_length": 6}},
                {"processor_kwargs": {"do_lower_case": True}},
                {"config_args": {"num_hidden_layers": 1}},
                {"modality_config": {"text": {"method": "get_input_embeddings"}}},
                {"query_expansion": {"expand_to": 9}},
                {"what_a_later_version_adds": 1},
            )
        ),
        (
            "config_sentence_transformers.json",
            {"truncate_dim": 8},
            "truncate_dim is only supported as",
        ),
        (
            "tokenizer_config.json",
            {"truncation_side": "left"},
            "truncation_side is only supported as",
        ),
        (
            "2_Normalize/config.json",
            {"module_input_name": "token_embeddings"},
            "module_input_name is only supported as 'sentence_embedding'",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(sentence, file, values, message):
    folder = sentence()
    change(folder, file, **values)
    with pytest.raises(ValueError, match=message):
        pretrained.load(folder)


def test_a_training_goes_on_with_the_pooling_and_the_prompts_of_its_base(sentence):
    from tfllm.config import TrainingConfig
    from tfllm.tasks.encoder.embedding import Embedding

    folder = sentence("sentence_joined")
    tokenizer = pretrained.load_tokenizer(folder)
    task = Embedding()
    config = task.pretrained_config(str(folder))
    model = task.model(str(folder), config, {}, TrainingConfig(precision="float32"), tokenizer)
    assert (model.pooling, model.normalize) == (("mean", "cls"), True)


def test_the_prompt_is_chosen_on_the_command_line(sentence, tmp_path, capsys):
    from tfllm.cli import main

    folder = sentence()
    assert main(["predict", str(folder), "--prompt-name", "document", "text=ab cd"]) == 0
    answer = json.loads(capsys.readouterr().out)
    task = load(folder)
    bound = weight_rounding(task.model, lambda: task.embed(SENTENCES[:1]))
    assert_within(answer["vector"], VECTORS["sentence, document"][0], bound[0])
