"""T5 and Marian folders, read and written, compared with `transformers`.

See record_encoder_decoders.py.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file

from tests.pretrained.record_encoder_decoders import (
    LENGTH_PENALTY,
    MODELS,
    NUM_BEAMS,
    NUM_NEW_TOKENS,
    REFERENCES,
)
from tests.rounding import SIDES, assert_within, weight_rounding
from tfllm import pretrained
from tfllm.config import ConfigError, GenerationConfig
from tfllm.generation import decoding
from tfllm.generation.beam_options import BeamOptions
from tfllm.generation.beam_search import beam_search
from tfllm.generation.encoder_decoder_decoder import EncoderDecoderDecoder
from tfllm.generation.sampling import SamplingOptions
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
from tfllm.pretrained.model_kinds import kind_of_config

NAMES = list(MODELS)


@functools.cache
def model(name, dtype="float32"):
    return pretrained.load(REFERENCES / name, dtype=dtype).model


@functools.cache
def recorded(name):
    return dict(np.load(REFERENCES / name / "reference.npz"))


def inputs_of(name):
    known = recorded(name)
    mask = np.arange(known["source_ids"].shape[1]) < known["source_lengths"][:, np.newaxis]
    return {
        "source_ids": known["source_ids"],
        "source_mask": mask,
        "token_ids": known["token_ids"],
    }


def sources_of(name):
    known = recorded(name)
    return tf.RaggedTensor.from_tensor(known["source_ids"], lengths=known["source_lengths"])


@functools.cache
def bounds(name):
    """Of each position's logits. A query of t5_v1_1 has two keys of almost the same score, neither
    scaled nor bounded, and its logits move by a hundred times what those of marian move."""
    return weight_rounding(model(name), lambda: model(name)(inputs_of(name)))


def close(given, expected, bound):
    assert_within(given, expected, bound)


@pytest.fixture
def folder_of(tmp_path):
    """A copy of a recorded folder, some keys of its config.json changed, tensors renamed."""

    def copy(name, rename=lambda tensors: tensors, **changes):
        folder = tmp_path / "copy"
        shutil.copytree(REFERENCES / name, folder, ignore=shutil.ignore_patterns("reference.npz"))
        values = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(values))
        file = folder / "model.safetensors"
        if file.exists():
            save_file(rename(load_file(file)), file)
        return folder

    return copy


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_padded_sources_are_those_of_transformers(name):
    close(model(name)(inputs_of(name)), recorded(name)["logits"], bounds(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_row_alone_gives_what_it_gives_beside_longer_ones(name):
    given = inputs_of(name)
    for row, length in enumerate(recorded(name)["source_lengths"]):
        alone = {
            "source_ids": given["source_ids"][row : row + 1, :length],
            "token_ids": given["token_ids"][row : row + 1],
        }
        close(model(name)(alone)[0], recorded(name)["logits"][row], bounds(name)[row])


@pytest.mark.parametrize("name", NAMES)
def test_both_are_the_logits_in_float64_but_for_the_rounding_of_one_side(name):
    given, exact = inputs_of(name), recorded(name)["exact_logits"]
    bound = bounds(name) / SIDES
    close(model(name)(given), exact, bound)
    for row, length in enumerate(recorded(name)["source_lengths"]):
        alone = {
            "source_ids": given["source_ids"][row : row + 1, :length],
            "token_ids": given["token_ids"][row : row + 1],
        }
        close(model(name)(alone)[0], exact[row], bound[row])


@pytest.mark.parametrize("name", NAMES)
def test_greedy_decoding_with_caches_is_that_of_transformers(name, monkeypatch):
    """Each step's logits and the tokens; the caches grow on the way."""
    monkeypatch.setattr(decoding, "INITIAL_CAPACITY", 3)
    logits, tokens = [], []

    def choose(given, *_):
        logits.append(given.numpy())
        tokens.append(given.numpy().argmax(-1).astype(np.int32))
        return tf.constant(tokens[-1])

    monkeypatch.setattr(decoding, "next_tokens", choose)
    sources, vocab_size = sources_of(name), model(name).config.vocab_size
    decoding.decode(
        EncoderDecoderDecoder(model(name)),
        sources,
        tf.fill([3], NUM_NEW_TOKENS),
        SamplingOptions.of(GenerationConfig(), 3),
        end_token_ids=tf.constant([-1]),
        token_bytes=tf.constant([f"<{i}>" for i in range(vocab_size)]),
        stops=lambda text: tf.zeros(tf.shape(text), tf.bool),
    )
    never = list(model(name).config.never_generated)
    assert len(never) == ("marian" in name)
    expected = recorded(name)["generated_logits"]
    given = np.stack(logits, 1)
    assert (given[..., never] < -1e30).all()
    seen = [i for i in range(vocab_size) if i not in never]
    close(given[..., seen], expected[..., seen], bounds(name).max())
    np.testing.assert_array_equal(np.stack(tokens, 1), recorded(name)["generated"])


