"""Files are written completely or not at all, and JSON is read or refused by name."""

import os
import stat

import pytest

from tfllm.files import atomic_file, read_json, read_json_object, readable_json, write_file


def test_a_file_that_fails_halfway_stays_as_it_was(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_file(path, "é")
    assert path.read_bytes() == "é".encode()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644
    with pytest.raises(RuntimeError, match="power"), atomic_file(path) as stream:
        stream.write(b"half")
        raise RuntimeError("power")
    assert path.read_text(encoding="utf-8") == "é" and os.listdir(path.parent) == ["a.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": ', "is damaged or cut short: Expecting value.*; start again$"),
        (b"\xff", "is damaged or cut short: .*utf-8.*; start again$"),
        (b"[" * 100_000, "is damaged or cut short: it is nested too deeply; start again$"),
    ],
)
def test_json_that_is_damaged_is_named(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=f"^{path} {message}"):
        read_json(path, "start again")
    assert readable_json(path) is None


def test_an_object_is_read_or_refused(tmp_path):
    path = tmp_path / "a.json"
    assert read_json_object(path) == {}
    with pytest.raises(FileNotFoundError):
        read_json_object(path, required=True)
    path.write_text("[1]")
    with pytest.raises(ValueError, match=f"^{path} must hold a JSON object; received list$"):
        read_json_object(path)
    path.write_text('{"a": 1}')
    assert read_json_object(path, required=True) == {"a": 1}
