"""JSON is read as by RapidJSON 1.1.0; apart from its peculiarities, as by Python's `json`."""

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfllm.serving.protocol.errors import ServingError
from tfllm.serving.protocol.json_request import RepeatedKeys, is_base64, read_base64, read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=4), VALUES), st.text(alphabet=" \t\r\n", max_size=3))
def test_what_python_writes_is_read_back(value, space):
    text = space + json.dumps(value, ensure_ascii=False) + " more"
    assert repr(read_json(text.encode("utf-8", "surrogatepass"))[0]) == repr(value)


@given(st.dictionaries(st.text(max_size=4), VALUES))
def test_numbers_are_the_same_where_they_are_looked_at_closely(value):
    close = json.dumps({"x": value, "digits": int("1" * 305)}).encode()
    assert repr(read_json(close)[0]["x"]) == repr(value)


@given(st.floats(allow_nan=True), st.text(max_size=6))
def test_short_words_outside_strings_are_numbers(value, text):
    written = json.dumps({"x": [value, f'"{text} Inf -NaN\\', math.inf, -math.inf, math.nan]})
    short = written.replace("Infinity", "Inf").replace("NaN]", "-NaN]")
    assert repr(read_json(short.encode())[0]) == repr(json.loads(written))


@pytest.mark.parametrize("word", ["Infin", "InfInf", "+Inf", "inf", "- Inf", "Inf1", "--Inf"])
def test_other_words_are_refused(word):
    with pytest.raises(ServingError, match="JSON Parse error"):
        read_json(f'{{"x": [Inf, {word}]}}'.encode())


def test_of_a_repeated_key_the_first_value_counts_and_the_last_is_kept():
    document, _ = read_json(b'{"a": 1, "b": {"c": 1, "c": [2]}, "a": 3}')
    assert document == {"a": 1, "b": {"c": 1}}
    assert isinstance(document, RepeatedKeys) and document.last == {"a": 3, "b": {"c": 1}}
    assert document["b"].last == {"c": [2]} and document["b"].num_members == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e308", 1e308),
        ("9e308", math.inf),  # an exponent that is allowed, a value that is not finite
        ("0.00001e309", 1e304),  # five digits behind the point allow five more
        ("1.0e-999999", 0.0),
        ("1e+0308", 1e308),
        ("1" + "0" * 308, 10**308),
    ],
)
def test_numbers_at_the_edge_of_a_double(text, value):
    assert read_json(f'{{"x": {text}}}'.encode())[0]["x"] == value


@pytest.mark.parametrize(
    "text", ["1e309", "-1E+309", "0e999999999999", "1" + "0" * 309, "-" + "9" * 5000 + ".5"]
)
def test_numbers_beyond_a_double_are_refused(text):
    for place in (f'{{"x": {text}}}', f'{{"y": {{"z": [1, {text}]}}, "instances": [1]}}'):
        with pytest.raises(ServingError, match="Number too big to be stored in double"):
            read_json(place.encode())


def test_a_hostile_text_takes_no_longer_than_its_length():
    begin = time.process_time()
    for text in (
        '{"x": [Inf, "' + r"\"" * 200_000,
        '{"x": [Inf, ' + "-" * 400_000,
        '{"x": [' + ("1" * 299 + ",") * 1_500 + "Inf]]",
        '{"x": ' + '"a' * 200_000,
    ):
        with pytest.raises(ServingError):
            read_json(text.encode())
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", b""),
        ("YQ==", b"a"),
        ("YQ", b"a"),
        ("YQ..", b"a"),
        (" Y\tQ = =", b"a"),
        ("+/8", b"\xfb\xff"),
    ],
)
def test_base64(text, content):
    assert read_base64({"b64": text}) == content


@pytest.mark.parametrize("text", ["YQ=", "Y", "Y===", "Y=Q=", "_-8=", "YQ==YQ==", "é"])
def test_what_is_no_base64_is_refused(text):
    with pytest.raises(ServingError, match="base64"):
        read_base64({"b64": text})


def test_bytes_are_one_key_with_a_text():
    assert is_base64({"b64": ""})
    assert not any(map(is_base64, [{}, {"b64": 1}, {"b64": "", "a": 1}, "b64", None]))
    assert not is_base64(read_json(b'{"b64": "YQ==", "b64": "Yg=="}')[0])
