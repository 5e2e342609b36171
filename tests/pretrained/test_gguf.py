"""GGUF files of every family of docs/pretrained_models.md, compared with their source folders."""

import dataclasses

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import save_file

from tests.pretrained.conftest import REFERENCES
from tests.pretrained.families import families
from tests.pretrained.gguf_files import (
    NotExpressible,
    folder_tensors,
    gguf_tensors,
    interleaved,
    write_gguf,
)
from tests.rounding import UNIT_ROUNDOFF, assert_within, weight_rounding
from tfllm import pretrained
from tfllm.config import ConfigError
from tfllm.pretrained.gguf.config import GGUF_ARCHITECTURES
from tfllm.pretrained.gguf.header import read_header
from tfllm.pretrained.gguf.rope import llama3_scaling
from tfllm.pretrained.gguf.tensors import READABLE, GGUFTensors

FAMILIES = families()
NAMES = [name for family in FAMILIES if family.gguf for name in family.references]
# A window of some layers, and another activation.
WITHOUT_A_PLACE = {"qwen2", "qwen3_windows", "smollm3_windows", "llama_sharded"}


def weights(model):
    return {variable.path.split("/", 1)[1]: variable.numpy() for variable in model.weights}


def assert_same_weights(model, other):
    ours, theirs = weights(model), weights(other)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value, err_msg=key)


def rounded_folder(folder, convert):
    """A folder with its matrices rounded as a type of GGUF files rounds them, in float32."""
    tensors = {
        name: convert(array) if array.ndim == 2 and "wpe" not in name else array
        for name, array in folder_tensors(folder).items()
    }
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    save_file(
        {k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "model.safetensors"
    )
    return folder


def test_the_table_names_every_architecture_that_is_read():
    assert {family.gguf for family in FAMILIES if family.gguf} == GGUF_ARCHITECTURES.keys()
    for family in FAMILIES:
        assert not family.gguf or set(family.references) - WITHOUT_A_PLACE, family.name


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name, tmp_path):
    folder, path = REFERENCES / name, tmp_path / "model.gguf"
    if name in WITHOUT_A_PLACE:
        with pytest.raises(NotExpressible):
            write_gguf(folder, path)
        return
    model = pretrained.load(write_gguf(folder, path)).model
    of_folder = pretrained.load(folder).model
    assert model.config == dataclasses.replace(
        of_folder.config, dropout=model.config.dropout, initializer_range=0.02
    )
    assert_same_weights(model, of_folder)
    reference = np.load(folder / "reference.npz")
    bound = weight_rounding(model, lambda: model(reference["token_ids"]))
    assert_within(model(reference["token_ids"]), reference["logits"], bound)


@pytest.mark.parametrize("name", ["llama_linear", "gpt2", "qwen3"])
@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_precision_files_give_the_rounded_weights(folder_of, tmp_path, name, kind):
    dtype = np.dtype(np.float16 if kind == "F16" else ml_dtypes.bfloat16)
    path = write_gguf(REFERENCES / name, tmp_path / "model.gguf", kind)
    folder = rounded_folder(folder_of(name), lambda array: array.astype(dtype).astype(np.float32))
    assert_same_weights(pretrained.load(path).model, pretrained.load(folder).model)
    assert_same_weights(
        pretrained.load(path, dtype="bfloat16").model,
        pretrained.load(folder, dtype="bfloat16").model,
    )


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_0", "Q4_1", "Q4_0"])
def test_quantized_files_give_what_gguf_dequantizes(folder_of, tmp_path, kind):
    """llama_tied: rows of 32 and of 48 numbers, of which the latter are written as F16."""

    def convert(array):
        if array.shape[1] % 32:
            return array.astype(np.float16).astype(np.float32)
        return gguf.quants.dequantize(gguf.quants.quantize(array, Kind[kind]), Kind[kind])

    path = write_gguf(REFERENCES / "llama_tied", tmp_path / "model.gguf", kind)
    assert {tensor.dtype for tensor in read_header(path).tensors.values()} == {"F32", "F16", kind}
    model = pretrained.load(path).model
    exact = pretrained.load(REFERENCES / "llama_tied").model
    assert_same_weights(
        model, pretrained.load(rounded_folder(folder_of("llama_tied"), convert)).model
    )
    # Not the quantization of something else, such as rows in another order.
    steps = {"Q8_0": 127, "Q5_0": 15, "Q4_1": 7, "Q4_0": 7}[kind]
    for ours, theirs in zip(model.weights, exact.weights, strict=True):
        error = np.abs(ours.numpy() - theirs.numpy()).max()
        assert error <= 1.01 * np.abs(theirs.numpy()).max() / steps


