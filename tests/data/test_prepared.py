import collections
import json
import math
import shutil

import numpy as np
import pytest

from tests.rounding import in_double
from tfllm.config import PrepareConfig
from tfllm.data import PreparedData, rows_dataset
from tfllm.tasks import prepare


@pytest.fixture
def copied(prepared, tmp_path):
    return shutil.copytree(prepared.folder, tmp_path / "copy")


def test_unigram_perplexity_equals_its_definition(prepared):
    train, validation = (
        [t for d in split.documents() for t in [*d.tolist(), prepared.end_token_id]]
        for split in (prepared.train, prepared.validation)
    )
    counts = collections.Counter(train)
    total = len(train) + prepared.vocab_size
    loss = -sum(math.log((counts[t] + 1) / total) for t in validation) / len(validation)
    found = prepared.unigram_perplexity()
    assert found == in_double(math.exp(loss), len(validation), enlarged=loss)


def test_documents_are_found_again_across_chunks_and_shards(prepared, monkeypatch):
    expected = [d.tolist() for d in prepared.train.documents()]
    assert len(expected) == prepared.train.num_documents
    chunks = type(prepared.train).chunks
    monkeypatch.setattr(type(prepared.train), "chunks", lambda self: chunks(self, 7))
    assert [d.tolist() for d in prepared.train.documents()] == expected


def test_a_read_may_start_and_end_anywhere(prepared):
    tokens = np.concatenate(list(prepared.train.chunks()))
    assert len(tokens) == prepared.train.num_tokens == len(prepared.train)
    for start, stop in [(0, 1), (699, 701), (700, 1400), (1399, 2101), (len(tokens) - 2, 10**9)]:
        assert prepared.train.read(start, stop).tolist() == tokens[start:stop].tolist()
    assert prepared.train.read(len(tokens), len(tokens) + 5).tolist() == []


def test_a_whole_folder_opens_verifies_and_describes_itself(copied):
    data = PreparedData.open(copied)
    data.verify()
    assert "train" in data.describe() and "validation" in data.describe()
    assert data.tokenizer.vocab_size == data.vocab_size


def test_a_shard_cut_short_is_named(copied):
    path = copied / "train-00001.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"train-00001\.bin must have 1400 bytes and has 1398"):
        PreparedData.open(copied)


@pytest.mark.parametrize("name", ["train-00001.bin", "tokenizer.json"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is listed in manifest\.json"):
        PreparedData.open(copied)


@pytest.mark.parametrize("name", ["validation-00000.bin", "tokenizer.json"])
def test_a_changed_byte_is_found_by_verify(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[10] ^= 1
    (copied / name).write_bytes(content)
    data = PreparedData.open(copied)
    with pytest.raises(ValueError, match=rf"{name} was changed after it was written"):
        data.verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "its format must be 'tfllm-tokens'"),
        ({"format_version": 99}, "format version 99, but this version of tfllm reads 1"),
        ({"splits": {}}, "is damaged"),
        ({"dtype": "float16"}, "is damaged.*uint16 or uint32; received 'float16'"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copied, change, message):
    path = copied / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        PreparedData.open(copied)


def test_no_manifest_or_half_a_manifest_is_refused(copied, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder of prepared text"):
        PreparedData.open(tmp_path)
    path = copied / "manifest.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        PreparedData.open(copied)


def test_without_a_validation_split_both_uses_of_it_say_so(tmp_path):
    (tmp_path / "a.txt").write_text("only one document " * 50)
    config = PrepareConfig(vocab_size=270, num_processes=1)
    data = prepare(tmp_path, tmp_path / "out", config, show_progress=False)
    assert data.validation.num_tokens == 0
    assert "single document" in data.manifest["notes"][0]
    assert "single document" in data.describe()
    for use in (
        data.unigram_perplexity,
        lambda: rows_dataset(data, "validation", sequence_length=8, batch_size=1),
    ):
        with pytest.raises(ValueError, match="validation_fraction above 0"):
            use()
