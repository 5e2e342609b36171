"""Files in other encodings, and files that are skipped; both are named in the output."""

import gzip
import json

import pytest

from tests.data.documents import make_documents
from tfllm.config import ConfigError, PrepareConfig
from tfllm.tasks import prepare

SMALL = {"vocab_size": 300, "num_processes": 1, "validation_fraction": 0.1}
RUSSIAN = "Кошка сидит на коврике.\nСобака спит.\n\n" * 40


def run(source, out, **settings):
    return prepare(source, out, PrepareConfig(**SMALL, **settings), show_progress=False)


def everything(data):
    parts = [s.read(0, s.num_tokens).tolist() for s in (data.train, data.validation)]
    return "".join(data.tokenizer.decode(part, skip_special=True) for part in parts)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, text in enumerate(make_documents(20, seed=1)):
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    return folder


def test_what_is_left_out_of_a_folder_is_counted_and_named(folder, tmp_path):
    (folder / "photo.jpg").write_bytes(b"\0\1")
    (folder / "table.xls").write_bytes(b"\0\1")
    (folder / ".hidden.txt").write_text("hidden")
    (folder / ".git").mkdir()
    (folder / ".git" / "config.txt").write_text("hidden")
    (folder / "empty.txt").write_text("")
    with pytest.warns(UserWarning, match=r"1 of 21 files contain no text"):
        data = run(folder, tmp_path / "out")
    notes = "\n".join(data.manifest["notes"])
    assert "2 files that do not end in .txt" in notes and "photo.jpg" in notes
    assert "1 hidden files" in notes and ".hidden.txt" in notes
    assert "1 hidden folders" in notes and ".git" in notes
    assert "empty.txt" in notes
    assert "photo.jpg" in data.describe()


def test_a_file_in_another_encoding_is_named_with_the_place(folder, tmp_path):
    (folder / "old.txt").write_bytes("abc Ж".encode("cp1251"))
    with pytest.raises(ValueError, match=r"old\.txt is not UTF-8.*byte 4.*set encoding.*latin-1"):
        run(folder, tmp_path / "out")


def test_such_a_file_is_skipped_whole_and_counted(folder, tmp_path):
    # Text up to its last byte, behind what is a document of its own already.
    (folder / "old.txt").write_bytes(("plain words\n" * 40_000).encode() + b"\xc6")
    (folder / "broken.txt.gz").write_bytes(gzip.compress(b"words " * 100)[:-9])
    with pytest.warns(UserWarning, match=r"2 files were skipped \(.*broken.*old\.txt\)"):
        data = run(folder, tmp_path / "out", skip_bad_records=True)
    assert "plain words" not in everything(data)
    assert [source["num_documents"] for source in data.manifest["sources"]].count(0) == 2
    assert any("2 files were skipped" in note for note in data.manifest["notes"])


@pytest.mark.parametrize("encoding", ["cp1251", "utf-16", "utf-16-le", "koi8-r", "utf-8"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl"])
def test_the_encoding_that_is_set_is_read(encoding, name, tmp_path):
    text = RUSSIAN
    if name == "a.jsonl":
        lines = [json.dumps({"text": line}, ensure_ascii=False) for line in RUSSIAN.split("\n\n")]
        text = "\n".join(lines)
    content = text.encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    data = run(path, tmp_path / "out", encoding=encoding)
    assert everything(data).count("Кошка сидит на коврике.") == 40


def test_what_is_not_in_the_encoding_that_is_set_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc\x98def")  # not a character of cp1251
    with pytest.raises(ValueError, match=r"a\.txt is not cp1251 text .* at byte 3"):
        run(tmp_path / "a.txt", tmp_path / "out", encoding="cp1251")


@pytest.mark.parametrize("encoding", ["utf8x", "", "base64", "rot13"])
def test_what_is_no_encoding_is_refused(encoding):
    with pytest.raises(ConfigError, match="encoding must be one that Python knows"):
        PrepareConfig(encoding=encoding)
