"""What users of KerasHub look for on a model: `from_preset`, `generate`, `enable_lora`."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.tasks.chat_models import CONFIG
from tests.tokenizers.template_tokenizers import tokenizer
from tfllm.models.causal_lm import CausalLM
from tfllm.models.encoder import Encoder
from tfllm.models.sizes.encoder_decoders import ENCODER_DECODER_SIZES

ENCODER = tfllm.EncoderConfig(
    vocab_size=30, embedding_dim=8, num_heads=2, num_layers=1, feed_forward_dim=16
)
PROMPTS = [[5, 9, 2], [7], [11, 3, 8, 20, 1]]


def drawn(model, prompt, number):
    """Greedy decoding without a cache."""
    ids = list(prompt)
    for _ in range(number):
        ids.append(int(np.argmax(np.asarray(model(np.array([ids])))[0, -1])))
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tfllm.save(
        CausalLM(CONFIG, seed=7), tmp_path_factory.mktemp("model") / "m", tokenizer("qwen3")
    )


def test_a_bare_model_generates_token_ids():
    model = CausalLM(CONFIG, seed=7)
    found = model.generate(PROMPTS, max_new_tokens=4)
    assert [row.tolist() for row in found] == [drawn(model, p, 4) for p in PROMPTS]
    one = model.generate(np.array(PROMPTS[0]), max_new_tokens=4)
    assert one.dtype == np.int32 and one.tolist() == found[0].tolist()
    assert [r.tolist() for r in model.generate(np.array([[5, 9, 2]]), max_new_tokens=4)] == [
        one.tolist()
    ]
    ends = model.generate(PROMPTS[0], max_new_tokens=4, end_token_ids=int(one[2]))
    assert ends.tolist() == one[: one.tolist().index(one[2])].tolist()
    a, b, c = (
        model.generate(PROMPTS[0], max_new_tokens=8, temperature=1.0, seed=s) for s in (1, 1, 2)
    )
    assert a.tolist() == b.tolist() != c.tolist()
    assert model.generate([]) == []
    before = found[0].tolist()
    model.token_embedding.embeddings.assign(-model.token_embedding.embeddings)
    assert model.generate(PROMPTS[0], max_new_tokens=4).tolist() == drawn(model, PROMPTS[0], 4)
    assert model.generate(PROMPTS[0], max_new_tokens=4).tolist() != before


def test_token_ids_follow_the_options_that_texts_follow():
    model = CausalLM(CONFIG, seed=7)
    prompt = PROMPTS[0]
    free = model.generate(prompt, max_new_tokens=4).tolist()
    assert [len(r) for r in model.generate(PROMPTS, max_length=7)] == [7 - len(p) for p in PROMPTS]
    assert model.generate(prompt, max_length=7).tolist() == free
    assert len(model.generate(prompt, max_length=7, num_beams=2)) == 4
    assert len(model.generate(prompt, max_length=7, max_new_tokens=2)) == 2
    with pytest.raises(ValueError, match=r"shorter than max_length \(3\).*row 1 has 3 tokens"):
        model.generate(prompt, max_length=3)
    for search in ({}, {"num_beams": 2}):
        kept = {"max_new_tokens": 4, **search}
        assert free[0] not in model.generate(prompt, suppress_tokens=(free[0],), **kept)
        began = model.generate(prompt, begin_suppress_tokens=(free[0],), **kept)
        assert began[0] != free[0]
        ended = {"end_token_ids": free[0], **kept}
        assert len(model.generate(prompt, min_new_tokens=2, **ended)) >= 2
        with pytest.raises(ValueError, match="bad_words_ids"):
            model.generate(prompt, unsupported_settings=("bad_words_ids=[[1, 2]]",), **kept)
    assert model.generate(prompt, end_token_ids=free[0], max_new_tokens=4).tolist() == []


@pytest.mark.parametrize("rank", ["4", 2.5, True, None])
def test_a_rank_that_is_no_integer_is_refused_in_words(rank):
    with pytest.raises(ValueError, match="rank must be an integer, at least 1; received"):
        CausalLM(CONFIG, seed=7).enable_lora(rank)


def test_an_encoder_decoder_follows_the_search_of_its_folder(tmp_path):
    config = tfllm.EncoderDecoderConfig(
        vocab_size=40, embedding_dim=8, num_heads=2, num_layers=1, feed_forward_dim=16
    )
    place = tfllm.save(tfllm.EncoderDecoder(config, seed=3), tmp_path / "m")
    path = place / "generation_config.json"
    written = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**written, "max_length": 4, "num_beams": 1}))
    model = tfllm.pretrained.load(place).model
    found = model.generate([5, 6, 7], end_token_ids=0)
    assert len(found) <= 3  # the token that the text begins with is counted
    wider = model.generate([5, 6, 7], end_token_ids=0, max_new_tokens=9, num_beams=1)
    assert wider[: len(found)].tolist() == found.tolist()
    with pytest.raises(ValueError, match="prompt_lookup_tokens must be 0 for an encoder-decoder"):
        model.generate([5, 6, 7], end_token_ids=0, prompt_lookup_tokens=4)
    path.write_text(json.dumps({**written, "do_sample": True}))
    with pytest.raises(ValueError, match="asks for do_sample=True"):
        tfllm.pretrained.load(place).model.generate([5, 6, 7])


def test_a_max_length_alone_is_the_limit_of_a_text(folder):
    model = CausalLM.from_preset(folder)
    tokenizer = model.tokenizer
    length = len(tokenizer.encode("one"))
    with_it = model.generate("one", max_length=length + 3)
    assert with_it == model.generate("one", max_new_tokens=3)
    assert with_it == tokenizer.decode(model.generate(tokenizer.encode("one"), max_new_tokens=3))


def test_a_model_with_its_tokenizer_generates_text(folder):
    model = CausalLM.from_preset(folder)
    assert isinstance(tfllm.load(folder).model.tokenizer, type(model.tokenizer))
    task = tfllm.TextGeneration.load(folder)
    expected = task.generate(["one", "two three"], max_new_tokens=5)
    assert model.generate(["one", "two three"], max_new_tokens=5) == expected
    bare = CausalLM(CONFIG, seed=7)
    with pytest.raises(ValueError, match="no tokenizer, and takes token ids only"):
        bare.generate("one")
    ids = model.tokenizer.encode("one")
    assert model.tokenizer.decode(model.generate(ids, max_new_tokens=5)) == expected[0]


@pytest.mark.slow
def test_a_quantized_model_generates_what_its_copy_in_int8_generates(folder):
    model = CausalLM.from_preset(folder)
    task = tfllm.TextGeneration.load(folder).with_dtype("int8_float32")
    model.quantize("int8")
    expected = task.generate("one", max_new_tokens=5)
    assert model.generate("one", max_new_tokens=5) == expected


def test_what_cannot_be_continued_is_refused_in_words():
    model = CausalLM(CONFIG, seed=7)
    for wrong, rule in (
        ([5, 430], "token ids must be at least 0 and below vocab_size=430; received 5 to 430"),
        ([-1], "received -1"),
        ([[]], "at least one token id; row 1"),
        ([[5], [1.5]], "row 2 has shape .* float64"),
        ([1] * 513, "a prompt may have at most max_sequence_length=512"),
    ):
        with pytest.raises(ValueError, match=rule):
            model.generate(wrong)
    for options in ({"maximum": 3}, {"stop": ["a"]}, {"num_samples": 2}, {"top_p": 2.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            model.generate([1], **options)


def test_an_encoder_decoder_generates(tmp_path):
    model = tfllm.EncoderDecoder.from_preset(
        next(iter(ENCODER_DECODER_SIZES)),
        vocab_size=30,
        embedding_dim=16,
        num_heads=2,
        head_dim=8,
        feed_forward_dim=16,
    )
    found = model.generate(PROMPTS, max_new_tokens=4, num_beams=1, end_token_ids=1)
    start = model.config.decoder_start_token_id
    for prompt, row in zip(PROMPTS, found, strict=True):
        ids = [start]
        for _ in range(4):
            given = {"source_ids": np.array([prompt]), "token_ids": np.array([ids])}
            logits = np.array(model(given))[0, -1]
            logits[list(model.config.never_generated)] = -np.inf
            ids.append(int(np.argmax(logits)))
        expected = ids[1:]
        expected = expected[: expected.index(1)] if 1 in expected else expected
        assert row.tolist() == expected
    with pytest.raises(ValueError, match="no tokenizer"):
        model.generate("a text")


def test_a_size_is_a_new_model_and_no_pretrained_one(folder):
    model = CausalLM.from_preset("llama-1m", vocab_size=100, num_layers=1, seed=3)
    assert (model.config.vocab_size, len(model.blocks), model.tokenizer) == (100, 1, None)
    assert isinstance(tfllm.Transformer.from_preset(folder), CausalLM)
    with pytest.raises(ValueError, match="llama-1m is a size, and has no weights"):
        CausalLM.from_pretrained("llama-1m")
    with pytest.raises(ValueError, match="received vocab_size"):
        CausalLM.from_pretrained(folder, vocab_size=4)
    given = r"holds a model of the class CausalLM, which CausalLM\.from_preset gives"
    with pytest.raises(ValueError, match=given):
        tfllm.EncoderDecoder.from_preset(folder)
    assert CausalLM.from_pretrained(folder, dtype="bfloat16").compute_dtype == "bfloat16"


def test_encoders_and_their_heads_have_sizes_too():
    encoder = Encoder.from_preset("bert-tiny", vocab_size=50, num_layers=1, seed=3)
    assert (encoder.config.vocab_size, len(encoder.blocks), encoder.tokenizer) == (50, 1, None)
    fields = {"vocab_size": 50, "num_layers": 1}
    model = tfllm.SequenceClassifier.from_preset("bert-tiny", num_labels=3, **fields)
    assert model.num_labels == 3 and model.config == encoder.config
    with pytest.raises(ValueError, match="bert-tiny is a size, and has no weights"):
        tfllm.MaskedLanguageModel.from_pretrained("bert-tiny")


def test_a_head_takes_the_encoder_of_a_pretrained_model(tmp_path):
    masked = tfllm.MaskedLanguageModel(ENCODER, seed=4)
    folder = tfllm.save(masked, tmp_path / "bert")
    model = tfllm.SequenceClassifier.from_preset(folder, num_labels=3)
    assert model.num_labels == 3
    for found in (model.encoder, Encoder.from_preset(folder)):
        np.testing.assert_array_equal(
            found.token_embedding.embeddings, masked.encoder.token_embedding.embeddings
        )
    again = tfllm.MaskedLanguageModel.from_pretrained(folder)
    np.testing.assert_array_equal(again.transform.kernel, masked.transform.kernel)
    with pytest.raises(ValueError, match="num_labels must be at least 2"):
        tfllm.TokenClassifier.from_preset(folder)
    with pytest.warns(UserWarning, match="the head of the SpanClassifier is new"):
        tfllm.SpanClassifier.from_preset(folder)


def test_lora_is_enabled_and_refused_where_there_is_none():
    model, other = CausalLM(CONFIG, seed=7), CausalLM(CONFIG, seed=7)
    model.enable_lora(2, targets=["q_proj", "v_proj"])
    other.add_adapter(tfllm.LoraConfig(rank=2, alpha=4.0, targets=("q_proj", "v_proj")))
    of_model, of_other = (
        [v.path.partition("/")[2] for v in m.trainable_weights] for m in (model, other)
    )
    assert of_model == of_other and of_model
    for mine, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    for refused in (tfllm.SequenceClassifier(ENCODER, num_labels=2), Encoder(ENCODER)):
        with pytest.raises(ValueError, match=r"are for a CausalLM; .* is trained whole"):
            refused.enable_lora(4)


@pytest.mark.slow
def test_a_quantized_model_is_exported(folder, tmp_path):
    model = CausalLM.from_preset(folder)
    model.quantize("int8")
    task = tfllm.TextGeneration(model, model.tokenizer)
    path = tfllm.serving.export(task, tmp_path / "served")
    version = next(p.parent for p in Path(path).rglob("saved_model.pb"))
    served = tf.saved_model.load(str(version)).signatures["serving_default"]
    text = served(prompt=tf.constant(["one"]))["text"].numpy()[0].decode()
    assert text == model.generate("one")
