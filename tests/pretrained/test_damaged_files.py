"""Truncated, damaged or malicious files are refused by name, without using much memory."""

import json
import struct
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.pretrained.conftest import REFERENCES
from tests.pretrained.gguf_files import folder_tensors, write_gguf
from tfllm import pretrained
from tfllm.pretrained.gguf.header import read_header
from tfllm.pretrained.gguf.model import GGUFModel
from tfllm.pretrained.hugging_face.tensor_files import INDEX

SMALL = 20_000_000  # bytes; nothing here needs as much


@pytest.fixture
def no_memory_spent():
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < SMALL


# ------------------------------------------------------------------ safetensors


def rewrite(path, change):
    """Change the header of a safetensors file; its tensors stay as they are."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


NORM, OTHER = "model.norm.weight", "model.layers.0.input_layernorm.weight"


def offsets(begin, end):
    return lambda header: header[NORM].update(data_offsets=[begin, end])


def overlapping(header):
    header[NORM]["data_offsets"] = header[OTHER]["data_offsets"]


def renamed(dtype):
    return lambda header: header[NORM].update(dtype=dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (offsets(0, 10**15), "damaged or cut short"),
        (offsets(-4, 124), "damaged or cut short"),
        (offsets(128, 0), "damaged or cut short"),
        (overlapping, "damaged or cut short"),
        (lambda header: header[NORM].update(shape=[31]), "damaged or cut short"),
        (lambda header: header[NORM].update(shape=[2**62, 4]), "damaged or cut short"),
        (lambda header: header[NORM].update(shape="32"), "damaged or cut short"),
        (lambda header: header.pop(NORM), "damaged or cut short"),  # bytes of no tensor
        (renamed("F4X2"), "damaged or cut short .*F4X2"),
        (renamed("I32"), f"{NORM} must be one of F64, F32, F16, BF16; received I32"),
        (renamed("U32"), f"{NORM} must be one of F64, F32, F16, BF16; received U32"),
    ],
)
@pytest.mark.usefixtures("no_memory_spent")
def test_a_header_that_contradicts_the_file_is_refused(folder_of, change, message):
    path = folder_of("llama_tied") / "model.safetensors"
    rewrite(path, change)
    with pytest.raises(ValueError, match=rf"model\.safetensors.*{message}"):
        pretrained.load(path.parent)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I8", "U8"])
def test_a_dtype_of_one_byte_is_refused_by_name(folder_of, dtype):
    folder = folder_of("llama_tied")
    tensors = folder_tensors(folder)
    save_file(tensors | {NORM: np.ones(32, np.int8)}, folder / "model.safetensors")
    rewrite(folder / "model.safetensors", renamed(dtype))
    with pytest.raises(ValueError, match=f"must be one of F64, F32, F16, BF16; received {dtype}"):
        pretrained.load(folder)


@pytest.mark.parametrize("length", [2**40, 2**63, 2**64 - 1, 10**8, 2, 0])
@pytest.mark.usefixtures("no_memory_spent")
def test_a_header_of_absurd_length_is_refused(folder_of, length):
    path = folder_of("llama_tied") / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut short"):
        pretrained.load(path.parent)


# ------------------------------------------------------------------ several files


def change_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_a_shard_that_is_not_there_is_named(folder_of):
    folder = folder_of("llama_sharded")
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model-00002-of-00003\.safetensors"):
        pretrained.load(folder)


def test_an_index_that_contradicts_its_shards_is_refused(folder_of, tmp_path):
    folder = folder_of("llama_sharded")
    index = (folder / INDEX).read_text()
    change_index(folder, lambda names: names.update({NORM: "model-00001-of-00003.safetensors"}))
    with pytest.raises(ValueError, match=rf"index\.json says that {NORM} is in model-00001"):
        pretrained.load(folder)
    (folder / INDEX).write_text(index)
    change_index(folder, lambda names: names.update(ghost="model-00001-of-00003.safetensors"))
    with pytest.raises(ValueError, match=r"ghost is in model-00001.*; it is in no file"):
        pretrained.load(folder)
    (folder / INDEX).write_text(index)
    change_index(folder, lambda names: names.pop(NORM))
    with pytest.raises(ValueError, match=rf"contains {NORM}, which model.*index\.json does"):
        pretrained.load(folder)
    (folder / INDEX).write_text(index)
    first = folder_tensors(folder)
    save_file({NORM: first[NORM]}, folder / "more.safetensors")
    change_index(folder, lambda names: names.update(another="more.safetensors"))
    with pytest.raises(ValueError, match=rf"{NORM} must be in one file only; it is in"):
        pretrained.load(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/hosts", "..", "sub/x.safetensors"])
def test_an_index_cannot_lead_out_of_the_folder(folder_of, tmp_path, name):
    folder = folder_of("llama_sharded")
    save_file({NORM: np.ones(32, np.float32)}, tmp_path / "model.safetensors")
    change_index(folder, lambda names: names.update({NORM: name}))
    with pytest.raises(
        ValueError, match=r"index\.json must name files in its own folder; received"
    ):
        pretrained.load(folder)


@pytest.mark.parametrize("text", ["{}", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "{"])
def test_a_damaged_index_is_named(folder_of, text):
    folder = folder_of("llama_sharded")
    (folder / INDEX).write_text(text)
    with pytest.raises(ValueError, match=r"index\.json is damaged or cut short"):
        pretrained.load(folder)


# ------------------------------------------------------------------ config.json


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "32"}, "embedding_dim must not be text; received '32'"),
        ({"num_hidden_layers": 2.5}, "num_layers"),
        ({"num_hidden_layers": -1}, "num_layers must be at least 1; received -1"),
        ({"vocab_size": [96]}, "vocab_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"num_attention_heads": None}, "num_attention_heads"),
        ({"rms_norm_eps": "1e-5"}, "norm_epsilon must not be text"),
        ({"tie_word_embeddings": "yes"}, "tied_embeddings must not be text"),
        ({"hidden_act": 3}, "hidden_act"),
        ({"model_type": None}, "unknown model_type None"),
        ({"hidden_act": ["silu"]}, "hidden_act"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"rope_parameters": [1]}, "rope_parameters must be a JSON object"),
        ({"rope_theta": "big", "rope_parameters": None}, "rope_theta"),
    ],
)
def test_values_of_another_type_are_refused_by_name(folder_of, change, message):
    with pytest.raises(ValueError, match=message) as error:
        pretrained.load(folder_of("llama_tied", **change))
    assert "config.json" in str(error.value)


# ------------------------------------------------------------------ GGUF


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    words = {"tokenizer.ggml.tokens": ["a", "bc", "é"], "tokenizer.ggml.scores": [0.5, 1.5, 2.5]}
    write_gguf(REFERENCES / "llama3", path, "F16", metadata=words)
    return path.read_bytes()


@pytest.fixture
def written(tmp_path):
    def write(data):
        (tmp_path / "model.gguf").write_bytes(data)
        return tmp_path / "model.gguf"

    return write


def test_the_file_is_good(good, written):
    header = read_header(written(good))
    assert header.metadata["tokenizer.ggml.tokens"] == ["a", "bc", "é"]
    assert header.metadata["tokenizer.ggml.scores"] == [0.5, 1.5, 2.5]
    last = list(header.tensors.values())[-1]
    assert last.offset + last.num_bytes <= len(good)
    pretrained.load(written(good))


@pytest.mark.usefixtures("no_memory_spent")
def test_a_file_cut_short_anywhere_is_refused(good, written):
    header = read_header(written(good))
    end = max(tensor.offset + tensor.num_bytes for tensor in header.tensors.values())
    start = min(tensor.offset for tensor in header.tensors.values())
    for length in {*range(0, start, 37), *range(start, end, 5003), end - 1, 3, 7, 23, 24}:
        message = "is not a GGUF file" if length < 4 else "is damaged or cut short"
        with pytest.raises(ValueError, match=rf"model\.gguf {message}"):
            GGUFModel(written(good[:length]))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"GGML\3\0\0\0", "is not a GGUF file: its first bytes must be b'GGUF'; received b'GGML'"),
        (b"PK\3\4\0\0\0\0", "is not a GGUF file"),
        (b"GGUF\1\0\0\0", "version of a GGUF file must be one of 2, 3; received 1. Convert"),
        (b"GGUF\4\0\0\0", "version of a GGUF file must be one of 2, 3; received 4"),
        (b"GGUF\0\0\0\3", "was written for big-endian machines; convert it with"),
    ],
)
def test_another_magic_version_or_byte_order_is_refused(good, written, start, message):
    with pytest.raises(ValueError, match=rf"model\.gguf.*{message}"):
        pretrained.load(written(start + good[len(start) :]))
    with pytest.raises(ValueError, match=rf"model\.gguf.*{message}"):
        pretrained.load_tokenizer(written(start + good[len(start) :]))


def replaced(data, place, value, kind="<Q"):
    new = struct.pack(kind, value)
    return data[:place] + new + data[place + len(new) :]


def place_of_tensor(data, name):
    """Where the number of dimensions stands."""
    return data.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)


@pytest.mark.parametrize("count", [2**64 - 1, 2**40, 10**6])
@pytest.mark.usefixtures("no_memory_spent")
def test_absurd_counts_and_lengths_are_refused(good, written, count):
    tokens = good.index(b"tokenizer.ggml.tokens") + 21
    scores = good.index(b"tokenizer.ggml.scores") + 21
    key = good.index(b"general.architecture") - 8
    for place in (8, 16, key, tokens + 8, tokens + 16, scores + 8, key + 8 + 20 + 4):
        with pytest.raises(ValueError, match=r"model\.gguf is damaged or cut short .*announced"):
            GGUFModel(written(replaced(good, place, count)))


def test_tensors_outside_the_file_or_over_one_another_are_refused(good, written):
    place = place_of_tensor(good, "output_norm.weight") + 4 + 8 + 4  # the offset
    offset = struct.unpack_from("<Q", good, place)[0]
    for value, message in [
        (2**63, "is said to end at byte"),
        (2**64 - 32, "is said to end at byte"),
        (offset + 1, "which is not aligned"),
        (0, "overlap"),
    ]:
        with pytest.raises(ValueError, match=rf"damaged or cut short.*{message}"):
            GGUFModel(written(replaced(good, place, value)))


def test_shapes_that_no_tensor_has_are_refused(good, written):
    place = place_of_tensor(good, "output_norm.weight")
    for at, value, kind, message in [
        (place, 0, "<I", "has 0 dimensions"),
        (place, 9, "<I", "has 9 dimensions"),
        (place + 4, 0, "<Q", r"has the shape \[0\]"),
        (place + 4, 2**62, "<Q", "is said to end at byte"),
    ]:
        with pytest.raises(ValueError, match=rf"damaged or cut short.*{message}"):
            GGUFModel(written(replaced(good, at, value, kind)))
    with pytest.raises(ValueError, match=r"output_norm\.weight must be one of .*received type 99"):
        pretrained.load(written(replaced(good, place + 12, 99, "<I")))


def test_whatever_byte_is_damaged_the_header_is_read_or_refused(good, written):
    """No other error than one that names the file, and no memory for what is not there."""
    generator = np.random.default_rng(0)
    start = min(tensor.offset for tensor in read_header(written(good)).tensors.values())
    refused = 0
    for place in generator.choice(start, 400, replace=False):
        data = bytearray(good)
        data[place] ^= int(generator.integers(1, 256))
        try:
            GGUFModel(written(data))
        except ValueError as error:
            refused += 1
            assert "model.gguf" in str(error)
    assert 50 < refused < 400