@pytest.mark.parametrize("name", NAMES)
def test_beam_search_finds_what_that_of_transformers_finds(name):
    known = recorded(name)
    options = BeamOptions(width=NUM_BEAMS, length_penalty=LENGTH_PENALTY)
    end = int(known["end_token_id"])
    decoder = EncoderDecoderDecoder(model(name))

    @tf.function(
        input_signature=[
            tf.RaggedTensorSpec([None, None], tf.int32),
            tf.TensorSpec([None], tf.int32),
        ],
        autograph=False,
    )
    def search(sources, limits):
        return beam_search(decoder, sources, limits, options, end_token_ids=tf.constant([end]))

    found = search(sources_of(name), tf.fill([3], NUM_NEW_TOKENS))
    for row in range(3):
        for beam in range(NUM_BEAMS):
            ids = [i for i in known["beam_ids"][row, beam] if i >= 0]
            if end in ids:
                ids = ids[: ids.index(end)]
            length = found.lengths[row, beam]
            assert found.token_ids[row, beam, :length].numpy().tolist() == ids
    # Padding, which no text of Marian has, keeps its share of the probability.
    # A score is a sum of log-probabilities over the text's length to the power of the penalty.
    close(
        found.scores,
        known["beam_scores"],
        bounds(name).max() * NUM_NEW_TOKENS ** (1 - LENGTH_PENALTY),
    )


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_near(name):
    given = model(name, "bfloat16")(inputs_of(name)).numpy()
    assert np.corrcoef(given.ravel(), recorded(name)["logits"].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_int8_is_near(name):
    given = model(name, "int8")(inputs_of(name)).numpy()
    assert np.corrcoef(given.ravel(), recorded(name)["logits"].ravel())[0, 1] > 0.98


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_describes_the_same_model(name, tmp_path):
    folder = pretrained.save(model(name), tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    assert values["model_type"] == name.partition("_")[0]
    assert json.loads((folder / "tfllm.json").read_text())["transformers"] is True
    starts = json.loads((folder / "generation_config.json").read_text())
    assert starts["decoder_start_token_id"] == model(name).config.decoder_start_token_id
    loaded = pretrained.load(folder).model
    assert loaded.config == model(name).config
    np.testing.assert_array_equal(loaded(inputs_of(name)), model(name)(inputs_of(name)))


def test_an_architecture_of_neither_comes_back(tmp_path):
    config = dataclasses.replace(
        model("t5").config, norm="layer", use_bias=True, tied_embeddings=False, output_bias=True
    )
    ours = EncoderDecoder(config, seed=3)
    folder = pretrained.save(ours, tmp_path / "model")
    assert json.loads((folder / "tfllm.json").read_text())["transformers"] is False
    loaded = pretrained.load(folder).model
    assert loaded.config == config
    np.testing.assert_array_equal(loaded(inputs_of("t5")), ours(inputs_of("t5")))


def test_copies_of_the_embedding_and_constants_in_old_files_are_accounted_for(folder_of):
    def like_old_t5(tensors):
        shared = tensors["shared.weight"]
        for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
            tensors[f"{name}.weight"] = shared.copy()
        name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        return {**tensors, name: np.ones((8, 3), np.float32)}

    loaded = pretrained.load(folder_of("t5", like_old_t5)).model
    np.testing.assert_array_equal(loaded(inputs_of("t5")), model("t5")(inputs_of("t5")))


def test_sinusoids_in_old_files_are_computed_instead(folder_of):
    def like_old_marian(tensors):
        for stack in ("encoder", "decoder"):
            tensors[f"model.{stack}.embed_tokens.weight"] = tensors["model.shared.weight"].copy()
            table = np.zeros((31, 18), np.float32)
            tensors[f"model.{stack}.embed_positions.weight"] = table
        return tensors

    loaded = pretrained.load(folder_of("marian", like_old_marian)).model
    close(loaded(inputs_of("marian")), recorded("marian")["logits"], bounds("marian"))


def test_an_embedding_that_is_no_copy_is_refused(folder_of):
    def apart(tensors):
        return {**tensors, "encoder.embed_tokens.weight": tensors["shared.weight"] + 1}

    with pytest.raises(ValueError, match=r"encoder\.embed_tokens\.weight is equal to shared"):
        pretrained.load(folder_of("t5", apart))


@pytest.mark.parametrize("lost", ["shared.weight", "encoder.final_layer_norm.weight"])
def test_a_missing_weight_is_named(folder_of, lost):
    def without(tensors):
        return {name: value for name, value in tensors.items() if name != lost}

    with pytest.raises(ValueError, match=f"lack weights of the model: {lost}"):
        pretrained.load(folder_of("t5", without))


def test_a_further_weight_is_named(folder_of):
    def more(tensors):
        return {**tensors, "decoder.block.7.layer_norm.weight": np.ones(18, np.float32)}

    with pytest.raises(ValueError, match=r"decoder\.block\.7\.layer_norm\.weight"):
        pretrained.load(folder_of("t5", more))


def test_what_is_never_generated_is_read_as_transformers_reads_it(folder_of):
    """generation_config.json before config.json; what ends a text may always come."""
    folder = folder_of("marian", bad_words_ids=[[5]])
    assert pretrained.load(folder).model.config.never_generated == (96,)
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"bad_words_ids": [[7], [0], [96]]}))
    assert pretrained.load(folder).model.config.never_generated == (7, 96)
    path.unlink()
    assert pretrained.load(folder).model.config.never_generated == (5,)


