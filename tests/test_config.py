"""Every setting has a description, and refuses invalid values."""

import dataclasses
import itertools
import json
import math
import typing

import pytest

from tfllm import config as settings
from tfllm.config import (
    ConfigError,
    GenerationConfig,
    LoraConfig,
    ModelConfig,
    PrepareConfig,
    RopeScaling,
    TrainingConfig,
    build,
    field_docs,
    field_types,
    read_file,
    to_dict,
)
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CLASSES = (ModelConfig, RopeScaling, LoraConfig, PrepareConfig, TrainingConfig, GenerationConfig)
MODEL = {"vocab_size": 100, "embedding_dim": 24, "num_layers": 2, "num_heads": 4}
MINIMAL = {
    ModelConfig: MODEL,
    RopeScaling: LLAMA3,
    LoraConfig: {},
    PrepareConfig: {},
    TrainingConfig: {},
    GenerationConfig: {},
}


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_is_documented_and_frozen(cls):
    docs = field_docs(cls)
    assert list(docs) == [f.name for f in dataclasses.fields(cls)] == list(field_types(cls))
    assert all(len(text) > 5 and "\n" not in text for text in docs.values())
    instance = cls(**MINIMAL[cls])
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(instance, next(iter(docs)), 1)


@pytest.mark.parametrize("cls", CLASSES)
def test_json_round_trip(cls):
    instance = cls(**MINIMAL[cls])
    assert build(cls, json.loads(json.dumps(to_dict(instance)))) == instance


@pytest.mark.parametrize("cls", CLASSES)
def test_strings_are_read_as_each_fields_type(cls):
    instance = cls(**MINIMAL[cls])
    strings = {
        name: str(value)
        for name, value in to_dict(instance).items()
        if not isinstance(value, tuple)
    }
    assert build(cls, strings) == instance


def test_derived_sizes():
    config = ModelConfig(**MODEL)
    assert (config.num_kv_heads, config.head_dim) == (4, 6)
    assert config.feed_forward_dim == 64  # 8/3 x 24, rounded up to a multiple of 32
    assert ModelConfig(**MODEL, gated=False).feed_forward_dim == 96
    odd = ModelConfig(**{**MODEL, "embedding_dim": 25}, head_dim=8)
    assert odd.head_dim == 8