@pytest.mark.parametrize("kind", READABLE)
def test_every_type_is_dequantized_whole_and_in_parts(kind, tmp_path):
    block, size = gguf.GGML_QUANT_SIZES[Kind[kind]]
    row = 2 * max(block, 256)
    generator = np.random.default_rng(3)
    # Bytes that make no infinite scale in any of the types.
    stored = generator.integers(0, 60, (12, row // block * size), np.uint8)
    expected = gguf.quants.dequantize(stored, Kind[kind]) if block > 1 else None
    if block == 1:
        plain = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16}[kind]
        expected = stored.view(plain)
    assert np.isfinite(expected).all() and len(np.unique(expected)) > 2
    path = tmp_path / "one.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name in ("blk.0.ffn_up.weight", "blk.0.attn_q.weight"):
        writer.add_tensor(name, stored, raw_dtype=Kind[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    stored_tensors = read_header(path).tensors
    tensors = GGUFTensors(path, stored_tensors, {"blk.0.attn_q.weight": 6})
    assert tensors.tensors["blk.0.ffn_up.weight"].shape == (12, row)
    np.testing.assert_array_equal(tensors.read("blk.0.ffn_up.weight"), expected)
    np.testing.assert_array_equal(interleaved(tensors.read("blk.0.attn_q.weight"), 2), expected)
    for name in tensors.tensors:
        whole = tensors.read(name)
        for begin, end in ((0, 1), (3, 8), (5, 12), (11, 12)):
            np.testing.assert_array_equal(tensors.read(name, begin, end), whole[begin:end])


def test_an_output_projection_that_repeats_the_embedding_is_tied(tmp_path):
    folder = REFERENCES / "gpt2"
    embedding = gguf_tensors(folder)["token_embd.weight"]
    path = write_gguf(folder, tmp_path / "tied.gguf", tensors={"output.weight": embedding})
    assert pretrained.load(path).model.config.tied_embeddings
    path = write_gguf(folder, tmp_path / "other.gguf", tensors={"output.weight": embedding[::-1]})
    model = pretrained.load(path).model
    assert not model.config.tied_embeddings
    np.testing.assert_array_equal(model.output_kernel.numpy(), embedding[::-1])


@pytest.mark.parametrize(
    ("size", "theta", "numbers"),
    [
        (128, 500_000.0, (8.0, 1.0, 4.0, 8192)),  # Llama 3.1
        (64, 500_000.0, (32.0, 1.0, 4.0, 8192)),  # Llama 3.2
        (8, 500.0, (4.0, 1.0, 4.0, 14)),  # one frequency between the bounds
        (8, 1e6, (8.0, 1.0, 4.0, 8192)),  # none
        (64, 10_000.0, (16.0, 1.0, 2.5, 1000)),  # bounds of its own
        (64, 10_000.0, (16.0, 2.0, 8.0, 4096)),
    ],
)
def test_the_scaling_of_llama_3_is_read_back_from_its_factors(size, theta, numbers):
    from tests.pretrained.gguf_files import llama3_factors

    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    given = dict(zip(names, numbers, strict=True)) | {"rope_theta": theta}
    factors = llama3_factors({"head_dim": size}, given)
    found = llama3_scaling(factors, theta)
    again = llama3_factors({"head_dim": size}, found | {"rope_theta": theta})
    # The numbers are the given ones, or these times 2, and the factors rounded to float32.
    assert_within(again, factors, 2 * UNIT_ROUNDOFF["float32"] * factors)
    if numbers[1] == 1.0:  # elsewhere other numbers say the same
        assert found == {name: given[name] for name in names}


def test_factors_of_another_scaling_are_refused(tmp_path):
    for factors in ([1.0, 3.0, 2.0, 4.0], [1.0, 2.0, np.nan, 4.0], [0.5, 1.0, 1.0, 2.0]):
        path = write_gguf(
            REFERENCES / "llama3",
            tmp_path / "model.gguf",
            tensors={"rope_freqs.weight": np.array(factors)},
        )
        with pytest.raises(ConfigError, match=r"rope_freqs\.weight must hold factors of Llama 3"):
            pretrained.load(path)


REFUSED = {
    "general.architecture": ("phi3", "unknown general.architecture 'phi3'; supported: llama"),
    "general.type": ("adapter", "must contain a model; received general.type='adapter'"),
    "split.count": (3, "is one of the 3 files .* `llama-gguf-split --merge`"),
    "expert_count": (8, r"llama\.expert_count is only supported with the value 0; received 8"),
    "attention.scale": (0.5, r"llama\.attention\.scale is only supported with the value 0\.0"),
    "logit_scale": (4.0, r"only supported with the value 0\.0 or 1\.0; received 4\.0"),
    "attn_logit_softcapping": (
        50.0,
        r"llama\.attn_logit_softcapping is not supported; received 50",
    ),
    "some.new_key": (True, r"llama\.some\.new_key is not supported; received True"),
    "rope.scaling.type": ("yarn", r"rope\.scaling\.type must be none or linear; received 'yarn'"),
    "rope.dimension_count": (2, r"rope\.dimension_count must be the size of a head, 8; received 2"),
    "attention.value_length": (4, r"attention\.value_length must be the size of a head, 8"),
    "attention.head_count_kv": ([2, 1], r"must be the same in all blocks; received \[2, 1\]"),
    "embedding_length": (None, r"has no 'llama\.embedding_length', which a llama needs"),
    "attention.layer_norm_rms_epsilon": (-1.0, "norm_epsilon must be positive; received -1"),
    "block_count": ("2", "num_layers must not be text; received '2'"),
    "attention.head_count": (0, "num_heads must be at least 1; received 0"),
    "attention.sliding_window": ("7", "sliding_window must not be text"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_would_be_computed_otherwise_is_refused_by_name(key, tmp_path):
    value, message = REFUSED[key]
    path = write_gguf(REFERENCES / "llama_tied", tmp_path / "model.gguf", metadata={key: value})
    with pytest.raises(ConfigError, match=rf"model\.gguf.*{message}"):
        pretrained.load(path)


@pytest.mark.parametrize("name", ["qwen2_full", "smollm3"])
def test_a_window_of_an_architecture_that_has_none_is_refused(name, tmp_path):
    path = write_gguf(
        REFERENCES / name, tmp_path / "model.gguf", metadata={"attention.sliding_window": 8}
    )
    with pytest.raises(
        ConfigError, match=r"attention\.sliding_window is only supported with the val"
    ):
        pretrained.load(path)


def test_missing_extra_misshapen_and_unreadable_weights_are_named(tmp_path):
    folder, path = REFERENCES / "llama_tied", tmp_path / "model.gguf"
    key = "blk.1.ffn_up.weight"
    write_gguf(folder, path, tensors={key: None})
    with pytest.raises(ValueError, match=rf"model\.gguf lack weights of the model: {key}"):
        pretrained.load(path)
    write_gguf(folder, path, tensors={"blk.2.ffn_up.weight": np.zeros(32)})
    with pytest.raises(ValueError, match=r"model\.gguf does not have: blk\.2\.ffn_up"):
        pretrained.load(path)
    write_gguf(folder, path, tensors={key: np.zeros((48, 31))})
    with pytest.raises(ValueError, match=rf"{key} must have the shape \[48, 32\].*\[48, 31\]"):
        pretrained.load(path)
    write_gguf(folder, path, "Q8_0")
    data = bytearray(path.read_bytes())
    place = data.index(key.encode()) + len(key) + 4 + 2 * 8
    assert data[place] == Kind.Q8_0
    data[place] = Kind.I8
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{key} must be one of F64, F32, .*; received I8"):
        pretrained.load(path)
