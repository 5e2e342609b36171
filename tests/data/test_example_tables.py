"""Tables are read as examples or as text by their columns; other tables are refused."""

import csv
import json
import sys

import pytest

from tests.data.chat_examples import assistant, by_hand, sequences, user
from tests.data.prepared_once import prepared
from tfllm.config import ConfigError, PrepareConfig
from tfllm.data import PreferenceData
from tfllm.data.reading.table_files import table_rows

PAIRS = [("a cat, ran", 'sat "on"\na mat'), ("Where?", "a dog"), ("Why?", "so it is")]
SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")


def write(path, rows):
    """Records in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
        return path
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path
    cells = [
        {k: v if isinstance(v, str) else "" if v is None else json.dumps(v) for k, v in row.items()}
        for row in rows
    ]
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(cells)
        else:
            lines = [list(rows[0]), *(row.values() for row in cells)]
            file.write("".join("\t".join(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("names", [("prompt", "completion"), ("Question", "Answer")])
def test_a_table_with_columns_of_examples_is_examples(run, tmp_path, chat, suffix, names):
    pairs = [(a.replace("\n", " "), b.replace("\n", " ")) for a, b in PAIRS]
    pairs = PAIRS if suffix != ".tsv" else pairs
    source = write(tmp_path / f"a{suffix}", [dict(zip(names, p, strict=True)) for p in pairs])
    data = run(source, validation_fraction=0)
    assert data.records == "examples"
    assert list(sequences(data, "train")) == [
        by_hand(chat, [user(p), assistant(r)]) for p, r in pairs
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_columns_are_named_as_for_tasks(run, tmp_path, chat, suffix):
    rows = [{"frage": p.strip("\n"), "antwort": "a dog", "extra": "x"} for p, _ in PAIRS]
    source = write(tmp_path / f"a{suffix}", rows)
    data = run(source, columns={"prompt": "frage", "response": "antwort"}, validation_fraction=0)
    assert list(sequences(data, "train")) == [
        by_hand(chat, [user(row["frage"]), assistant("a dog")]) for row in rows
    ]
    assert "keys of records that were ignored: 'extra' (3)" in data.describe()
    assert data.manifest["unused_keys"] == {"extra": 3}
    with pytest.raises(ConfigError, match="unknown column 'promt'; did you mean 'prompt'"):
        run(source, "b", columns={"promt": "frage"})
    with pytest.raises(ValueError, match=r"(line|row) \d has no key 'anwort', which columns gives"):
        run(source, "c", columns={"prompt": "frage", "response": "anwort"})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cells_hold_messages_and_empty_cells_say_nothing(run, tmp_path, chat, suffix):
    messages = [user("a cat"), assistant("sat")]
    rows = [
        {"messages": messages, "prompt": None, "response": None, "label": None, "id": 1},
        {"messages": None, "prompt": "a", "response": "b", "label": True, "id": 2},
        {"messages": None, "prompt": "bad", "response": "bad", "label": False, "id": 3},
    ]
    with pytest.warns(UserWarning, match=r"^1 record is marked as not to be learned .*(line|row) "):
        data = run(write(tmp_path / f"a{suffix}", rows), validation_fraction=0)
    expected = [by_hand(chat, messages), by_hand(chat, [user("a"), assistant("b")])]
    assert list(sequences(data, "train")) == expected
    assert data.manifest["unused_keys"] == {"id": 2} and data.manifest["num_left_out"] == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tables_hold_preferences_and_texts(run, tmp_path, suffix):
    rows = [{"instruction": f"a cat {i}", "chosen": "a", "rejected": "b"} for i in range(3)]
    data = run(write(tmp_path / f"a{suffix}", rows))
    assert isinstance(data, PreferenceData)
    rows = [{"text": f"a cat sat on a mat, {i}", "url": "x"} for i in range(3)]
    data = run(write(tmp_path / f"b{suffix}", rows), "b", validation_fraction=0)
    assert data.records == "text"
    found = [data.tokenizer.decode(ids.tolist()) for ids in data.train.documents()]
    assert found == [row["text"] for row in rows]
    rows = [{"body": row["text"]} for row in rows]
    source = write(tmp_path / f"c{suffix}", rows)
    for i, how in enumerate(({"text_field": "body"}, {"columns": {"text": "body"}})):
        again = run(source, f"c{i}", validation_fraction=0, **how)
        assert [data.tokenizer.decode(ids.tolist()) for ids in again.train.documents()] == found


@pytest.mark.parametrize("suffix", SUFFIXES[:3])
def test_a_table_of_other_columns_is_refused_or_left_out_of_a_folder(run, tmp_path, suffix):
    other = write(tmp_path / "in" / f"a{suffix}", [{"height": "5", "width": "6"}] * 3)
    for source in (other, tmp_path / "in", str(tmp_path / "in" / "*")):
        with pytest.raises(ValueError, match=r"a\.\w+ is a table .*'height', 'width'.*--columns"):
            run(source)
    for i in range(3):
        (tmp_path / "in" / f"{i}.txt").write_text(f"a cat sat on a mat {i}")
    with pytest.warns(UserWarning, match=rf"^1 table without a column .* left out: .*a\{suffix}$"):
        data = run(tmp_path / "in")
    assert data.records == "text" and data.train.num_documents == 2
    assert "1 table without a column of text" in data.describe()
    write(tmp_path / "in" / f"b{suffix}", [{"prompt": "a", "response": "b"}])
    with (
        pytest.warns(UserWarning, match="1 table without"),
        pytest.raises(ConfigError, match=r"examples are JSON lines .* or tables .*0\.txt is not"),
    ):
        run(tmp_path / "in", "b")


def test_a_folder_with_tables_is_opened_again(tmp_path, chat_folder):
    config = PrepareConfig(tokenizer=str(chat_folder), num_processes=1)
    write(tmp_path / "in" / "a.csv", [{"height": "5"}])
    write(tmp_path / "in" / "b.csv", [{"prompt": f"a{i}", "response": "b"} for i in range(3)])
    with pytest.warns(UserWarning, match="1 table without"):
        first = prepared(tmp_path / "in", tmp_path / "out", config, show_progress=False)
    again = prepared(tmp_path / "in", tmp_path / "out", config)
    assert again.manifest == first.manifest and first.records == "examples"


def test_structs_of_parquet_have_no_fields_that_are_null(run, tmp_path):
    """One schema for all rows: what a row has not is null there, in messages and below."""
    rows = [
        {"messages": [{**user("a"), "x": None, "parts": {"b": 1, "c": None}}, assistant("b")]},
        {"messages": [user("c"), {**assistant("d"), "weight": 1}]},
    ]
    path = write(tmp_path / "a.parquet", rows)
    found = list(table_rows(path, lambda error: None))
    assert [where for where, _ in found] == [f"{path}, row 1", f"{path}, row 2"]
    assert found[0][1]["messages"] == [{**user("a"), "parts": {"b": 1}}, assistant("b")]
    assert found[1][1]["messages"] == [user("c"), {**assistant("d"), "weight": 1}]
    assert run(path, validation_fraction=0).train.num_documents == 2


def test_parquet_without_pyarrow_names_the_extra(run, tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", [{"prompt": "a", "response": "b"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"a\.parquet is Parquet.*pip install 'tfllm\[parquet\]'"):
        run(path)


def test_a_damaged_parquet_file_is_named(run, tmp_path):
    path = write(tmp_path / "a.parquet", [{"prompt": "a", "response": "b"}] * 50)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.parquet is not a complete Parquet file"):
        run(path)
    path.write_text("prompt,response\na,b\n")
    with pytest.raises(ValueError, match=r"a\.parquet is not a complete Parquet file"):
        run(path)


@pytest.mark.parametrize("suffix", SUFFIXES[:3])
def test_the_command_line_names_columns(tmp_path, chat_folder, capsys, suffix):
    from tfllm.cli import main

    rows = [{"q": f"a cat {i}", "a": "sat", "answer": "no", "label": "x"} for i in range(6)]
    source = write(tmp_path / f"a{suffix}", rows)
    command = ["prepare", str(source), "--out", str(tmp_path / "out")]
    command += ["--tokenizer", str(chat_folder), "--columns", "prompt=q", "response=a"]
    assert main(command) == 1
    assert "'label' of an example must be true or false" in capsys.readouterr().err
    assert main([*command, "--ignore-keys", "label"]) == 0
    printed = capsys.readouterr().out
    assert "ignored: 'answer' (6), 'label' (6)" in printed
