"""KerasHub's models for text generation: local, exported and served, like tfllm's own."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from tests.pretrained.keras_hub_models import causal_lm, text_model
from tests.rounding import assert_within, weight_rounding
from tests.serving.toy_models import start
from tfllm import generate
from tfllm.cli import main
from tfllm.config import ConfigError, GenerationConfig
from tfllm.generation.option_inputs import OPTION_DTYPES
from tfllm.generation.options import option_values
from tfllm.serving import Client, check, export
from tfllm.tasks import TextGeneration, load
from tfllm.training import TrainingStep

PROMPTS = ["the cat sat", "", "on", "你好 the mat, 🎉 and"]
CONTEXT = 40


@pytest.fixture(scope="module")
def model():
    made = text_model("GPT2", sequence_length=CONTEXT)
    made.compile(sampler="greedy")
    made.jit_compile = False
    return made


@pytest.fixture(scope="module")
def task(model):
    return TextGeneration.of_keras_hub(model, generation=GenerationConfig(max_new_tokens=8))


# ---------------------------------------------------------------------- in Python


@pytest.mark.slow
def test_greedy_text_is_what_keras_hub_generates(model, task):
    """Its text is the prompt and what follows; ends and special tokens are no part of it."""
    texts = task.generate(PROMPTS, max_new_tokens=CONTEXT)
    theirs = model.generate(PROMPTS, max_length=CONTEXT)
    assert [prompt + text for prompt, text in zip(PROMPTS, texts, strict=True)] == theirs
    assert all(texts) and len(set(texts)) == 4


def test_a_prompt_gives_the_same_text_alone_and_among_others_with_other_options(task):
    options = {
        "max_new_tokens": [3, 9, 6, 12],
        "temperature": [0.0, 1.0, 0.7, 1.3],
        "top_k": [0, 5, 0, 3],
        "top_p": [1.0, 1.0, 0.6, 0.9],
        "min_p": [0.0, 0.0, 0.1, 0.2],
        "repetition_penalty": [1.0, 1.5, 1.0, 0.9],
        "seed": [1, 2, 3, 4],
        "stop": [(), ("a",), (), ("e", "t")],
    }
    together = task.generate(PROMPTS, **options)
    for i, prompt in enumerate(PROMPTS):
        assert task.generate(prompt, **{n: v[i] for n, v in options.items()}) == together[i]
    assert len(set(together)) == 4


@pytest.mark.slow
def test_pieces_of_a_stream_are_the_text(task):
    for options in ({}, {"temperature": 1.0, "seed": 5}):
        pieces = list(task.stream("the cat", max_new_tokens=12, **options))
        assert "".join(pieces) == task.generate("the cat", max_new_tokens=12, **options)
        assert len(pieces) > 3


def test_a_score_is_the_forward_passs_from_the_begin_token_on(model, task):
    score = task.score("the cat sat on")
    begin, *ids = task.tokenizer.encode("the cat sat on")
    assert begin == model.preprocessor.tokenizer.start_token_id
    tokens = tf.constant([[begin, *ids]])

    @tf.function
    def full():
        inputs = {"token_ids": tokens, "padding_mask": tf.ones_like(tokens, tf.bool)}
        return tf.nn.log_softmax(model(inputs))[0, :-1]

    log_probs = full().numpy()[np.arange(len(ids)), ids]
    assert_within(score["token_log_probs"], log_probs, weight_rounding(model, full)[:, 0])
    assert score["num_tokens"] == len(ids)


def test_a_bad_row_does_not_fail_the_others(task):
    default = option_values(GenerationConfig(max_new_tokens=4))
    inputs = {n: tf.constant([default[n]] * 3, t) for n, t in OPTION_DTYPES.items()}
    inputs["temperature"] = tf.constant([0.0, -1.0, 0.0])
    result = task.signatures["generate"](tf.constant(["the cat", "on", "x " * 100]), **inputs)
    errors = [error.decode() for error in result["error"].numpy()]
    assert errors[0] == "" and "temperature" in errors[1]
    assert f"shorter than the model's context of {CONTEXT} tokens" in errors[2]
    assert result["text"].numpy()[0].decode() == task.generate("the cat", max_new_tokens=4)


def test_prompt_lookup_is_refused_by_name_in_its_row(task):
    default = option_values(GenerationConfig(max_new_tokens=4))
    inputs = {n: tf.constant([default[n]] * 3, t) for n, t in OPTION_DTYPES.items()}
    inputs["prompt_lookup_tokens"] = tf.constant([0, 4, 99])
    result = task.signatures["generate"](tf.constant(["the cat"] * 3), **inputs)
    errors = [error.decode() for error in result["error"].numpy()]
    assert errors[0] == ""
    assert all(e.startswith("prompt_lookup_tokens must be 0 for this model") for e in errors[1:])


@pytest.mark.slow
def test_one_call_generates_with_a_model(model, task):
    assert generate(model, "the cat", max_new_tokens=4) == task.generate(
        "the cat", max_new_tokens=4
    )


def test_the_context_is_the_models_and_no_more(model, task):
    assert task.decoder.context == CONTEXT == model.backbone.max_sequence_length
    short = TextGeneration.of_keras_hub(model, max_sequence_length=12)
    assert short.decoder.context == 12
    for wrong in (41, 1, True):
        with pytest.raises(ConfigError, match=f"max_sequence_length .* {wrong}"):
            TextGeneration.of_keras_hub(model, max_sequence_length=wrong)


@pytest.mark.slow
def test_the_context_of_a_model_without_an_end_is_its_preprocessors():
    model = text_model("Qwen3", sequence_length=23)
    assert TextGeneration.of_keras_hub(model).decoder.context == 23


def test_what_is_no_causal_model_is_refused(task):
    with pytest.raises(ValueError, match=r"must be a CausalLM of KerasHub.*received a Sequential"):
        TextGeneration.of_keras_hub(keras.Sequential())
    with pytest.raises(ValueError, match=r"PaliGemmaCausalLM .*images or sound"):
        TextGeneration.of_keras_hub(causal_lm("PaliGemma"))
    encoder_decoder = object.__new__(keras_hub.models.BartSeq2SeqLM)
    with pytest.raises(ValueError, match="received a BartSeq2SeqLM"):
        TextGeneration.of_keras_hub(encoder_decoder)


# ---------------------------------------------------------------------- fine-tuned


def taught(model, text, ending, steps):
    """A model whose adapter has learned to go on with `ending`, by the step of this package."""
    ids = TextGeneration.of_keras_hub(model).tokenizer.encode(text)
    more = TextGeneration.of_keras_hub(model).tokenizer.encode(ending, add_special=False)
    row = np.array([[*ids, *more, model.preprocessor.tokenizer.end_token_id]], np.int32)
    model.backbone.enable_lora(4)
    bare = TrainingStep.of(type(model)(backbone=model.backbone, preprocessor=None))
    bare.compile(keras.optimizers.Adam(0.05))
    mask = np.ones_like(row[:, :-1], bool)
    weights = np.ones(mask.shape, np.float32)
    weights[:, : len(ids) - 1] = 0
    inputs = {"token_ids": row[:, :-1], "padding_mask": mask}
    bare.fit(inputs, row[:, 1:], sample_weight=weights, epochs=steps, verbose=0, shuffle=False)
    return bare


@pytest.mark.slow
def test_a_fine_tuned_model_says_what_it_learned_wherever_it_runs(tmp_path):
    model = text_model("Llama")
    before = TextGeneration.of_keras_hub(model).generate("the cat", max_new_tokens=12)
    bare = taught(model, "the cat", " sat on the hat", steps=60)
    task = TextGeneration.of_keras_hub(model)
    assert before != task.generate("the cat", max_new_tokens=12) == " sat on the hat"
    # The trained object, which has our step in its class, gives the same.
    other = TextGeneration.of_keras_hub(bare, tokenizer=task.tokenizer)
    assert other.generate("the cat", max_new_tokens=12) == " sat on the hat"
    assert not [w for w in task.model.weights if "lora" in w.name]
    folder = export(model, tmp_path / "tuned", warmup_prompts=())
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    assert served(tf.constant(["the cat"]))["text"].numpy()[0] == b" sat on the hat"


# ---------------------------------------------------------------------- exported


@pytest.mark.slow
def test_an_export_passes_the_check_and_answers_as_the_task(tmp_path):
    """No XLA, no table that grows, no weight as a constant, nothing that Serving lacks."""
    task = TextGeneration.of_keras_hub(text_model("Qwen3_5"))
    report = check(export(task, tmp_path / "model"))
    assert report.findings == ()
    served = tf.saved_model.load(str(tmp_path / "model" / "1"))
    inputs = option_values(GenerationConfig(max_new_tokens=6))
    inputs = {n: tf.constant([inputs[n]] * 4, t) for n, t in OPTION_DTYPES.items()}
    result = served.signatures["generate"](prompt=tf.constant(PROMPTS), **inputs)
    texts = [text.decode() for text in result["text"].numpy()]
    assert texts == task.generate(PROMPTS, max_new_tokens=6)


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:unclosed file .*vocabulary\.spm:ResourceWarning")  # KerasHub's
def test_a_preset_goes_through_the_command_line_to_a_server_and_back(tmp_path, capsys):
    preset = tmp_path / "preset"
    text_model("Gemma").save_to_preset(str(preset))
    task = load(preset)
    expected = task.generate("the cat", max_new_tokens=5)
    assert main(["generate", str(preset), "the cat", "--max-new-tokens", "5"]) in (0, None)
    assert capsys.readouterr().out == f"the cat{expected}\n"
    base = tmp_path / "saved_models"
    main(["export", str(preset), str(base / "gemma"), "--dtype", "bfloat16"])
    main(["export", str(preset), str(base / "gemma"), "--set", "max_new_tokens=5"])
    assert main(["check", str(base / "gemma" / "2")]) in (0, None)
    data = "variables/variables.data-00000-of-00001"
    half, whole = ((base / "gemma" / v / data).stat().st_size for v in "12")
    assert half < whole
    with start(base, grpc_port=0) as server, Client(server.rest_address, model="gemma") as client:
        assert client.generate(["the cat", "on"]) == [
            expected,
            task.generate("on", max_new_tokens=5),
        ]
        assert "".join(client.stream("the cat")) == expected
        assert client.score("the cat")["num_tokens"] == task.score("the cat")["num_tokens"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`:UserWarning")
def test_a_quantized_model_is_exported_as_it_is(tmp_path):
    model = text_model("Llama")
    model.backbone.quantize("int8")
    task = TextGeneration.of_keras_hub(model)
    folder = export(task, tmp_path / "model", warmup_prompts=())
    assert b"Xla" not in (folder / "saved_model.pb").read_bytes()
    served = tf.saved_model.load(str(folder))
    assert tf.int8 in {v.dtype for v in served.weights}
    result = served.signatures["serving_default"](tf.constant(["the cat"]))
    assert result["text"].numpy()[0].decode() == task.generate("the cat")
