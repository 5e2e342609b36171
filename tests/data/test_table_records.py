"""Records from JSON lines, CSV, TSV and files of lines."""

import gzip
import io
import json

import pytest

from tfllm.config import ConfigError
from tfllm.data.reading.table_records import Column, read_table

COLUMNS = {
    "text": Column(aliases=("sentence", "review")),
    "second_text": Column(required=False),
    "label": Column(aliases=("category",), kind="label", is_input=False),
}


def read(path, **options):
    return read_table(path, COLUMNS, **options).records


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


ROWS = [
    {"text": "Hello, world", "label": "ham"},
    {"text": 'a "quoted"\ntext', "label": "spam"},
    {"text": "naïve 你好", "label": "1"},
]


def test_all_formats_give_the_same_records(tmp_path):
    jsonl = "".join(json.dumps({**row, "label": row["label"]}) + "\n\n" for row in ROWS)
    csv = 'text,label\n"Hello, world",ham\n"a ""quoted""\ntext",spam\nnaïve 你好, 1 \n'
    semicolons = csv.replace(",label", ";label").replace('",', '";').replace("好,", "好;")
    for name, content in {
        "a.jsonl": jsonl,
        "b.csv": csv,
        "c.csv": "\ufeff" + semicolons.replace("\n", "\r\n").replace('""\r\n', '""\n'),
        "d.json": json.dumps([{**row} for row in ROWS]),
        "e.csv.gz": gzip.compress(csv.encode()),
        "f.parquet": parquet(ROWS),
    }.items():
        found = read(write(tmp_path / name, content))
        assert [{"text": r["text"], "label": r["label"]} for r in found] == ROWS, name
        assert all(record["second_text"] is None for record in found)


def parquet(rows):
    import pyarrow
    import pyarrow.parquet

    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


def test_tsv_takes_quotes_as_they_stand(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"so" he said\tham\n\n"open\tspam\n')
    assert [r["text"] for r in read(path)] == ['"so" he said', '"open']
    assert [r.where for r in read(path)] == [f"{path}, line 2", f"{path}, line 4"]


def test_columns_are_found_by_alias_capitals_or_the_name_given(tmp_path):
    path = write(tmp_path / "a.csv", "Review,Category,Stars\ngood,x,5\n")
    assert dict(read(path)[0]) == {"text": "good", "second_text": None, "label": "x"}
    assert read(path, names={"label": "Stars"})[0]["label"] == "5"
    with pytest.raises(ConfigError, match="did you mean 'label'"):
        read(path, names={"lable": "Stars"})


def test_a_missing_column_lists_those_found(tmp_path):
    path = write(tmp_path / "a.csv", "body,label\nx,y\n")
    with pytest.raises(ValueError, match=r"a\.csv, line 2 has no column 'text'.*'body', 'label'"):
        read(path)
    assert read(path, names={"text": "body"})[0]["text"] == "x"
    path = write(tmp_path / "b.jsonl", '{"text": "x"}\n')
    with pytest.raises(ValueError, match="no column 'label'"):
        read(path)
    assert read(path, only_inputs=True)[0]["label"] is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text"\n', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", '{"text": 3, "label": 1}\n', "'text' must be a string; received a number"),
        ("a.jsonl", '{"text": "x", "label": [1]}\n', "'label' must be a string or a number"),
        ("a.jsonl", '{"text": "x", "label": null}\n', "'label' must be .* received null"),
        ("a.jsonl", '{"text": " ", "label": "b"}\n', "line 1: 'text' is empty"),
        ("a.jsonl", "[1]\n", "line 1 must be a JSON object; received a list"),
        (
            "a.csv",
            "text,label\nx,y\nx,y,z\n",
            r"line 3 must have 2 fields .* received 3",
        ),
        ("a.csv", 'text,label\nx,y\n"x,y\nz,z', "line 3 is not a valid CSV record"),
        ("a.tsv", "text\tlabel\nx\n", "line 2 must have 2 fields"),
        ("a.csv", "text,text\nx,y\n", "'text' occurs more than once"),
        (
            "a.csv",
            b"text,label\nx,caf\xe9\n",
            r"not UTF-8 text: the byte 0xe9 .line 2. .* 16",
        ),
        ("a.csv", "text,label\n", "there is no record in"),
        ("a.xlsx", "text,label\n", r"must end in \.jsonl"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / name, content))


def test_bad_records_can_be_skipped_and_are_counted(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\nx\n,y\nok,1\n"open,2\n')
    with pytest.warns(UserWarning, match=r"3 bad records were skipped \(.*line 2"):
        table = read_table(path, COLUMNS, skip_bad_records=True)
    assert [r["text"] for r in table.records] == ["ok"]
    assert len(table.notes) == 1


def test_folders_hold_tables(tmp_path):
    write(tmp_path / "b.csv", "text,label\nb,1\n")
    write(tmp_path / "a.jsonl", '{"text": "a", "label": true}\n')
    write(tmp_path / "notes.txt", "nothing")
    assert [(r["text"], r["label"]) for r in read(tmp_path)] == [("a", "true"), ("b", "1")]


def test_lines_side_by_side_must_be_equally_many(tmp_path):
    columns = {"source": Column(), "target": Column()}
    files = {
        "source": write(tmp_path / "a.en", "one\n\nthree\n"),
        "target": write(tmp_path / "a.de", "eins\n\ndrei\n"),
    }
    records = read_table(files, columns).records
    assert [dict(r) for r in records] == [
        {"source": "one", "target": "eins"},
        {"source": "three", "target": "drei"},
    ]
    # By other names that the task takes, and by one that was given.
    columns = {"text": Column(("source", "src")), "translation": Column(("target",))}
    wanted = [{"text": "one", "translation": "eins"}, {"text": "three", "translation": "drei"}]
    assert [dict(r) for r in read_table(files, columns).records] == wanted
    given = {"en": files["source"], "target": files["target"]}
    assert [dict(r) for r in read_table(given, columns, {"text": "en"}).records] == wanted
    with pytest.raises(ConfigError, match="unknown column 'en'"):
        read_table(given, columns)
    with pytest.raises(ValueError, match="no column 'translation'"):
        read_table({"source": files["source"]}, columns)
    columns = {"source": Column(), "target": Column()}
    write(tmp_path / "a.de", "eins\n\ndrei\nvier\n")
    with pytest.raises(
        ValueError, match=r"the same number of lines; received .*a\.en 3, .*a\.de 4"
    ):
        read_table(files, columns)


def test_json_columns_hold_anything(tmp_path):
    columns = {"text": Column(), "spans": Column(kind="json")}
    path = write(tmp_path / "a.tsv", 'text\tspans\nx\t[{"begin": 0}]\n')
    assert read_table(path, columns).records[0]["spans"] == [{"begin": 0}]
    with pytest.raises(ValueError, match=r"line 2: 'spans' must be JSON; received '\[' \("):
        read_table(write(tmp_path / "a.tsv", "text\tspans\nx\t[\n"), columns)
