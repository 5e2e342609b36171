"""generation_config.json: compared with `transformers` (see record_folders.py), and refusals."""

import dataclasses
import json
import shutil

import pytest

from tests.pretrained.record_folders import FOLDERS, GENERATION, TEXTS
from tfllm import pretrained
from tfllm.config import ConfigError, GenerationConfig
from tfllm.pretrained.hugging_face.generation_settings import (
    from_hugging_face,
    search_settings,
    to_hugging_face,
)
from tfllm.pretrained.task_information import search_of
from tfllm.tasks import Chat, TextGeneration, load
from tfllm.tasks.language_model.text_generation import TextGeneration as Task

_TRACED = {}
RECORDED = json.loads((FOLDERS / "generated.json").read_text())


@pytest.fixture(scope="module")
def loaded():
    return pretrained.load(FOLDERS / "generation")


@pytest.fixture
def folder_with(tmp_path):
    """The recorded model with another generation_config.json."""

    def copy(**written):
        folder = tmp_path / "model"
        shutil.copytree(FOLDERS / "generation", folder, dirs_exist_ok=True)
        (folder / "generation_config.json").write_text(json.dumps(written))
        return folder

    return copy


@pytest.mark.parametrize("name", GENERATION)
def test_texts_are_those_of_transformers(name, loaded, tmp_path):
    written, expected = RECORDED[name]["generation_config"], RECORDED[name]["ids"]
    model, tokenizer, _ = loaded
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "generation_config.json").write_text(json.dumps(written))
    for part in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FOLDERS / "generation" / part, folder)
    tokenizer = pretrained.load_tokenizer(folder)  # ends where the file says
    # What a graph of is traced once.
    tokenizer = _TRACED.setdefault(tuple(tokenizer.end_token_ids), tokenizer)
    generation = from_hugging_face(written, {}, "folder")
    texts = [tokenizer.decode(ids) for ids in expected]
    if generation.stop:  # transformers gives the stop string, too
        texts = [min((text.partition(s)[0] for s in generation.stop), key=len) for text in texts]
    task = Task(model, tokenizer, generation)
    assert task.generate(TEXTS) == texts
    assert to_hugging_face(generation)[0] == written
    served = task.signatures["serving_default"](prompt=TEXTS)
    assert [text.decode() for text in served["text"].numpy()] == texts


def test_each_recorded_setting_changes_the_text():
    plain = RECORDED["greedy"]["ids"]
    alike = {name for name in GENERATION if RECORDED[name]["ids"] == plain}
    assert alike == {"greedy", "greedy, with settings of sampling", "two limits"}


def test_tokens_and_the_chat_template_are_read_as_transformers_writes_them(loaded):
    """TokenizersBackend, extra_special_tokens, chat_template.jinja."""
    tokenizer = loaded.tokenizer
    assert [tokenizer.encode(text) for text in TEXTS] == RECORDED["encoded"]
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
    task = Chat(loaded.model, tokenizer, loaded.generation)
    assert task.template.render(messages) == RECORDED["chat"]