REFUSED = [
    ("t5", "is_decoder", True),
    ("t5", "quantization_config", {"bits": 4}),
    ("t5", "feed_forward_proj", "gated-mish"),
    ("t5", "relative_attention_num_buckets", 7),
    ("t5", "architectures", ["T5EncoderModel"]),
    ("marian", "share_encoder_decoder_embeddings", False),
    ("marian", "normalize_before", True),
    ("marian", "static_position_embeddings", False),
    ("marian", "decoder_ffn_dim", 44),
    ("marian", "decoder_vocab_size", 98),
    ("marian", "activation_function", "mish"),
    ("marian", "bad_words_ids", [[1, 2]]),
    ("marian", "d_model", 17),
    ("marian", "decoder_start_token_id", 97),
]


@pytest.mark.parametrize(("name", "key", "value"), REFUSED)
def test_what_is_not_supported_is_refused(name, key, value):
    values = json.loads((REFERENCES / name / "config.json").read_text())
    with pytest.raises(ConfigError, match=r"config\.json"):
        changed = {**values, key: value}
        kind_of_config(changed, "config.json").read(changed, "config.json", None)


@pytest.mark.parametrize("name", ["t5", "marian"])
def test_a_value_of_another_kind_is_read_as_what_it_says_or_refused(name):
    values, refused = json.loads((REFERENCES / name / "config.json").read_text()), 0
    odd = ("x", "", "3", -1, 0, 2.5, 1e300, True, None, [], [1], {}, {"x": 1}, [{}])
    for key in values:
        for value in odd:
            changed = {**values, key: value}
            try:
                config = kind_of_config(changed, "config.json").read(changed, "config.json", None)
            except ConfigError as error:
                assert "config.json" in str(error)
                refused += 1
            else:
                assert isinstance(config.config, EncoderDecoderConfig)
    assert refused > 100


def test_dropout_is_what_the_file_or_the_caller_says():
    assert model("marian").config.dropout == 0.1
    assert model("marian").config.attention_dropout == 0.0
    changed = pretrained.load(REFERENCES / "marian", dropout=0.3).model.config
    assert (changed.dropout, changed.attention_dropout) == (0.3, 0.0)
    assert pretrained.load(REFERENCES / "t5", dropout=0.0).model.config.dropout == 0.0