@pytest.mark.parametrize(
    ("cls", "changes", "message"),
    [
        *(
            (ModelConfig, {name: 0}, f"{name} must be at least 1; received 0")
            for name in (
                *("vocab_size", "embedding_dim", "num_layers", "num_heads"),
                "max_sequence_length",
            )
        ),
        (ModelConfig, {"num_layers": 10**9}, "num_layers must be at most 10000; received 10000000"),
        (ModelConfig, {"embedding_dim": 25}, r"divisible by num_heads \(4\), or head_dim.*25"),
        (ModelConfig, {"num_kv_heads": 3}, r"num_kv_heads must divide num_heads \(4\).*3"),
        (ModelConfig, {"num_kv_heads": 0}, r"num_kv_heads must divide num_heads \(4\).*0"),
        (ModelConfig, {"head_dim": 0}, "head_dim must be at least 1; received 0"),
        (ModelConfig, {"head_dim": 5}, "even for rotary positions; received 5"),
        (ModelConfig, {"feed_forward_dim": 0}, "feed_forward_dim must be at least 1; received 0"),
        (
            ModelConfig,
            {"embedding_dim": 9, "num_heads": 3, "positions": "sinusoidal"},
            "embedding_dim must be even for sinusoidal positions; received 9",
        ),
        (ModelConfig, {"dropout": 1.0}, r"dropout must lie in \[0, 1\); received 1.0"),
        (ModelConfig, {"dropout": float("nan")}, "dropout must lie in"),
        (ModelConfig, {"norm_epsilon": 0.0}, "norm_epsilon must be positive; received 0.0"),
        (ModelConfig, {"rope_theta": -1.0}, "rope_theta must be positive; received -1.0"),
        (ModelConfig, {"rope_theta": math.inf}, "rope_theta must be a finite number"),
        (ModelConfig, {"sliding_window": 0}, "sliding_window must be at least 1; received 0"),
        (ModelConfig, {"window_layers": (0,)}, r"use sliding_window.*not given.*\(0,\)"),
        (ModelConfig, {"sliding_window": 3, "window_layers": ()}, "must name a block"),
        (
            ModelConfig,
            {"sliding_window": 3, "window_layers": (2,)},
            r"window_layers must lie in \[0, num_layers=2\); received \(2,\)",
        ),
        (ModelConfig, {"rope_layers": (-1,)}, r"rope_layers must lie in .*received \(-1,\)"),
        (
            ModelConfig,
            {"rope_layers": (0,), "positions": "learned"},
            r"rope_layers is for rotary positions only; received \(0,\)",
        ),
        (
            ModelConfig,
            {"rope_scaling": LLAMA3, "positions": "none"},
            "rope_scaling is for rotary positions only; received RopeScaling",
        ),
        (RopeScaling, {"factor": -1.0}, "factor must be positive; received -1.0"),
        (RopeScaling, {"factor": math.inf}, "factor must be a finite number; received inf"),
        (RopeScaling, {"rope_type": "linear"}, "a linear rope_scaling has no low_freq_factor"),
        (RopeScaling, {"low_freq_factor": None}, "a llama3 rope_scaling needs low_freq_factor"),
        (
            RopeScaling,
            {"high_freq_factor": 1.0},
            r"high_freq_factor must be above low_freq_factor \(1.0\); received 1.0",
        ),
        (RopeScaling, {"original_max_position_embeddings": 0}, "must be at least 1; received 0"),
        (ModelConfig, {"initializer_range": -0.1}, "initializer_range must not be negative"),
        (ModelConfig, {"initializer_range": math.nan}, "initializer_range must not be negative"),
        (PrepareConfig, {"vocab_size": 0}, "vocab_size must be at least 1; received 0"),
        (PrepareConfig, {"sequence_length": 0}, "sequence_length must be at least 1; received 0"),
        (
            PrepareConfig,
            {"vocab_size": 10**12},
            "vocab_size must be at most 1048576; received 1000",
        ),
        (PrepareConfig, {"validation_fraction": 1.0}, "validation_fraction must lie in"),
        (PrepareConfig, {"shard_tokens": 0}, "shard_tokens must be at least 1; received 0"),
        (PrepareConfig, {"num_processes": -1}, "num_processes must be at least 0; received -1"),
        *(
            (TrainingConfig, {name: 0}, f"{name} must be at least 1; received 0")
            for name in (
                *("sequence_length", "batch_size", "gradient_accumulation", "steps"),
                *("steps_per_execution", "validate_every", "checkpoint_every", "keep_checkpoints"),
            )
        ),
        (TrainingConfig, {"validation_batches": -1}, "validation_batches must not be negative"),
        (TrainingConfig, {"epochs": 0.0}, "epochs must be positive; received 0.0"),
        (TrainingConfig, {"epochs": math.inf}, "epochs must be a finite number; received inf"),
        (
            TrainingConfig,
            {"batch_size": 6, "gradient_accumulation": 4},
            r"gradient_accumulation must divide batch_size \(6\); received 4",
        ),
        (TrainingConfig, {"learning_rate": 0.0}, "learning_rate must be positive; received 0.0"),
        (TrainingConfig, {"learning_rate": float("nan")}, "learning_rate must be positive"),
        (TrainingConfig, {"learning_rate": math.inf}, "learning_rate must be a finite number"),
        (TrainingConfig, {"weight_decay": math.inf}, "weight_decay must be a finite number"),
        (TrainingConfig, {"clip_norm": math.inf}, "clip_norm must be a finite number"),
        (TrainingConfig, {"beta_1": 1.0}, r"beta_1 must lie in \[0, 1\); received 1.0"),
        (TrainingConfig, {"beta_2": -0.1}, r"beta_2 must lie in \[0, 1\); received -0.1"),
        (TrainingConfig, {"epsilon": 0.0}, "epsilon must be positive; received 0.0"),
        (TrainingConfig, {"warmup_steps": -1}, "warmup_steps must not be negative; received -1"),
        (TrainingConfig, {"decay_fraction": 0.0}, r"decay_fraction must lie in \(0, 1\]"),
        (TrainingConfig, {"final_learning_rate": 1.5}, "final_learning_rate is a fraction"),
        (TrainingConfig, {"weight_decay": -0.1}, "weight_decay must not be negative"),
        (TrainingConfig, {"clip_norm": 0.0}, "clip_norm must be positive or none; received 0.0"),
        (GenerationConfig, {"max_new_tokens": 0}, "max_new_tokens must be at least 1; received 0"),
        (GenerationConfig, {"temperature": float("nan")}, "temperature must be a finite number"),
        (GenerationConfig, {"temperature": float("inf")}, "temperature must be a finite number"),
        (GenerationConfig, {"temperature": -0.5}, "temperature must be a finite number.*-0.5"),
        (GenerationConfig, {"top_k": -1}, r"top_k must be at least 0 \(0: all tokens\)"),
        (GenerationConfig, {"top_p": 0.0}, r"top_p must lie in \(0, 1\]; received 0.0"),
        (GenerationConfig, {"min_p": 1.0}, r"min_p must lie in \[0, 1\); received 1.0"),
        (GenerationConfig, {"repetition_penalty": 0.0}, "repetition_penalty must be a finite"),
        (GenerationConfig, {"seed": 2**31}, "seed must lie in"),
        (
            GenerationConfig,
            {"prompt_lookup_tokens": 17},
            r"prompt_lookup_tokens must lie in \[0, 16\] \(0: no lookup\); received 17",
        ),
        (
            GenerationConfig,
            {"prompt_lookup_tokens": 4, "num_beams": 2},
            "prompt_lookup_tokens must be 0 where num_beams is above 1",
        ),
        (GenerationConfig, {"stop": ("a", "")}, "a stop string must not be empty"),
        (GenerationConfig, {"num_samples": 0}, "num_samples must be at least 1; received 0"),
    ],
)
def test_values_out_of_range_are_refused_with_the_rule(cls, changes, message):
    with pytest.raises(ConfigError, match=message):
        cls(**{**MINIMAL[cls], **changes})
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize(
    ("cls", "key", "value", "message"),
    [
        (TrainingConfig, "batch_sze", 4, "unknown setting 'batch_sze'; did you mean 'batch_size'?"),
        (TrainingConfig, "qqq", 4, "unknown setting 'qqq'; there are: .*batch_size"),
        (TrainingConfig, "batch_size", "many", "batch_size must be a whole number.*'many'"),
        (TrainingConfig, "batch_size", 2.5, "batch_size must be a whole number; received 2.5"),
        (TrainingConfig, "batch_size", True, "batch_size must be a whole number; received True"),
        (TrainingConfig, "batch_size", float("inf"), "batch_size must be a whole number"),
        (TrainingConfig, "batch_size", [4], "batch_size must be a whole number"),
        (TrainingConfig, "epochs", "long", "epochs must be a number; received 'long'"),
        (TrainingConfig, "epochs", True, "epochs must be a number; received True"),
        (TrainingConfig, "jit_compile", "maybe", "jit_compile must be true or false"),
        (TrainingConfig, "jit_compile", 1, "jit_compile must be true or false; received 1"),
        (TrainingConfig, "schedule", "cosin", "must be one of .*did you mean 'cosine'?"),
        (TrainingConfig, "precision", 16, "precision must be one of auto, float32"),
        (PrepareConfig, "text_field", 3, "text_field must be a string; received 3"),
        (GenerationConfig, "stop", [1], "stop must be a list of strings; received"),
        (GenerationConfig, "stop", 3, "stop must be a list of strings; received 3"),
        (ModelConfig, "rope_layers", "0,x", "rope_layers must be a list of whole numbers.*'0,x'"),
        (ModelConfig, "rope_layers", [0, 1.5], r"list of whole numbers; received \[0, 1.5\]"),
        (ModelConfig, "rope_layers", 3, "list of whole numbers; received 3"),
        (ModelConfig, "rope_scaling", "linear", "table of rope_type, .*JSON object.*'linear'"),
        (ModelConfig, "rope_scaling", {"kind": 1}, "unknown setting 'kind' in rope_scaling"),
        (ModelConfig, "rope_scaling", {"rope_type": "yarn"}, "rope_type must be one of linear, ll"),
        (ModelConfig, "rope_scaling", {"factor": 2.0}, "RopeScaling needs rope_type"),
        (ModelConfig, "query_key_value_bias", "maybe", "query_key_value_bias must be true or f"),
        (ModelConfig, "vocab_size", None, "vocab_size must be a whole number; received None"),
    ],
)
def test_unknown_and_ill_typed_settings_are_refused(cls, key, value, message):
    with pytest.raises(ConfigError, match=message):
        build(cls, {**MINIMAL[cls], key: value})


