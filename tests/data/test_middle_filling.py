"""Documents rearranged for infilling: nothing is lost, rates are as set, validation unchanged."""

import itertools
import json

import numpy as np
import pytest

from tfllm.config import ConfigError, PrepareConfig
from tfllm.data.preparing.middle_filling import MiddleFilling
from tfllm.data.shards.shard_files import token_dtype
from tfllm.tasks import prepare
from tfllm.tokenizers import BytePairTokenizer
from tfllm.tokenizers.fill_in_the_middle import END, SENTINELS, middle_tokens

LINES = "".join(f"line {i} of the text, 你好 naïve\n" for i in range(60))


@pytest.fixture(scope="module")
def tokenizer():
    return BytePairTokenizer.train([LINES], 300, special_tokens=(END, *SENTINELS))


def filling(tokenizer, **options):
    values = {"rate": 1.0, "suffix_first": 0.5, "most_chars": 200, **options}
    return MiddleFilling(middle_tokens(tokenizer), **values)


def put_back(ids, tokenizer):
    """The text of a part, and its form."""
    before, behind, middle = middle_tokens(tokenizer)
    if before not in ids:
        assert not {behind, middle} & set(ids)
        return tokenizer.decode(ids), "plain"
    assert ids[0] == before and [ids.count(mark) for mark in (before, behind, middle)] == [1, 1, 1]
    at, end = ids.index(behind), ids.index(middle)
    assert at < end
    # In the middle of a character nothing is cut, so each part is text.
    first, second, third = (
        tokenizer.decode(part) for part in (ids[1:at], ids[at + 1 : end], ids[end + 1 :])
    )
    assert "�" not in first + second + third
    if at == 1:  # suffix first; an empty prefix looks the same and is put back the same
        return third + second, "SPM"
    return first + third + second, "PSM"


def test_the_parts_put_back_are_the_document(tokenizer):
    f = filling(tokenizer, rate=0.5)
    forms = set()
    for hashed in range(40):
        parts = [put_back(ids, tokenizer) for ids in f.rows(LINES, hashed, tokenizer)]
        assert "".join(text for text, _ in parts) == LINES
        assert all(len(text) <= 200 for text, form in parts if form != "plain")
        kinds = [form for _, form in parts]
        assert ("plain", "plain") not in set(itertools.pairwise(kinds))
        forms |= set(kinds)
    assert forms == {"plain", "PSM", "SPM"}


@pytest.mark.parametrize("suffix_first", [0.0, 1.0])
def test_either_form_can_be_had_alone(tokenizer, suffix_first):
    f = filling(tokenizer, suffix_first=suffix_first)
    for hashed in range(20):
        for ids in f.rows(LINES, hashed, tokenizer):
            # PSM with an empty prefix also begins with two sentinels.
            assert (ids[1] == middle_tokens(tokenizer).suffix) or not suffix_first


def test_the_share_is_as_asked_and_cuts_are_even(tokenizer):
    f = filling(tokenizer, rate=0.3, suffix_first=0.0, most_chars=100)
    rearranged, total, lengths = 0, 0, []
    for hashed in range(200):
        for ids in f.rows(LINES, hashed, tokenizer):
            text, form = put_back(ids, tokenizer)
            total += len(text)
            if form != "plain":
                rearranged += len(text)
                middle = ids[ids.index(middle_tokens(tokenizer).middle) + 1 :]
                lengths.append(len(tokenizer.decode(middle)) / len(text))
    assert rearranged / total == pytest.approx(0.3, abs=0.03)
    assert np.mean(lengths) == pytest.approx(1 / 3, abs=0.03)  # of two even places


def test_text_that_spells_a_sentinel_is_text(tokenizer):
    text = f"a {SENTINELS[0]} b {END} c"
    (ids,) = filling(tokenizer).rows(text, 3, tokenizer)
    assert sum(i in tokenizer.special_tokens.values() for i in ids) == 3


# ------------------------------------------------------------------ prepared


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "code.jsonl"
    rows = [{"text": f"# module {i}\n" + LINES} for i in range(12)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def tokens(data, split):
    paths = sorted(data.folder.glob(f"{split}*.bin"))
    return np.concatenate([np.fromfile(path, token_dtype(data.vocab_size)) for path in paths])


def test_prepared_text_has_middles_in_training_alone(corpus, tmp_path):
    config = PrepareConfig(vocab_size=300, validation_fraction=0.2, fill_in_the_middle=0.5)
    data = prepare([corpus], tmp_path / "a", config, show_progress=False)
    marks = middle_tokens(data.tokenizer)
    counts = [int((tokens(data, "train") == mark).sum()) for mark in marks]
    assert counts[0] == counts[1] == counts[2] > 3
    assert not np.isin(tokens(data, "validation"), marks).any()
    assert data.tokenizer.settings["fill_suffix_first"] is True  # as its model is to be asked
    again = prepare(
        [corpus], tmp_path / "b", PrepareConfig(**{**vars(config), "num_processes": 2}),
        show_progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(tokens(again, "train"), tokens(data, "train"))
    other = prepare(
        [corpus], tmp_path / "c", PrepareConfig(**{**vars(config), "seed": 1}), show_progress=False
    )
    assert not np.array_equal(tokens(other, "train"), tokens(data, "train"))


def test_validation_files_are_left_as_they_are(corpus, tmp_path):
    held_out = tmp_path / "held_out.txt"
    held_out.write_text(LINES)
    config = PrepareConfig(
        vocab_size=300, validation=(str(held_out),), fill_in_the_middle=1.0, fill_chars=200
    )
    data = prepare([corpus], tmp_path / "a", config, show_progress=False)
    ids = tokens(data, "validation")
    assert data.tokenizer.decode(ids.tolist()) == LINES
    assert (tokens(data, "train") == middle_tokens(data.tokenizer).middle).sum() > 12


def test_a_tokenizer_without_sentinels_is_refused(corpus, tmp_path):
    plain = tmp_path / "plain"
    BytePairTokenizer.train([LINES], 280).save(plain)
    config = PrepareConfig(tokenizer=str(plain), fill_in_the_middle=0.5)
    with pytest.raises(ValueError, match="must have tokens that mark prefix, suffix and middle"):
        prepare([corpus], tmp_path / "a", config, show_progress=False)


@pytest.mark.parametrize(
    "values", [{"fill_in_the_middle": 1.5}, {"fill_suffix_first": -0.1}, {"fill_chars": 0}]
)
def test_shares_out_of_range_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        PrepareConfig(**values)


def test_examples_are_not_rearranged(tmp_path):
    config = PrepareConfig(fill_in_the_middle=0.5)
    with pytest.raises(ConfigError, match=r"task instruction are.*received fill_in_the_middle=0.5"):
        prepare([], tmp_path / "out", config, task="instruction")