def test_a_given_max_new_tokens_comes_before_max_length(loaded):
    generation = from_hugging_face({"max_length": 8}, {}, "folder")
    task = Task(loaded.model, loaded.tokenizer, generation)
    with pytest.raises(ValueError, match=r"text 3: .*max_length \(8\) unless max_new_tokens.*11"):
        task.generate(TEXTS)
    counts = [len(loaded.tokenizer.encode(text)) for text in task.generate(TEXTS[:2])]
    assert counts == [3, 1]
    longer = task.generate(TEXTS[:2], max_new_tokens=12)
    assert longer == [loaded.tokenizer.decode(ids) for ids in RECORDED["greedy"]["ids"][:2]]


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ({"guidance_scale": 1.5}, r"guidance_scale=1\.5"),
        ({"do_sample": True, "typical_p": 0.9}, r"typical_p=0\.9"),
        ({"sequence_bias": [[[1], 2.0]]}, "sequence_bias"),
        ({"forced_bos_token_id": 0}, "forced_bos_token_id=0"),
        ({"bad_words_ids": [[4, 5]]}, "bad_words_ids=.words of several tokens"),
        ({"num_return_sequences": 2}, "num_return_sequences=2"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow=3"),
        ({"num_beams": 2, "do_sample": True}, r"num_beams=2 \(with do_sample=True\)"),
    ],
)
def test_what_is_not_supported_is_refused_by_name_where_text_is_made(folder_with, written, named):
    folder = folder_with(**written)
    task = TextGeneration.load(folder)
    for refused in (task.generate, task.stream, task.n_best):
        with pytest.raises(ConfigError, match=rf"asks for .*{named}.*unsupported_settings=\(\)"):
            refused("a")
    with pytest.raises(ConfigError, match=named):
        task.check_exportable()
    chat = load(folder)
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(ConfigError, match=named):
        chat.reply(messages)
    allowed = task.with_settings({"unsupported_settings": "none"})
    supported = {"num_beams": 1, "temperature": 0.0, "top_k": 0}  # do_sample samples among 50
    assert dataclasses.replace(allowed.generation, **supported) == GenerationConfig()
    allowed.check_exportable()
    again = pretrained.save(
        task.model, folder.parent / "again", task.tokenizer, generation=task.generation
    )
    kept = json.loads((again / "generation_config.json").read_text())
    assert written.items() <= kept.items()


def test_a_model_whose_settings_are_not_supported_is_scored_and_asked_without_them(folder_with):
    task = TextGeneration.load(folder_with(guidance_scale=1.5))
    assert task.score("a b")["num_tokens"] == 3
    greedy = {"temperature": 0, "max_new_tokens": 4}
    assert task.generate("a", unsupported_settings=(), **greedy) == Task(
        task.model, task.tokenizer
    ).generate("a", **greedy)


@pytest.mark.parametrize(
    "written",
    [
        {"typical_p": 0.9, "epsilon_cutoff": 0.1},  # of sampling, which is not done
        {"num_return_sequences": 1, "guidance_scale": None, "num_beam_groups": 1},
        {"transformers_version": "5.24.0", "use_cache": True, "prompt_lookup_num_tokens": 3},
    ],
)
def test_what_changes_nothing_is_kept_and_stops_nothing(folder_with, written):
    folder = folder_with(**written)
    model, tokenizer, generation = pretrained.load(folder)
    assert generation.unsupported_settings == ()
    again = pretrained.save(model, folder.parent / "again", tokenizer, generation=generation)
    kept = json.loads((again / "generation_config.json").read_text())
    assert written.items() <= kept.items()


def test_a_file_is_kept_and_nothing_is_added(folder_with):
    written = {"do_sample": False, "temperature": 0.6, "bos_token_id": 2, "eos_token_id": [1, 70]}
    folder = folder_with(**written)
    model, tokenizer, generation = pretrained.load(folder)
    again = pretrained.save(model, folder.parent / "again", tokenizer, generation=generation)
    kept = json.loads((again / "generation_config.json").read_text())
    assert kept == {**written, "pad_token_id": 1}
    # Nobody set the number of tokens.
    fresh = pretrained.save(model, folder.parent / "new", tokenizer, generation=GenerationConfig())
    assert "max_new_tokens" not in json.loads((fresh / "generation_config.json").read_text())


def test_keys_that_are_no_setting_outlast_a_change():
    written = {"max_new_tokens": 5, "guidance_scale": 1.5, "a_setting_of_tomorrow": 3}
    read = from_hugging_face(written, {}, "folder")
    changed = dataclasses.replace(read, max_new_tokens=7)
    assert to_hugging_face(changed)[0] == {**written, "max_new_tokens": 7, "do_sample": False}
    assert dataclasses.replace(changed, max_new_tokens=5) == read