def test_the_error_says_where_a_setting_came_from():
    with pytest.raises(ConfigError, match=r"unknown setting 'x' in run\.toml"):
        build(TrainingConfig, {"x": 1}, where="run.toml")
    with pytest.raises(ConfigError, match="ModelConfig needs embedding_dim, num_layers, num_heads"):
        build(ModelConfig, {"vocab_size": 9})


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "1_000", 1000),
        (int, "2e3", 2000),
        (int, "-5", -5),
        (int, 4.0, 4),
        (float, "1e-3", 0.001),
        (float, 3, 3.0),
        (bool, "Yes", True),
        (bool, "0", False),
        (bool, "TRUE", True),
        (str, "text", "text"),
        (int | None, "none", None),
        (int | None, "", None),
        (int | None, None, None),
        (int | None, "7", 7),
        (typing.Literal["a", "b"], "b", "b"),
        (tuple[str, ...], "stop", ("stop",)),
        (tuple[str, ...], ["a", "b"], ("a", "b")),
        (tuple[int, ...], "0, 2,3", (0, 2, 3)),
        (tuple[int, ...], [2, "1"], (2, 1)),
        (RopeScaling, json.dumps(LLAMA3), RopeScaling(**LLAMA3)),
        (RopeScaling, RopeScaling("linear", 2.0), RopeScaling("linear", 2.0)),
        (RopeScaling | None, "none", None),
        (bool | None, "yes", True),
    ],
)
def test_values_are_read_as_their_type(kind, text, value):
    read = settings.read_value("x", text, kind)
    assert read == value and type(read) is type(value)


