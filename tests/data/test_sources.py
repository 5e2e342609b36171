import gzip
import json
import os

import pytest

from tfllm.data.reading.sources import documents, find_files


def read_all(path, **options):
    return [text for file in find_files(path) for text in documents(file, **options)]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_files_are_found_once_and_sorted_however_they_are_named(tmp_path):
    names = ["b/c.jsonl.gz", "b/d/e.md", "a.txt", "z.TXT"]
    for name in [*names, "b/picture.png", ".hidden.txt", ".git/x.txt", "b/.a/b.txt"]:
        write(tmp_path / name, "x")
    by_folder = find_files(tmp_path)
    assert [f.path.relative_to(tmp_path).as_posix() for f in by_folder] == sorted(names)
    assert [f.format for f in by_folder] == ["text", "json_lines", "text", "text"]
    mixed = [tmp_path / "z.TXT", f"{tmp_path}/**/*.*", tmp_path, tmp_path / "b" / ".." / "a.txt"]
    assert {f.path.resolve() for f in find_files(mixed)} == {
        (tmp_path / name).resolve() for name in [*names, "b/picture.png"]
    }
    assert len(find_files(mixed)) == 5


def test_a_link_that_leads_back_up_is_not_followed_forever(tmp_path):
    write(tmp_path / "a" / "x.txt", "x")
    os.symlink(tmp_path, tmp_path / "a" / "up")
    assert len(find_files(tmp_path)) == 1


def test_an_excluded_folder_is_not_searched(tmp_path):
    write(tmp_path / "x.txt", "x")
    write(tmp_path / "out" / "manifest.json", "{}")
    assert len(find_files(tmp_path, exclude=[tmp_path / "out"])) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.txt", "does not exist"), ("*.txt", "no file matches the glob"), ("", "contains no")],
)
def test_an_input_that_yields_nothing_is_named(tmp_path, name, message):
    write(tmp_path / "x.py", "x")
    with pytest.raises(FileNotFoundError, match=message) as error:
        find_files(str(tmp_path / name))
    assert str(tmp_path) in str(error.value)


def test_no_input_and_a_pipe_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        find_files([])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe must be a regular file"):
        find_files(tmp_path / "pipe")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_text_and_json_lines_plain_and_compressed_give_the_same_documents(tmp_path, suffix):
    texts = ["first\n\nsecond", "größer 猫 🙂", '<|endoftext|> "quoted" \\n']
    pack = gzip.compress if suffix else bytes
    for i, text in enumerate(texts):
        write(tmp_path / "t" / f"{i}.txt{suffix}", pack(text.encode()))
    lines = "\n\n".join(json.dumps({"id": 1, "body": text}) for text in texts)
    write(tmp_path / "j" / f"all.jsonl{suffix}", pack(lines.encode()))
    assert read_all(tmp_path / "t") == texts
    assert read_all(tmp_path / "j", text_field="body") == texts


def test_byte_order_mark_and_line_ends_are_normalised(tmp_path):
    write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\nfour\r\n")
    write(tmp_path / "b.jsonl", b'\xef\xbb\xbf{"text": "as\\r\\nit is"}\r\n')
    assert read_all(tmp_path) == ["one\ntwo\nthree\nfour\n", "as\r\nit is"]


def test_documents_of_white_space_are_passed_over(tmp_path):
    write(tmp_path / "a.txt", " \n\t\n")
    write(tmp_path / "b.jsonl", '{"text": ""}\n{"text": " \\n"}\n{"text": "x"}\n')
    assert read_all(tmp_path) == ["x"]


