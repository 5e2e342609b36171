import gzip
import io
import json
from pathlib import Path

import pytest

from tfllm.data.reading.json_records import BadRecord, BadRecords, json_records
from tfllm.data.reading.sources import documents, find_files, records


def read(content, name="a.json", on_bad=None):
    content = content if isinstance(content, bytes) else content.encode()
    stream = io.BufferedReader(io.BytesIO(content))
    return list(json_records(stream, Path(name), on_bad or BadRecords(False)))


VALUES = [
    {"text": "one ünï 猫"},
    {"nested": [{"a": [1, 2]}, "]", '"'], "x": None},
    {"text": "line\nend"},
    {},
    12,
    "words",
    [1, [2]],
    True,
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 18])
@pytest.mark.parametrize("before", ["", "\ufeff", " \n\r\n\t"])
def test_an_array_gives_the_same_records_as_the_whole_file(monkeypatch, indent, chunk, before):
    monkeypatch.setattr("tfllm.data.reading.json_records.CHUNK_BYTES", chunk)
    text = before + json.dumps(VALUES, indent=indent, ensure_ascii=False) + "\n"
    assert [record.value for record in read(text)] == VALUES
    assert read(before + "[]") == [] and read(before + " [ ] ") == []


def test_records_of_an_array_are_placed_by_number_and_line():
    text = '[\n  {"a": 1},\n  {\n    "a": 2\n  },\n  {"a": 3}\n]\n'
    assert [record.where for record in read(text)] == [
        "a.json, record 1 (line 2)",
        "a.json, record 2 (line 3)",
        "a.json, record 3 (line 6)",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a": ]', r"record 2 \(line 1\) is not JSON: .*line 1, column 18 "),
        ('[\n{"a": 1},\n{"a": 2', r"record 2 \(line 3\) .*line 3, column 8 .*nothing after it"),
        (
            '[{"a": 1}',
            r"after record 1 is .*',' or '\]' must .* the file ends there: line 1, column 10",
        ),
        ('[{"a": 1} {"a": 2}]', r"record 1 .*'\{' follows: line 1, column 11 \(character 10"),
        (
            '[\n{"a": 1},\n\n{"a": 2}\n x]',
            r"record 2 .*'x' follows: line 5, column 2",
        ),
        ('[{"a": 1},]', r"record 2 .*is not JSON.*line 1, column 11 "),
        ('[{"a": 1},\n{"b":\n "x" 1}]', r"record 2 \(line 2\).*line 3, column 6 \(character 22\)"),
        ('[{"a": 1},\n{"b":\n "x}]', r"record 2 .*Unterminated string.*line 3, column 2 "),
        ('[{"a": 1}]\n{"a": 2}', r"line 2, column 1 .* text follows the end of the array, a"),
        ("[" * 50_000, r"record 1 .*is not JSON: it is nested too deeply"),
        (b'[{"a": "\xff"}]', r"a\.json is not UTF-8 text: the byte 0xff .*is at byte 8"),
        (b'[{},\n{"a": "\xe7\x8c', r"the byte 0xe7 \(line 2, in or after record 2\).* at byte 12"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 1 << 18])
def test_a_broken_array_is_an_error_with_its_place(monkeypatch, text, message, chunk):
    monkeypatch.setattr("tfllm.data.reading.json_records.CHUNK_BYTES", chunk)
    for on_bad in (BadRecords(False), BadRecords(True)):  # nothing after it can be found
        with pytest.raises(ValueError, match=message):
            read(text, on_bad=on_bad)


def test_only_a_few_records_of_an_array_are_held(monkeypatch, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "words " * 20}] * 20_000))
    (file,) = find_files(path)
    progress = []
    next(iter(records(file, on_read=progress.append)))
    assert sum(progress) < 600_000 < file.num_bytes
    assert sum(1 for _ in records(file)) == 20_000


def test_an_array_is_for_files_named_json_alone(tmp_path):
    with pytest.raises(BadRecord, match="is not JSON"):
        read('[{"text": "a"},\n{"text": "b"}]', name="a.jsonl")
    assert [r.value for r in read('{"text": "a"}\n{"text": "b"}\n')] == [
        {"text": "a"},
        {"text": "b"},
    ]
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b'[{"text": "a"}, {"text": "b"}]'))
    assert [t for file in find_files(tmp_path) for t in documents(file)] == ["a", "b"]


def test_bad_lines_are_counted_with_the_places_of_the_first():
    lines = ['{"a": 1}', "{", "\xff", "", '{"a": 2}', *["nonsense"] * 9, '{"a": 3}']
    content = "\n".join(lines).encode("latin-1")
    bad = BadRecords(True)
    assert [r.value["a"] for r in read(content, "a.jsonl", bad)] == [1, 2, 3]
    assert bad.count == 11
    note = bad.note()
    assert note.startswith(
        "11 bad records were skipped (a.jsonl, line 2; a.jsonl, line 3; a.jsonl, line 6; "
        "a.jsonl, line 7; a.jsonl, line 8; ...). The first: a.jsonl, line 2 is not JSON"
    )
    with pytest.raises(BadRecord, match=r"a\.jsonl, line 2 is not JSON.*set skip_bad_records"):
        read(content, "a.jsonl")