FAMILY = {
    "num_layers": 4,
    "rope_scaling": LLAMA3,
    "rope_layers": (2, 0),
    "sliding_window": 5,
    "window_layers": [1],
    "query_key_norm": True,
    "query_key_value_bias": True,
}


def test_a_family_s_values_come_back_from_json_and_from_strings():
    config = ModelConfig(**{**MODEL, **FAMILY})
    assert config.rope_scaling == RopeScaling(**LLAMA3)
    assert (config.rope_layers, config.window_layers) == ((0, 2), (1,))
    assert build(ModelConfig, json.loads(json.dumps(to_dict(config)))) == config
    hash(config)
    strings = {**MODEL, **FAMILY, "rope_scaling": json.dumps(LLAMA3), "rope_layers": "0,2"}
    strings |= {"window_layers": "1", "query_key_norm": "true", "query_key_value_bias": "true"}
    assert build(ModelConfig, {name: str(value) for name, value in strings.items()}) == config


def test_what_holds_for_all_blocks_is_said_in_one_way():
    options = {"rope_layers": (1, 0), "sliding_window": 5, "window_layers": (0, 1, 0)}
    assert ModelConfig(**MODEL, **options) == ModelConfig(**MODEL, sliding_window=5)
    parts = dict.fromkeys(
        ("query_key_value_bias", "attention_output_bias", "feed_forward_bias"), True
    )
    assert ModelConfig(**MODEL, **parts) == ModelConfig(**MODEL, use_bias=True)
    assert ModelConfig(**MODEL, use_bias=True, **parts) == ModelConfig(**MODEL, use_bias=True)
    assert ModelConfig(**MODEL, feed_forward_bias=False) == ModelConfig(**MODEL)


