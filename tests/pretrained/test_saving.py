import errno
import json
import pickle
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.rounding import UNIT_ROUNDOFF, assert_within
from tfllm import pretrained
from tfllm.config import GenerationConfig
from tfllm.models.causal_lm import CausalLM, Transformer
from tfllm.models.sizes import size
from tfllm.pretrained import replaced_folder
from tfllm.pretrained.hugging_face import tensor_files
from tfllm.pretrained.hugging_face.weight_map import WEIGHT_MAPS
from tfllm.tokenizers import BytePairTokenizer

TEXTS = ["the cat sat on the mat and the dog sat on the log"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return BytePairTokenizer.train(TEXTS, 270)


def small(family="llama", seed=0, **options):
    sizes = {"vocab_size": 280, "embedding_dim": 16, "num_layers": 2, "num_heads": 4}
    sizes |= {"num_kv_heads": 4, "feed_forward_dim": 24, "max_sequence_length": 32}
    name = {"llama": "llama-1m", "gpt2": "gpt2-1m"}[family]
    return CausalLM(size(name, **(sizes | options)), seed=seed)


def logits(model):
    return model(np.arange(14).reshape(2, 7)).numpy()


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


ARCHITECTURES = {
    "llama": {},
    "llama, grouped and untied": {"num_kv_heads": 2, "tied_embeddings": False},
    "llama, biases": {"use_bias": True, "activation": "relu", "head_dim": 6},
    "gpt2": {"family": "gpt2"},
    "gpt2, untied": {"family": "gpt2", "tied_embeddings": False, "feed_forward_dim": 64},
    "post-norm": {"norm_first": False, "norm": "layer", "positions": "sinusoidal"},
    "layer norm and rotary": {"norm": "layer", "use_bias": True},
    "plain feed-forward": {"gated": False, "positions": "learned", "tied_embeddings": False},
    "grouped gpt2": {"family": "gpt2", "num_kv_heads": 1},
    "no positions": {"positions": "none", "head_dim": 6},
}


@pytest.mark.parametrize("options", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_a_model_comes_back_as_it_was(options, tmp_path):
    model = small(**options, dropout=0.1)
    for i, weight in enumerate(model.weights):  # no two weights alike, norms and biases as well
        rng = np.random.default_rng(i)
        weight.assign(weight.numpy() + 0.1 * rng.standard_normal(weight.shape))
    folder = pretrained.save(model, tmp_path / "a" / "model")
    loaded = pretrained.load(folder)
    assert loaded.model.config == model.config
    assert loaded.tokenizer is None
    np.testing.assert_array_equal(logits(loaded.model), logits(model))
    for ours, theirs in zip(model.weights, loaded.model.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_an_architecture_that_transformers_lacks_is_said_to_be_ours_alone(tmp_path):
    folder = pretrained.save(small(norm_first=False), tmp_path / "model")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "tfllm"
    ours = json.loads((folder / "tfllm.json").read_text())
    assert ours["transformers"] is False
    assert "llama needs norm_first=True (here False)" in ours["why"]
    folder = pretrained.save(small(), tmp_path / "model")
    assert json.loads((folder / "tfllm.json").read_text())["transformers"] is True


def test_the_table_of_our_own_names_has_every_weight_of_every_family():
    places = {weight.place for weight in WEIGHT_MAPS["tfllm"].weights}
    for table in WEIGHT_MAPS.values():
        assert {weight.place for weight in table.weights} <= places
        names = [name for weight in table.weights for name in weight.tensors]
        assert len(names) == len(set(names))


def test_a_weight_that_is_no_causal_lm_s_is_refused(tmp_path):
    class Scored(CausalLM):
        def build(self, input_shape):
            self.score = self.add_weight(name="score", shape=(3,))
            super().build(input_shape)

    with pytest.raises(ValueError, match=r"with additional ones: .*score"):
        pretrained.save(Scored(small().config), tmp_path / "model")
    with pytest.raises(ValueError, match="received Sequential"):
        pretrained.save(keras.Sequential(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_small_way_in_is_saved_too(tmp_path):
    model = Transformer(30, 16, 2, 1)
    loaded = pretrained.load(pretrained.save(model, tmp_path / "model")).model
    np.testing.assert_array_equal(logits(loaded), logits(model))


def test_shards_hold_the_same_tensors_and_are_no_larger_than_told(tmp_path):
    model = small(tied_embeddings=False)
    whole = pretrained.save(model, tmp_path / "whole")
    parts = pretrained.save(model, tmp_path / "parts", max_shard_bytes=20_000)
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    files = sorted(parts.glob("*.safetensors"))
    assert len(files) > 2 and not (parts / "model.safetensors").exists()
    together = {}
    for path in files:
        tensors = load_file(path)
        assert sum(t.nbytes for t in tensors.values()) <= 20_000
        assert {index["weight_map"][key] for key in tensors} == {path.name}
        together |= tensors
    expected = load_file(whole / "model.safetensors")
    assert together.keys() == expected.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in expected.values())
    for key in expected:
        np.testing.assert_array_equal(together[key], expected[key])
    np.testing.assert_array_equal(logits(pretrained.load(parts).model), logits(model))


def test_bfloat16_files_hold_rounded_weights(tmp_path):
    model = small()
    folder = pretrained.save(model, tmp_path / "model", dtype="bfloat16")
    for key, tensor in load_file(folder / "model.safetensors").items():
        assert tensor.dtype.name == "bfloat16", key
    loaded = pretrained.load(folder).model
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        assert_within(theirs, ours, UNIT_ROUNDOFF["bfloat16"] * np.abs(ours.numpy()))
    with pytest.raises(ValueError, match="dtype must be float32 or bfloat16; received 'float16'"):
        pretrained.save(model, folder, dtype="float16")


def test_a_bfloat16_model_is_saved_and_read_without_loss(tmp_path):
    model = CausalLM(small().config, dtype="bfloat16")
    folder = pretrained.save(model, tmp_path / "model", dtype="bfloat16")
    loaded = pretrained.load(folder, dtype="auto").model
    assert loaded.dtype_policy.name == "bfloat16"
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(
            np.asarray(ours.value, np.float32), np.asarray(theirs.value, np.float32)
        )


def test_tokenizer_and_generation_settings_come_back(tmp_path, tokenizer):
    for generation in (
        GenerationConfig(top_k=7, stop=("\n", "END"), seed=3, max_new_tokens=5),
        GenerationConfig(temperature=0.7, top_k=0, top_p=0.9, min_p=0.05, num_samples=2),
        GenerationConfig(temperature=1.5, repetition_penalty=1.2),
    ):
        pretrained.save(
            small(),
            tmp_path / "model",
            tokenizer,
            generation=generation,
            training_summary={"steps": np.int64(3), "loss": np.float32(0.5)},
        )
        loaded = pretrained.load(tmp_path / "model")
        assert loaded.generation == generation
    assert loaded.tokenizer.encode("the cat") == tokenizer.encode("the cat")
    assert loaded.tokenizer.end_token_id == tokenizer.end_token_id
    assert pretrained.load_tokenizer(tmp_path / "model").vocab_size == tokenizer.vocab_size
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["eos_token_id"] == tokenizer.end_token_id
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == tokenizer.end_token
    assert settings["model_max_length"] == 32
    summary = json.loads((tmp_path / "model" / "tfllm.json").read_text())["training"]
    assert summary == {"steps": 3, "loss": 0.5}


SPECIAL = ("<|end|>", "<|begin|>", "<|pad|>", "<|turn|>")


@pytest.fixture
def theirs(tmp_path):
    """A folder of somebody else, with special tokens of its own and two that end a text."""
    folder = tmp_path / "theirs"
    tokenizer = BytePairTokenizer.train(TEXTS, 270, special_tokens=SPECIAL)
    tokenizer.save(pretrained.save(small(), folder) / "tokenizer.json")
    settings = {
        "tokenizer_class": "LlamaTokenizerFast",
        "add_bos_token": True,
        "bos_token": {"content": "<|begin|>", "lstrip": False},
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "unk_token": None,
        "additional_special_tokens": ["<|turn|>"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text("{{ bos_token }}été")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 0, 999]}))
    return folder


def test_the_special_tokens_of_a_loaded_folder_are_kept(theirs, tmp_path):
    loaded = pretrained.load(theirs)
    assert loaded.tokenizer.end_token_ids == (0, 3)
    # Over a folder that only a tokenizer was saved to, as that of prepared text.
    loaded.tokenizer.save(tmp_path / "alone")
    tokenizer = pretrained.load_tokenizer(tmp_path / "alone")
    tokenizer._other_ends = loaded.tokenizer._other_ends
    for given in (loaded.tokenizer, tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        folder = pretrained.save(loaded.model, tmp_path / "ours", given)
        files = {p.name: json.loads(p.read_text()) for p in folder.glob("*.json")}
        before = json.loads((theirs / "tokenizer_config.json").read_text())
        assert files["tokenizer_config.json"] == before | {
            "chat_template": "{{ bos_token }}été",
            # What their tokenizer.json does: it puts nothing around a text.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": False,
            "add_eos_token": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            "model_max_length": 32,
        }
        for name in ("config.json", "generation_config.json"):
            ids = {k: v for k, v in files[name].items() if k.endswith("_token_id")}
            assert ids == {"bos_token_id": 1, "eos_token_id": [0, 3], "pad_token_id": 2}
        assert "unk_token" not in files["special_tokens_map.json"]
        assert "add_bos_token" not in files["special_tokens_map.json"]
        assert files["special_tokens_map.json"]["bos_token"]["content"] == "<|begin|>"
        assert pretrained.load(folder).tokenizer.end_token_ids == (0, 3)


def test_saving_makes_up_no_token_that_begins_a_text(tmp_path, tokenizer):
    """A chat template, and programs that put bos_token before prompts, would use it."""
    folder = pretrained.save(small(), tmp_path / "model", tokenizer)
    for _ in range(2):  # as it was trained, and as it was loaded
        names = json.loads((folder / "special_tokens_map.json").read_text())
        assert names == dict.fromkeys(("eos_token", "pad_token"), tokenizer.end_token)
        for name in ("config.json", "generation_config.json"):
            assert json.loads((folder / name).read_text())["bos_token_id"] is None
        assert "bos_token" not in json.loads((folder / "tokenizer_config.json").read_text())
        loaded = pretrained.load(folder)
        assert "bos_token" not in loaded.tokenizer.settings
        assert loaded.tokenizer.encode("the cat") == tokenizer.encode("the cat")
        folder = pretrained.save(loaded.model, tmp_path / "again", loaded.tokenizer)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tmp_path, tokenizer):
    model = small(vocab_size=tokenizer.vocab_size - 1)
    rule = f"has {tokenizer.vocab_size} ids, .*vocab_size is {tokenizer.vocab_size - 1}"
    with pytest.raises(ValueError, match=rule):
        pretrained.save(model, tmp_path / "model", tokenizer)
    folder = pretrained.save(model, tmp_path / "model")
    tokenizer.save(folder / "tokenizer.json")
    with pytest.raises(ValueError, match=rule):
        pretrained.load(folder)


def test_saving_replaces_the_whole_model(tmp_path, tokenizer):
    folder = tmp_path / "model"
    pretrained.save(small(seed=1, tied_embeddings=False), folder, tokenizer, max_shard_bytes=9_000)
    model = small(seed=2)
    pretrained.save(model, folder, tokenizer)
    assert not list(folder.glob("model-*")) and len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(logits(pretrained.load(folder).model), logits(model))


class FullDisk:
    """An `open` whose files take so many bytes and then no more."""

    def __init__(self, room):
        self.room = room

    def __call__(self, path, mode="r", **options):
        file = open(path, mode, **options)  # noqa: SIM115 (closed by Limited)
        write = file.write

        class Limited:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def __getattr__(self, name):
                return getattr(file, name)

            def write(_, data):
                self.room -= len(data)
                if self.room < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(data)

        return Limited()


@pytest.mark.parametrize("room", [0, 300, 3_000, 20_000])
def test_a_full_disk_leaves_the_old_model_whole(tmp_path, tokenizer, monkeypatch, room):
    folder = pretrained.save(small(seed=1), tmp_path / "model", tokenizer)
    before = contents(folder)
    monkeypatch.setattr(tensor_files, "open", FullDisk(room), raising=False)
    with pytest.raises(OSError, match=r"no space is left to write .*it was not changed") as e:
        pretrained.save(small(seed=2), folder, tokenizer)
    assert e.value.errno == errno.ENOSPC
    assert contents(folder) == before
    assert list(tmp_path.iterdir()) == [folder]
    monkeypatch.undo()
    pretrained.load(folder)


def test_a_failed_rename_leaves_the_old_model_whole(tmp_path, monkeypatch):
    folder = pretrained.save(small(seed=1), tmp_path / "model")
    before = contents(folder)
    rename = Path.rename

    def fail_the_second(self, target):
        if "unfinished" in self.name:
            raise PermissionError(errno.EACCES, "no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_the_second)
    with pytest.raises(PermissionError):
        pretrained.save(small(seed=2), folder)
    assert contents(folder) == before and list(tmp_path.iterdir()) == [folder]


def test_a_model_left_aside_by_a_killed_save_is_pointed_at(tmp_path):
    folder = pretrained.save(small(), tmp_path / "model")
    folder.rename(tmp_path / ".model.replaced-1-ab")
    with pytest.raises(FileNotFoundError, match=r"interrupted: .*\.model\.replaced-1-ab; rename"):
        pretrained.load(folder)


def test_files_of_others_and_a_tokenizer_are_never_replaced(tmp_path, tokenizer, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("work was done before the place was checked")

    model = small()
    mine = pretrained.save(model, tmp_path / "model", tokenizer)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text("{}")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tfllm.pretrained.saving.write_tensors", refuse)
    with pytest.raises(FileExistsError, match="contains a tokenizer, and none is given"):
        pretrained.save(model, mine)
    with pytest.raises(FileExistsError, match=r"tfllm did not write \(config\.json\)"):
        pretrained.save(model, theirs, tokenizer)
    with pytest.raises(FileExistsError, match="is a file"):
        pretrained.save(model, tmp_path / "file", tokenizer)
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"\(notes\.txt\) and that would be lost"):
        pretrained.save(model, mine, tokenizer)
    assert (mine / "notes.txt").exists() and (theirs / "config.json").exists()


def test_an_empty_folder_may_be_written_to(tmp_path):
    (tmp_path / "model").mkdir()
    pretrained.save(small(), tmp_path / "model")
    assert replaced_folder.OURS in contents(tmp_path / "model")
