"""Every family of docs/pretrained_models.md compared with `transformers`.

See record_references.py.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.pretrained.families import REFERENCES, families, refused_everywhere
from tests.rounding import UNIT_ROUNDOFF, assert_within, weight_rounding
from tfllm import pretrained
from tfllm.config import ConfigError, GenerationConfig, ModelConfig
from tfllm.generation import decoding
from tfllm.generation.causal_lm_decoder import CausalLMDecoder
from tfllm.generation.sampling import SamplingOptions
from tfllm.models.causal_lm import CausalLM
from tfllm.pretrained.hugging_face.architectures import ARCHITECTURES
from tfllm.pretrained.hugging_face.decoder_config import from_hugging_face
from tfllm.pretrained.hugging_face.weight_map import WEIGHT_MAPS

FAMILIES = families()
NAMES = [name for family in FAMILIES if family.hugging_face_in for name in family.references]
WRITTEN = [name for family in FAMILIES if family.hugging_face_out for name in family.references]
REFUSED = {
    f"{family.model_type}-{refused.key}={json.dumps(refused.value)}": (family, refused)
    for family in FAMILIES
    for refused in (*family.refused, *refused_everywhere())
}


@functools.cache
def model(name, dtype="float32"):
    return pretrained.load(REFERENCES / name, dtype=dtype).model


@functools.cache
def recorded(name):
    return dict(np.load(REFERENCES / name / "reference.npz"))


def config_values(name):
    return json.loads((REFERENCES / name / "config.json").read_text())


@functools.cache
def bounds(name):
    """Of the logits at each position of the recorded rows."""
    return weight_rounding(model(name), lambda: model(name)(recorded(name)["token_ids"]))


def close(ours, theirs, bound):
    assert_within(ours, theirs, bound)


def test_the_table_has_every_architecture_and_each_has_a_reference():
    types = [family.model_type for family in FAMILIES]
    assert sorted(types) == sorted(ARCHITECTURES)
    assert {*types, "tfllm"} == WEIGHT_MAPS.keys()
    assert sorted(NAMES) == sorted(path.name for path in REFERENCES.iterdir())
    for family in FAMILIES:
        assert family.references, family.name
        assert family.hugging_face_in and family.refused, family.name


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name):
    close(model(name)(recorded(name)["token_ids"]), recorded(name)["logits"], bounds(name))


@pytest.mark.parametrize("name", NAMES)
def test_padding_on_either_side_is_invisible(name):
    token_ids, logits = recorded(name)["token_ids"], recorded(name)["logits"]
    time = token_ids.shape[1]
    for lengths in ((time, 17), (3, time - 1)):
        for left in (False, True):
            rows, mask = np.full((2, time), 5), np.zeros((2, time), bool)
            places = [slice(time - n, time) if left else slice(0, n) for n in lengths]
            for row, (place, length) in enumerate(zip(places, lengths, strict=True)):
                rows[row, place], mask[row, place] = token_ids[row, :length], True
            positions = tf.constant(np.maximum(np.cumsum(mask, 1) - 1, 0))
            hidden, _ = model(name).hidden_states(
                {"token_ids": rows, "padding_mask": mask}, positions=positions
            )
            padded = model(name).logits(hidden).numpy()
            for row, (place, length) in enumerate(zip(places, lengths, strict=True)):
                close(padded[row, place], logits[row, :length], bounds(name)[row, :length])


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_row_gives_what_its_documents_give_alone(name):
    token_ids, logits = recorded(name)["token_ids"], recorded(name)["logits"]
    lengths = (11, 4, 14)
    pieces = [(i % 2, n) for i, n in enumerate(lengths)]
    packed = np.concatenate([token_ids[row, :n] for row, n in pieces])[np.newaxis]
    segments = np.repeat([1, 2, 3], lengths)[np.newaxis]
    given = model(name)({"token_ids": packed, "segment_ids": segments}).numpy()[0]
    expected, bound = (
        np.concatenate([a[row, :n] for row, n in pieces]) for a in (logits, bounds(name))
    )
    close(given, expected, bound)


def run_decode(name, prompts, steps, dtype="float32"):
    return decoding.decode(
        CausalLMDecoder(model(name, dtype)),
        tf.ragged.constant(prompts, tf.int32),
        tf.fill([len(prompts)], steps),
        SamplingOptions.of(GenerationConfig(), len(prompts)),
        end_token_ids=tf.constant([-1]),
        token_bytes=tf.constant([f"<{i}>" for i in range(model(name).config.vocab_size)]),
        stops=lambda text: tf.zeros(tf.shape(text), tf.bool),
    )


@pytest.fixture
def steps_of(monkeypatch):
    """Decode: the tokens that were chosen and the logits of each step. `forced` are chosen so."""

    def decode(name, prompts, num_steps, forced=None, dtype="float32", initial_capacity=64):
        monkeypatch.setattr(decoding, "INITIAL_CAPACITY", initial_capacity)
        chosen, logits = [], []

        def choose(given, *_):
            step = len(chosen)
            token = tf.argmax(given, -1, tf.int32) if forced is None else forced[:, step]
            logits.append(given.numpy())
            chosen.append(np.asarray(token))
            return tf.constant(chosen[-1])

        monkeypatch.setattr(decoding, "next_tokens", choose)
        run_decode(name, prompts, num_steps, dtype)
        return np.stack(chosen, 1), np.stack(logits, 1)

    return decode


@pytest.mark.parametrize("name", NAMES)
def test_cached_decoding_of_prompts_of_other_lengths_is_that_of_transformers(name, steps_of):
    """Each step's logits and the greedy tokens."""
    lengths, expected = recorded(name)["prompt_lengths"], recorded(name)["generated"]
    rows = recorded(name)["token_ids"]
    prompts = [row[:n].tolist() for row, n in zip(rows, lengths, strict=True)]
    tokens, logits = steps_of(name, prompts, expected.shape[1], initial_capacity=3)
    close(logits, recorded(name)["generated_logits"], bounds(name).max())
    np.testing.assert_array_equal(tokens, expected)