def test_changed_settings_are_what_is_written():
    written = {"num_beams": 3, "temperature": 0.6, "typical_p": 0.5, "use_cache": True}
    config = from_hugging_face(written, {}, "folder")
    changed = GenerationConfig(
        num_beams=2, min_new_tokens=3, suppress_tokens=(4,), written=vars(config)["written"]
    )
    files = to_hugging_face(changed)
    assert files[0] == {
        "do_sample": False,
        "num_beams": 2,
        "min_new_tokens": 3,
        "suppress_tokens": [4],
        "typical_p": 0.5,
        "use_cache": True,
    }
    assert from_hugging_face(*files, "folder") == changed


def test_settings_of_all_texts_can_be_given_to_a_call(loaded):
    task = Task(loaded.model, loaded.tokenizer, GenerationConfig(max_new_tokens=12))
    expected = [loaded.tokenizer.decode(ids) for ids in RECORDED["min_new_tokens"]["ids"]]
    assert task.generate(TEXTS, min_new_tokens=6) == expected
    assert "".join(task.stream(TEXTS[2], min_new_tokens=6)) == expected[2]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"max_length": 20.5}, r"max_length must be a whole number, at least 0; received 20\.5"),
        ({"min_length": "3"}, "min_length must be a whole number, at least 0; received '3'"),
        ({"max_length": -1}, "max_length must be .*; received -1"),
        ({"forced_eos_token_id": "a"}, "forced_eos_token_id must be an id, .*; received 'a'"),
        ({"suppress_tokens": 1.5}, r"suppress_tokens must be an id, .*; received 1\.5"),
    ],
)
def test_values_of_an_encoder_decoder_are_checked(tmp_path, written, message):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "marian"}))
    (tmp_path / "generation_config.json").write_text(json.dumps(written))
    with pytest.raises(ConfigError, match=f"the search settings in {tmp_path}: {message}"):
        search_of(tmp_path)


def test_a_forced_end_of_an_encoder_decoder_is_supported(tmp_path):
    """As older folders of Marian have it: in config.json alone."""
    values = {"model_type": "marian", "forced_eos_token_id": 0, "max_length": 512}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert search_of(tmp_path) == {"forced_eos_token_id": [0], "max_new_tokens": 511}


@pytest.mark.parametrize("read", ["decoder", "encoder_decoder"])
def test_zero_is_a_value_and_a_suppressed_end_is_not_forced(read):
    def found(**written):
        if read == "decoder":
            settings = vars(from_hugging_face(written, {}, "here"))
        else:
            settings = search_settings(written, is_config=False, is_marian=False)
        return {name: value for name, value in settings.items() if value not in ((), [])}

    for name in ("guidance_scale", "forced_bos_token_id", "max_time", "encoder_repetition_penalty"):
        assert f"{name}=0" in found(**{name: 0})["unsupported_settings"]
    nothing = {"diversity_penalty": 0, "encoder_no_repeat_ngram_size": 0, "penalty_alpha": 0.0}
    assert "unsupported_settings" not in found(**nothing, token_healing=False)
    # transformers 5.24 suppresses after it has forced: of [3, 5] the 5 is left, of [3] nothing.
    both = found(forced_eos_token_id=[3, 5], suppress_tokens=[3])
    assert list(both["forced_eos_token_id"]) == [5] and "unsupported_settings" not in both
    (refused,) = found(forced_eos_token_id=3, suppress_tokens=[2, 3])["unsupported_settings"]
    assert refused.startswith("forced_eos_token_id=[3] (which suppress_tokens")
    bad = found(forced_eos_token_id=3, bad_words_ids=[[3]])  # it forces after bad words
    assert list(bad["forced_eos_token_id"]) == [3] and "unsupported_settings" not in bad


def test_a_repetition_penalty_of_0_is_refused_by_name():
    written = {"repetition_penalty": 0, "forced_bos_token_id": 4, "scale_embedding": True}
    refused = search_settings(written, is_config=True, is_marian=True)
    assert refused == {"unsupported_settings": ["repetition_penalty=0", "forced_bos_token_id=4"]}
    with pytest.raises(ConfigError, match=r"repetition_penalty must be .* above 0; received 0"):
        from_hugging_face({"repetition_penalty": 0}, {}, "here")
