"""Completion of code between a prefix and a suffix, with the special tokens of the tokenizer."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.generation.toy_text_models import SIZES, TEXTS, model, tokenizer
from tfllm.config import GenerationConfig
from tfllm.generation.option_inputs import OPTION_DTYPES
from tfllm.generation.options import option_values
from tfllm.models.causal_lm import CausalLM
from tfllm.serving import check, export
from tfllm.tasks import CodeGeneration, TextGeneration
from tfllm.tasks.language_model.special import as_special
from tfllm.tokenizers import BytePairTokenizer
from tfllm.tokenizers.fill_in_the_middle import END, SENTINELS

STAR_CODER = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


@functools.cache
def code_tokenizer(names=SENTINELS) -> BytePairTokenizer:
    return BytePairTokenizer.train(TEXTS, 290, special_tokens=(END, *names))


@functools.cache
def code(names=SENTINELS) -> CodeGeneration:
    from tfllm.config import ModelConfig

    made = CausalLM(ModelConfig(**SIZES), seed=5)
    return CodeGeneration(made, code_tokenizer(names), GenerationConfig(max_new_tokens=6))


def served(task, prefixes, suffixes, **options):
    values = {**option_values(GenerationConfig(max_new_tokens=6)), **options}
    inputs = {
        n: tf.fill([len(prefixes)], tf.constant(values[n], t)) for n, t in OPTION_DTYPES.items()
    }
    prefix, suffix = (tf.constant(texts, tf.string) for texts in (prefixes, suffixes))
    result = task.signatures["complete"](prefix=prefix, suffix=suffix, **inputs)
    return {name: value.numpy() for name, value in result.items()}


@pytest.mark.parametrize("names", [SENTINELS, STAR_CODER])
def test_the_model_is_asked_as_prefix_suffix_middle(names):
    task, t = code(names), code_tokenizer(names)
    prefixes, suffixes = ["the cat", "sat", "", "the " + names[0]], [" mat", "", "你好", "x"]
    ids, refused = task.completion_ids(tf.constant(prefixes), tf.constant(suffixes))
    before, behind, middle = (t.special_tokens[name] for name in names)
    encode = functools.partial(t.encode, parse_special=False)
    wanted = [
        [before, *encode(p), behind, *encode(s), middle] if s else encode(p)
        for p, s in zip(prefixes, suffixes, strict=True)
    ]
    assert ids.to_list() == wanted
    assert not any(refused.numpy())


def test_the_tokenizer_says_whether_the_suffix_comes_first():
    t = BytePairTokenizer.train(TEXTS, 290, special_tokens=(END, *SENTINELS))
    t.settings["fill_suffix_first"] = True
    task = CodeGeneration(code().model, t)
    ids, _ = task.completion_ids(tf.constant(["the cat", "sat"]), tf.constant([" mat", ""]))
    before, behind, middle = (t.special_tokens[name] for name in SENTINELS)
    wanted = [before, behind, *t.encode(" mat"), middle, *t.encode("the cat")]
    assert ids.to_list() == [wanted, t.encode("sat")]
    assert task.complete("the cat", " mat", max_new_tokens=4) != code().complete(
        "the cat", " mat", max_new_tokens=4
    )


def test_the_text_is_what_the_model_finds_likeliest_up_to_any_end():
    task, t = code(), code_tokenizer()
    for prefix, suffix in (("the cat", " mat"), ("on the", "hat")):
        (ids,) = task.completion_ids(tf.constant([prefix]), tf.constant([suffix]))[0].to_list()
        new = []
        while len(new) < 6:
            likeliest = int(task.model(tf.constant([ids + new])).numpy()[0, -1].argmax())
            if likeliest in t.special_tokens.values():
                break
            new.append(likeliest)
        assert task.complete(prefix, suffix) == t.decode([i for i in new if i < t.vocab_size])


def test_a_middle_ends_at_the_end_token_and_at_a_sentinel():
    ends = set(code()._end_token_ids.numpy().tolist())
    assert ends == set(code_tokenizer().special_tokens.values())
    assert code()._end_token_ids.numpy()[0] == code_tokenizer().end_token_id


def test_without_a_suffix_it_continues_as_generate_does():
    task = code()
    prompts = ["the cat sat", "on"]
    assert task.complete(prompts) == task.generate(prompts)


def test_rows_are_completed_alike_alone_and_together():
    task = code()
    prefixes, suffixes = ["the cat", "", "on the"], ["mat", " sat", ""]
    options = {"temperature": [0.0, 1.0, 0.7], "seed": [1, 2, 3]}
    together = task.complete(prefixes, suffixes, **options)
    for i, text in enumerate(together):
        own = {name: values[i] for name, values in options.items()}
        assert task.complete(prefixes[i], suffixes[i], **own) == text
    assert task.complete(prefixes, "mat")[0] == together[0]
    samples = task.complete("the", "mat", num_samples=3, temperature=1.5, seed=4)
    assert samples == [task.complete("the", "mat", temperature=1.5, seed=s) for s in (4, 5, 6)]


def test_a_stop_string_ends_the_line():
    text = code().complete("the cat", "mat", max_new_tokens=12)
    mark = text[2]
    assert code().complete("the cat", "mat", max_new_tokens=12, stop=mark) == text.split(mark)[0]


def test_a_tokenizer_without_sentinels_refuses_the_suffix_and_no_other_row():
    task = CodeGeneration(model("llama"), tokenizer(), GenerationConfig(max_new_tokens=6))
    result = served(task, ["the cat", "the cat"], ["", "mat"])
    assert result["text"][0].decode() == task.complete("the cat") != ""
    assert result["error"][0] == result["text"][1] == b""
    assert b"suffix must be empty" in result["error"][1]
    with pytest.raises(ValueError, match="text 2: suffix must be empty"):
        task.complete(["the", "the"], ["", "mat"])


def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match="one for each prefix; received 2 for 1"):
        code().complete("the", ["a", "b"])
    with pytest.raises(ValueError, match="suffix must be a string"):
        code().complete("the", 3)
    with pytest.raises(ValueError, match="shorter than the model's context of 48"):
        code().complete("the", "x" * 100)


def test_a_model_becomes_what_its_tokenizer_was_made_for():
    plain = TextGeneration(code().decoder, code_tokenizer())
    assert type(as_special(plain)) is CodeGeneration
    assert type(as_special(TextGeneration(model("llama"), tokenizer()))) is TextGeneration


@pytest.mark.slow
def test_what_is_exported_completes_as_the_task_does(tmp_path):
    folder = export(code(), tmp_path / "code")
    report = check(folder)
    assert report.ok, report.format()
    loaded = tf.saved_model.load(str(folder)).signatures["complete"]
    prefixes, suffixes = ["the cat", "on"], ["mat", ""]
    mine = served(code(), prefixes, suffixes)
    values = option_values(GenerationConfig(max_new_tokens=6))
    theirs = loaded(
        prefix=tf.constant(prefixes), suffix=tf.constant(suffixes),
        **{n: tf.fill([2], tf.constant(values[n], t)) for n, t in OPTION_DTYPES.items()},
    )  # fmt: skip
    for name, value in mine.items():
        np.testing.assert_array_equal(theirs[name].numpy(), value, err_msg=name)
