"""Beam search of decoder-only models as a task: in Python, on the command line, served."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.generation.toy_text_models import ADDITIONS, model, task, tokenizer
from tests.rounding import about, assert_rounded
from tests.tasks.chat_models import chat
from tfllm.cli import main
from tfllm.config import ConfigError, GenerationConfig, build
from tfllm.generation.beam_options import BeamOptions
from tfllm.generation.beam_search import beam_search
from tfllm.pretrained import save
from tfllm.serving import check, export

PROMPTS = ["the cat", "été", "<|endoftext|>", ""]


def searched(prompts, limit, options):
    """What the search itself finds."""
    ids = [tokenizer().encode(prompt) or [0] for prompt in prompts]
    result = beam_search(
        task().decoder,
        tf.ragged.constant(ids, tf.int32),
        tf.fill([len(ids)], limit),
        options,
        end_token_ids=tf.constant([0]),
    )
    texts = [
        [tokenizer().decode(row[:n].numpy()) for row, n in zip(rows, numbers.numpy(), strict=True)]
        for rows, numbers in zip(result.token_ids, result.lengths, strict=True)
    ]
    return texts, result.scores.numpy()


def test_the_best_texts_are_those_of_the_search():
    texts, scores = searched(PROMPTS, 8, BeamOptions(3, length_penalty=0.6, no_repeat_ngram_size=2))
    options = {"num_beams": 3, "length_penalty": 0.6, "no_repeat_ngram_size": 2}
    found = task().n_best(PROMPTS, **options)
    assert [[text["text"] for text in row] for row in found] == texts
    assert_rounded([[t["score"] for t in row] for row in found], scores, ADDITIONS)
    for row in found:
        for text in row:
            tokens = text["generated_tokens"] + (text["finish_reason"] == "stop")
            assert text["score"] == about(text["log_prob"] / tokens**0.6, 2)  # a power, a quotient
    assert task().generate(PROMPTS, **options) == [row[0] for row in texts]
    assert task().generate(PROMPTS[0], **options) == texts[0][0]
    alone = task().n_best(PROMPTS[0], **options)
    assert [text["text"] for text in alone] == texts[0]
    assert task().n_best([], num_beams=2) == []


def test_the_log_probability_is_that_of_the_forward_pass():
    prompt = tokenizer().encode("the cat")
    result = beam_search(
        task().decoder,
        tf.ragged.constant([prompt], tf.int32),
        tf.constant([8]),
        BeamOptions(4),
        end_token_ids=tf.constant([0]),
    )
    for ids, length, log_prob in zip(
        result.token_ids[0].numpy(), result.lengths[0].numpy(), result.log_probs[0], strict=True
    ):
        text = [*prompt, *ids[:length], *([0] if length < 8 else [])]
        losses = task().decoder.token_losses(tf.constant([text[:-1]]), tf.constant([text[1:]]))
        own = -tf.reduce_sum(losses[0, len(prompt) - 1 :])
        assert_rounded(log_prob, own, ADDITIONS)


def test_greedy_text_without_repeats_is_a_beam_of_one():
    text = task().generate("the cat", no_repeat_ngram_size=1, max_new_tokens=12)
    texts, _ = searched(["the cat"], 12, BeamOptions(1, no_repeat_ngram_size=1))
    assert text == texts[0][0] != task().generate("the cat", max_new_tokens=12)


def test_a_penalty_and_a_limit_of_each_prompt():
    given = {"length_penalty": [0.0, 1.0, 2.0, 1.0], "max_new_tokens": [3, 8, 5, 2]}
    together = task().n_best(PROMPTS, num_beams=2, **given)
    for i, prompt in enumerate(PROMPTS):
        own = {name: values[i] for name, values in given.items()}
        alone = task().n_best(prompt, num_beams=2, **own)
        assert [t["text"] for t in alone] == [t["text"] for t in together[i]]
        assert all(t["generated_tokens"] <= own["max_new_tokens"] for t in alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2, "temperature": 0.5}, "temperature must be 0 where num_beams.*0.5"),
        ({"num_beams": 2, "stop": ["x"]}, "stop must be"),
        ({"num_beams": 2, "num_samples": 2}, "num_samples must be 1"),
        ({"num_beams": 2, "repetition_penalty": 1.5}, "repetition_penalty must be 1"),
        ({"num_beams": 0}, "num_beams must be at least 1"),
        ({"length_penalty": float("inf")}, r"length_penalty must lie in \[-5, 5\]"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be at least 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build(GenerationConfig, options)


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(ConfigError, match=r"the same for all prompts.*2, 0.*3, 0"):
        task().generate(["a", "b"], num_beams=[2, 3])
    with pytest.raises(ConfigError, match=r"num_beams must be 1.*for a stream"):
        task().stream("a", num_beams=2)
    with pytest.raises(ValueError, match="text 2: the prompt must be shorter"):
        task().generate(["a", "the " * 60], num_beams=2)


@pytest.mark.slow
def test_a_reply_is_searched_too():
    assistant = chat("llama2")
    messages = [{"role": "user", "content": "the cat"}]
    reply = assistant.reply(messages, num_beams=3, max_new_tokens=6)
    assert (
        isinstance(reply, str)
        and reply == assistant.reply([messages], num_beams=3, max_new_tokens=6)[0]
    )


@pytest.mark.slow
def test_an_exported_search_answers_as_the_task_does(tmp_path):
    own = GenerationConfig(max_new_tokens=5, num_beams=3, no_repeat_ngram_size=2)
    made = task().with_generation(own)
    version = export(made, tmp_path / "toy")
    report = check(version)
    assert report.ok, report.format()
    loaded = tf.saved_model.load(str(version))
    beam = loaded.signatures["beam"]
    inputs = {
        "prompt": tf.constant(["the cat", "the " * 60, "été"]),
        "max_new_tokens": tf.constant([5, 5, 3]),
        "length_penalty": tf.constant([1.0, 1.0, float("nan")]),
    }
    found = beam(**inputs)
    assert [bool(e) for e in found["error"].numpy()] == [False, True, True]
    assert found["texts"].shape == [3, 3]
    assert np.isfinite(found["scores"]).all()
    expected = made.n_best("the cat")
    assert [t.decode() for t in found["texts"][0].numpy()] == [t["text"] for t in expected]
    default = loaded.signatures["serving_default"](prompt=inputs["prompt"])
    assert default["text"][0].numpy().decode() == made.generate("the cat")
    assert default["finish_reason"].numpy().tolist()[1] == b"error"
    assert default["text"][1] == b""


@pytest.mark.slow
def test_the_command_line_searches(tmp_path, capsys):
    save(model("llama"), tmp_path / "toy", tokenizer())
    main(
        ["generate", str(tmp_path / "toy"), "the cat", "--num-beams", "3", "--max-new-tokens", "6"]
    )
    expected = task().generate("the cat", num_beams=3, max_new_tokens=6)
    assert capsys.readouterr().out.rstrip("\n") == ("the cat" + expected).rstrip("\n")


def test_settings_come_back_with_the_model(tmp_path):
    own = GenerationConfig(num_beams=4, length_penalty=0.5, no_repeat_ngram_size=3)
    save(model("llama"), tmp_path / "toy", tokenizer(), generation=own)
    from tfllm.pretrained import load

    assert load(tmp_path / "toy").generation == dataclasses.replace(own)