@pytest.mark.parametrize("use_bias", [True, False])
def test_each_part_has_biases_as_it_or_use_bias_says(use_bias):
    parts = ("query_key_value", "attention_output", "feed_forward")
    for own in itertools.product((True, False, None), repeat=3):
        given = {f"{part}_bias": bias for part, bias in zip(parts, own, strict=True)}
        config = ModelConfig(**MODEL, use_bias=use_bias, **given)
        for part, bias in zip(parts, own, strict=True):
            assert config.has_bias(part) == (use_bias if bias is None else bias)


def test_blocks_that_rotate_and_that_have_a_window():
    config = ModelConfig(**{**MODEL, **FAMILY})
    assert [config.rotates(i) for i in range(4)] == [True, False, True, False]
    assert [config.has_window(i) for i in range(4)] == [False, True, False, False]
    whole = dataclasses.replace(config, max_sequence_length=5)
    assert not any(whole.has_window(i) for i in range(4))  # it holds the whole context
    learned = ModelConfig(**MODEL, positions="learned")
    assert not learned.rotates(0) and not learned.has_window(0)


def test_settings_files(tmp_path):
    toml, js = tmp_path / "run.toml", tmp_path / "run.json"
    toml.write_text("[training]\nbatch_size = 8\nschedule = 'wsd'\n", encoding="utf-8")
    js.write_text('{"training": {"batch_size": 8, "schedule": "wsd"}}', encoding="utf-8")
    assert read_file(toml) == read_file(js) == {"training": {"batch_size": 8, "schedule": "wsd"}}


def test_unreadable_settings_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the settings file"):
        read_file(tmp_path / "none.toml")
    for name, text in (("a.toml", b"x = = 1"), ("a.json", b"{"), ("b", b"x = [")):
        path = tmp_path / name
        path.write_bytes(text)
        with pytest.raises(ConfigError, match="is not valid"):
            read_file(path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read the settings file"):
        read_file(tmp_path / "binary.toml")


def test_a_single_stop_string_is_one_stop_string():
    assert GenerationConfig(stop="END").stop == ("END",)
    assert GenerationConfig(stop=["a", "b"]).stop == ("a", "b")


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"num_layers": 2.5}, r"num_layers must be a whole number; received 2\.5"),
        ({"vocab_size": None}, "vocab_size must be a whole number; received None"),
        ({"embedding_dim": "wide"}, "embedding_dim must be a whole number; received 'wide'"),
        ({"dropout": "much"}, "dropout must be a number; received 'much'"),
        ({"num_heads": True}, "num_heads must be a whole number; received True"),
        ({"activation": "gleu"}, "activation must be one of .*did you mean 'gelu'"),
    ],
)
@pytest.mark.parametrize("cls", [ModelConfig, EncoderConfig, EncoderDecoderConfig])
def test_an_architecture_of_a_wrong_type_says_which_field_which_rule_and_what(cls, wrong, rule):
    with pytest.raises(ConfigError, match=rule):
        cls(**{**MODEL, **wrong})


def test_an_architectures_values_are_of_the_types_of_its_fields():
    config = ModelConfig(**{**MODEL, "num_layers": 2.0, "dropout": 0, "rope_layers": [0]})
    assert [type(v) for v in (config.num_layers, config.dropout)] == [int, float]
    assert config.rope_layers == (0,) and hash(config)
    with pytest.raises(ConfigError, match=r"rope_scaling must be a table of rope_type.*received 3"):
        ModelConfig(**MODEL, rope_scaling=3)
    with pytest.raises(ConfigError, match=r"gated must be true or false; received 1"):
        ModelConfig(**MODEL, gated=1)