@pytest.mark.parametrize("name", NAMES)
def test_cached_decoding_goes_on_over_a_gap_behind_the_prompt(name, steps_of):
    """The row's own tokens are fed: a short prompt beside a long one, past window and gap."""
    rows, logits = recorded(name)["token_ids"].astype(np.int32), recorded(name)["logits"]
    short, long, steps = 2, 15, 12
    forced = np.stack([rows[0, short : short + steps], rows[1, long : long + steps]])
    _, seen = steps_of(name, [rows[0, :short].tolist(), rows[1, :long].tolist()], steps, forced)
    for row, length in enumerate((short, long)):
        place = slice(length - 1, length + steps - 1)
        close(seen[row], logits[row, place], bounds(name)[row, place])


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_behind_padding_on_the_left(name):
    rows, logits = recorded(name)["token_ids"], recorded(name)["logits"]
    pads, prompt, gpt = np.array([0, 9]), 14, model(name)
    time = rows.shape[1]
    padded = np.stack([np.r_[np.full(n, 5), row][:time] for n, row in zip(pads, rows, strict=True)])
    mask = np.arange(time) >= pads[:, np.newaxis]
    positions = tf.constant(np.maximum(np.cumsum(mask, 1) - 1, 0))
    cache, given, begin = gpt.empty_cache(2, time), [], 0
    for end in (prompt, prompt + 1, prompt + 5, time):
        place = slice(begin, end)
        hidden, cache = gpt.hidden_states(
            {"token_ids": padded[:, place], "padding_mask": mask[:, :end] if not begin else mask},
            positions=positions[:, place],
            cache=cache if not begin else cache._replace(next_index=tf.constant(begin)),
        )
        given.append(gpt.logits(hidden).numpy())
        begin = end
    given = np.concatenate(given, 1)
    for row, pad in enumerate(pads):
        close(given[row, pad:], logits[row, : time - pad], bounds(name)[row, : time - pad])


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_near(name, steps_of):
    expected = recorded(name)["logits"]
    given = model(name, "bfloat16")(recorded(name)["token_ids"]).numpy()
    half = UNIT_ROUNDOFF["bfloat16"] / UNIT_ROUNDOFF["float32"]
    close(given, expected, half * bounds(name))
    assert np.corrcoef(given.ravel(), expected.ravel())[0, 1] > 0.998
    rows, short = recorded(name)["token_ids"].astype(np.int32), 12
    prompts, forced = [row[:short].tolist() for row in rows], rows[:, short:]
    _, seen = steps_of(name, prompts, 3, forced, "bfloat16")
    close(seen, expected[:, short - 1 : short + 2], half * bounds(name)[:, short - 1 : short + 2])


DIFFERENT = {
    "rope_scaling": None,
    "rope_layers": None,
    "sliding_window": None,
    "window_layers": None,
    "query_key_norm": False,
    "query_key_value_bias": None,
    "rope_theta": 1234.0,
}
"""fields that a family may have set, and a value that makes another model of it"""


@pytest.mark.parametrize("name", NAMES)
def test_each_option_shows_in_the_logits(name):
    """Else the references would not tell a model that follows it from one that does not."""
    ours = model(name).config
    for field, other in DIFFERENT.items():
        if getattr(ours, field) in (None, False) or ours.positions != "rotary":
            continue
        changes = {field: other}
        if field == "sliding_window":
            changes["window_layers"] = None
        changed = CausalLM(dataclasses.replace(ours, **changes), seed=None)
        places = {weight.path.split("/", 1)[1]: weight for weight in model(name).weights}
        for weight in changed.weights:
            weight.assign(places[weight.path.split("/", 1)[1]])
        given = changed(recorded(name)["token_ids"]).numpy()
        assert np.abs(given - recorded(name)["logits"]).max() > 1e-2, field


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_describes_the_same_model(name, tmp_path):
    folder = pretrained.save(model(name), tmp_path / "model")
    assert json.loads((folder / "tfllm.json").read_text())["transformers"] is True
    values = json.loads((folder / "config.json").read_text())
    assert values["model_type"] == config_values(name)["model_type"]
    loaded = pretrained.load(folder).model
    assert loaded.config == model(name).config
    token_ids = recorded(name)["token_ids"]
    np.testing.assert_array_equal(loaded(token_ids), model(name)(token_ids))


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_another_kind_is_read_as_what_it_says_or_refused(name):
    """Never another error, nor a run without an end."""
    values, refused = config_values(name), 0
    odd = ("x", "", "3", -1, 0, 2.5, 1e300, True, None, [], [1], {}, {"x": 1}, [{}])
    for key in (*values, "rope_scaling", "rope_theta", "no_rope_layers", "layer_types"):
        for value in odd:
            try:
                _, config = from_hugging_face({**values, key: value}, where="config.json")
            except ConfigError as error:
                assert "config.json" in str(error)
                refused += 1
            else:
                assert isinstance(config, ModelConfig)
    assert refused > 50


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_table_says_is_refused_is_refused_by_its_name(case):
    family, (key, value) = REFUSED[case]
    values = copy.deepcopy(config_values(family.references[0]))
    assert from_hugging_face(values, where="config.json")[0] == family.model_type
    *path, last = key.split(".")
    place = values
    for name in path:
        place = place[name]
    place[last] = value
    with pytest.raises(ConfigError, match=rf"config\.json: .*{last}") as error:
        from_hugging_face(values, where="config.json")
    assert repr(value) in str(error.value)