@pytest.mark.parametrize("limit", [10, 100, 5000])
@pytest.mark.parametrize("chunk", [7, 1000, 1 << 18])
def test_a_long_text_is_cut_into_pieces_that_join_to_it(tmp_path, limit, chunk, monkeypatch):
    monkeypatch.setattr("tfllm.data.reading.sources.CHUNK_BYTES", chunk)
    text = "\n\n".join(f"Paragraph {i} ü猫🙂 has\n{'word ' * (i % 30)}end." for i in range(200))
    write(tmp_path / "a.txt", text.replace("\n", "\r\n"))
    pieces = read_all(tmp_path, max_document_chars=limit)
    assert "".join(pieces) == text
    assert all(len(piece) <= limit for piece in pieces)
    assert all(len(piece) > limit // 2 for piece in pieces[:-1])
    if limit == 5000:  # every paragraph is shorter: no cut inside one
        assert all(piece.endswith("\n\n") for piece in pieces[:-1])


def test_a_text_of_the_longest_length_is_one_document(tmp_path):
    write(tmp_path / "a.txt", "x y\n\n" * 20)
    assert len(read_all(tmp_path, max_document_chars=100)) == 1
    assert len(read_all(tmp_path, max_document_chars=99)) == 2


def test_only_a_little_of_a_file_is_read_before_its_first_document(tmp_path):
    path = write(tmp_path / "a.txt", "A line of text.\n\n" * 200_000)
    (file,) = find_files(path)
    read = []
    next(documents(file, max_document_chars=10_000, on_read=read.append))
    assert sum(read) < 600_000 < file.num_bytes
    read.clear()
    assert sum(map(len, documents(file, on_read=read.append))) == file.num_bytes == sum(read)


@pytest.mark.parametrize(
    ("content", "offset", "advice"),
    [
        (b"text\x00more", 4, "convert it to UTF-8"),
        (b"caf\xe9 au lait", 3, "convert it to UTF-8"),
        (b"cut in a character \xe7\x8c", 19, "convert it to UTF-8"),
        (b"\xef\xbb\xbfabc\xff", 6, "convert it to UTF-8"),
        (b"a" * 300_000 + b"\xff", 300_000, "convert it to UTF-8"),
        ("猫".encode() * 100_000 + b"\xfe", 300_000, "convert it to UTF-8"),
        ("text".encode("utf-16"), 3, "UTF-16"),
        (gzip.compress(b"text", mtime=0), 3, r"\.gz"),
        (b"%PDF-1.7\xff", 8, "PDF"),
        (b"PK\x03\x04\x00", 4, "zip"),
    ],
)
def test_a_file_that_is_not_text_is_named_with_the_offset(tmp_path, content, offset, advice):
    path = write(tmp_path / "bad.txt", content)
    with pytest.raises(ValueError, match=rf"bad\.txt is not UTF-8.* byte {offset} .*{advice}"):
        read_all(path)


@pytest.mark.parametrize("keep", [5, 40, -3])
def test_a_gzip_file_cut_short_is_named(tmp_path, keep):
    packed = gzip.compress(os.urandom(1000).hex().encode())
    path = write(tmp_path / "bad.txt.gz", packed[:keep])
    with pytest.raises(
        ValueError, match=r"bad\.txt\.gz is not a complete gzip file.*download it again"
    ):
        read_all(path)


def test_damaged_gzip_and_plain_text_named_gz_are_named(tmp_path):
    packed = bytearray(gzip.compress(b"some text " * 100))
    packed[30] ^= 0xFF
    for content in (bytes(packed), b"plain text"):
        path = write(tmp_path / "bad.txt.gz", content)
        with pytest.raises(ValueError, match=r"bad\.txt\.gz is not a complete gzip file"):
            read_all(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"content": "x", "id": 3}', r"line 2 has no key 'text'.*'content', 'id'.*text_field"),
        ('{"text": 5}', r"line 2: the value of 'text' must be a string; received a number"),
        ('{"text": null}', r"line 2: .*received null"),
        ("[1, 2]", r"line 2 must be a JSON object.*received a list"),
        ("not json", r"line 2 is not JSON"),
        ("[" * 100_000, r"line 2 is not JSON"),
        ('{"text": "\\ud83d"}', r"line 2: character 0 of 'text' is half of a surrogate pair"),
    ],
)
def test_a_bad_json_line_is_named_by_file_and_number(tmp_path, line, message):
    path = write(tmp_path / "bad.jsonl", '{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"bad\.jsonl, " + message):
        read_all(path)


def test_a_json_line_that_is_not_utf8_is_named_with_offset_and_line(tmp_path):
    path = write(tmp_path / "bad.jsonl", b'{"text": "fine"}\n{"text": "\xe9"}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl is not UTF-8.*\(line 2\).* byte 27 "):
        read_all(path)


def test_a_json_line_too_long_to_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tfllm.data.reading.json_records._MAX_LINE_BYTES", 1 << 20)
    path = write(tmp_path / "bad.json", json.dumps({"text": "x" * (1 << 20)}))
    with pytest.raises(ValueError, match=r"bad\.json, line 1 is longer than 1 MiB"):
        read_all(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    os.symlink(tmp_path / "gone", tmp_path / "link.txt")
    with pytest.raises(FileNotFoundError, match=r"cannot read .*link\.txt.*leave it out"):
        find_files(tmp_path)
    path = write(tmp_path / "secret.txt", "x")
    files = find_files(path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError, match=r"cannot read .*secret\.txt: Permission denied"):
        list(documents(files[0]))
