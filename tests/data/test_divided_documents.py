"""A document that is too large to be held out for validation as a whole is divided."""

import random

import pytest

from tests.data.documents import make_documents
from tests.rounding import in_double
from tfllm.config import PrepareConfig
from tfllm.data.preparing.splitting import CorpusCensus, divided
from tfllm.tasks import prepare


def paragraphs(num, seed=0, mark="\n\n"):
    """Each one of its own, so that a text tells where each of them went."""
    draw = random.Random(seed)
    return mark.join(
        f"{i} " + " ".join(draw.choices(["cat", "dog", "tree", "猫"], k=draw.randint(20, 60))) + "."
        for i in range(num)
    )


def run(source, out, **settings):
    config = PrepareConfig(vocab_size=300, num_processes=1, **settings)
    return prepare(source, out, config, show_progress=False)


def decoded(data, split):
    rows = getattr(data, split)
    text = data.tokenizer.decode(rows.read(0, rows.num_tokens).tolist(), skip_special=False)
    return [part for part in text.split(data.manifest["end_token"]) if part]


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("mark", ["\n\n", "\n", " "])
def test_one_file_gives_about_the_fraction(fraction, mark, tmp_path):
    text = paragraphs(150, mark=mark)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    data = run(tmp_path / "a.txt", tmp_path / "out", validation_fraction=fraction)
    share = data.validation.num_bytes / len(text.encode())
    assert fraction / 2 <= share <= 2 * fraction
    assert data.train.num_bytes + data.validation.num_bytes == len(text.encode())
    kept, trained = decoded(data, "validation"), decoded(data, "train")
    numbers = [
        {w for part in parts for w in part.split() if w.isdigit()} for parts in (kept, trained)
    ]
    assert not numbers[0] & numbers[1] and len(numbers[0] | numbers[1]) == 150
    if fraction < 0.1:
        assert "divided" in data.manifest["notes"][0]


def test_the_part_does_not_depend_on_what_else_is_run(tmp_path):
    (tmp_path / "a.txt").write_text(paragraphs(100), encoding="utf-8")
    first, again = (run(tmp_path / "a.txt", tmp_path / f"out{i}") for i in range(2))
    assert decoded(first, "validation") == decoded(again, "validation")
    other = run(tmp_path / "a.txt", tmp_path / "other", seed=1)
    assert decoded(other, "validation") != decoded(first, "validation")


def test_copies_are_divided_alike(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(paragraphs(40), encoding="utf-8")
    data = run([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "out", validation_fraction=0.1)
    one, other = decoded(data, "validation")
    assert one == other
    assert one not in "".join(decoded(data, "train"))
    assert "2 documents were divided" in data.manifest["notes"][0]


def test_small_documents_stay_whole(tmp_path):
    texts = make_documents(60, seed=3)
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text, encoding="utf-8")
    data = run(tmp_path, tmp_path / "out", validation_fraction=0.1)
    assert sorted(decoded(data, "train") + decoded(data, "validation")) == sorted(texts)


def test_the_parts_are_the_text():
    text = paragraphs(30)
    for share in (0.02, 0.2, 0.7):
        before, part, behind = divided(text, share, 12345)
        assert before + part + behind == text
        assert share / 2 * len(text) <= len(part) <= 2 * share * len(text)
        assert before[-2:] in ("", "\n\n") and (part[-2:] == "\n\n" or not behind)
    assert divided("one sentence " * 40, 0.1, 5) is None


def test_the_boundary_is_where_whole_documents_are_too_many():
    census = CorpusCensus()
    for hashed, num_bytes in ((1 << 50, 10), (1 << 60, 500), (1 << 62, 490)):
        census.add(hashed, num_bytes)
    assert census.boundary(0.3) is None  # the first two: 51 %
    boundary = census.boundary(0.1)
    assert [boundary.divides(hashed) for hashed in (1 << 50, 1 << 60, 1 << 62)] == [0, 1, 0]
    assert boundary.share == in_double((100 - 10) / 500)
    assert census.boundary(0.01) is None  # the first one alone
    assert census.boundary(0) is None
