"""The named sizes of new models: their tables, what overrides them, and their listing."""

import dataclasses
import math

import pytest

from tfllm.config import ConfigError, ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.models.encoder import Encoder
from tfllm.models.parameter_count import num_parameters
from tfllm.models.sizes import size
from tfllm.models.sizes.all_sizes import ALL_SIZES, size_listing, size_names
from tfllm.models.sizes.decoders import DECODER_SIZES, FAMILIES, ROWS
from tfllm.models.sizes.encoders import ENCODER_SIZES

# As the models' authors and the Hugging Face hub publish them.
PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "llama-1b": 1_100_048_384,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3-70b": 70_553_706_496,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "mistral-7b": 7_241_732_096,
    "mistral-nemo-12b": 12_247_782_400,
    "smollm3-3b": 3_075_098_624,
    "qwen2-0.5b": 494_032_768,
    "qwen2-1.5b": 1_543_714_304,
    "qwen2-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_number_of_parameters(name):
    assert num_parameters(size(name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", DECODER_SIZES)
def test_a_name_with_a_number_has_about_that_many_parameters(name):
    number = name.rsplit("-", 1)[-1]
    if number[-1] in "mb" and number[:-1].replace(".", "").isdigit():
        said = float(number[:-1]) * {"m": 1e6, "b": 1e9}[number[-1]]
        # A name has one or two digits: Llama 3.2 1B, the furthest from its own, has 1.24 billion.
        assert num_parameters(size(name)) == pytest.approx(said, rel=0.24)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_kv_heads": 2, "head_dim": 6},
        {"tied_embeddings": False, "use_bias": True},
        {"norm": "layer", "positions": "learned", "gated": False, "activation": "gelu"},
        {"norm_first": False, "positions": "sinusoidal", "norm": "layer", "use_bias": True},
        {"positions": "none", "feed_forward_dim": 10},
        {"query_key_value_bias": True, "query_key_norm": True, "head_dim": 6, "num_kv_heads": 2},
        {"use_bias": True, "attention_output_bias": False},
        {"feed_forward_bias": True, "sliding_window": 3, "window_layers": (1,)},
    ],
)
def test_the_formula_counts_what_a_model_has(options):
    config = ModelConfig(
        vocab_size=50,
        embedding_dim=16,
        num_layers=3,
        num_heads=4,
        max_sequence_length=20,
        **options,
    )
    model = CausalLM(config)
    assert num_parameters(config) == sum(math.prod(v.shape) for v in model.trainable_variables)


@pytest.mark.parametrize("name", ["llama-1m", "gpt2-1m"])
def test_a_small_size_is_built_with_the_number_that_the_listing_says(name):
    model = CausalLM(size(name))
    assert model.count_params() == num_parameters(size(name))
    assert f"{model.count_params():,}" in size_listing()


def test_a_family_is_the_same_in_all_its_sizes():
    for family, rows in ROWS.items():
        for name in rows:
            config = dataclasses.asdict(size(name))
            fixed = {key: config[key] for key in FAMILIES[family] if key != "tied_embeddings"}
            assert fixed.items() <= FAMILIES[family].items()


def test_overrides_win_and_are_read_like_any_setting():
    config = size("llama-4m", vocab_size="8_000", num_layers=2)
    assert (config.vocab_size, config.num_layers, config.embedding_dim) == (8000, 2, 256)
    assert DECODER_SIZES["llama-4m"]["vocab_size"] == 4096


def test_fewer_blocks_keep_what_is_said_of_those_that_are_left():
    assert size("smollm3-3b", num_layers="6").rope_layers == (0, 1, 2, 4, 5)
    assert size("smollm3-3b", num_layers=4, rope_layers=[3]).rope_layers == (3,)


def test_unknown_names_are_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"unknown size 'lama-4m'; did you mean 'llama-4m'"):
        size("lama-4m")
    with pytest.raises(ConfigError, match=r"'vocabsize' in size gpt2; .*'vocab_size'"):
        size("gpt2", vocabsize=3)
    with pytest.raises(ConfigError, match=r"num_kv_heads must divide num_heads"):
        size("llama-4m", num_kv_heads=3)


def test_a_task_names_the_kind_of_its_sizes():
    for table, name in zip(ALL_SIZES, ("llama-4n", "bert-minj", "t5-bas"), strict=True):
        with pytest.raises(ConfigError, match=rf"unknown {table.kind} size '{name}'; did you mean"):
            table.config(name)


def test_a_name_is_in_one_table_which_gives_its_architecture():
    assert len(size_names()) == len({*size_names()}) == sum(map(len, ALL_SIZES))
    for table in ALL_SIZES:
        for name in table:
            config = size(name, vocab_size=99)
            assert config == table.config(name, vocab_size=99)
            assert isinstance(config, table.config_class) and config.vocab_size == 99


# Of the Hugging Face hub, with the pooler.
BERT = {
    "bert-tiny": 4_385_920,
    "bert-mini": 11_170_560,
    "bert-small": 28_763_648,
    "bert-base": 109_482_240,
}


@pytest.mark.parametrize("name", ENCODER_SIZES)
def test_encoders_have_their_published_number_of_parameters(name):
    config = ENCODER_SIZES.config(name)
    pooler = config.embedding_dim * (config.embedding_dim + 1)
    assert num_parameters(config) + pooler == BERT[name]


@pytest.mark.parametrize("fields", [{}, {"feed_forward_dim": 10, "num_token_types": 3}])
def test_the_formula_counts_what_an_encoder_has(fields):
    config = ENCODER_SIZES.config(
        "bert-tiny", vocab_size=50, embedding_dim=16, max_sequence_length=20, **fields
    )
    assert num_parameters(config) == Encoder(config).count_params()


def test_the_listing_has_a_line_for_each_size_by_kind():
    parts = [part.splitlines() for part in size_listing().split("\n\n")]
    for table, (head, *lines) in zip(ALL_SIZES, parts, strict=True):
        assert head.split()[0] == table.kind
        assert [line.split()[0] for line in lines] == list(table)
    decoders, _, encoder_decoders = parts
    assert "70,553,706,496" in decoders[1 + list(DECODER_SIZES).index("llama-3-70b")]
    assert " 3+3 " in next(line for line in encoder_decoders if "transformer-mini" in line)
    assert max(map(len, size_listing().splitlines())) < 80
