"""JSON as TensorFlow Serving reads and writes it; the expected texts are from its documentation."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfllm.serving.protocol.errors import ServingError
from tfllm.serving.protocol.json_reply import write_predict
from tfllm.serving.protocol.tensor_json import TensorInfo, read_predict

X = {"x": TensorInfo("float", (None,))}


def read(body, infos, text=False):
    body = body if isinstance(body, bytes) else body.encode() if text else json.dumps(body).encode()
    return read_predict(body, lambda name: infos)


def info(dtype):
    return {"x": TensorInfo(dtype, None)}


def refused(body, infos, code="INVALID_ARGUMENT"):
    with pytest.raises(ServingError) as error:
        read(body, infos, text=isinstance(body, str))
    assert error.value.code == code
    return error.value.message


def test_rows_of_a_single_input():
    request = read({"instances": [[1, 2], [3, 4], [5, 6]]}, info("int32"))
    assert request.by_rows and request.signature_name == ""
    assert request.inputs["x"].dtype == np.int32
    assert request.inputs["x"].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_rows_and_columns_give_the_same_tensors():
    infos = {
        "tag": TensorInfo("string", None),
        "signal": TensorInfo("int32", None),
        "sensor": TensorInfo("float", None),
    }
    rows = [
        {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
        {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]},
    ]
    columns = {name: [row[name] for row in rows] for name in infos}
    by_rows, by_columns = read({"instances": rows}, infos), read({"inputs": columns}, infos)
    assert by_rows.by_rows and not by_columns.by_rows
    for name in infos:
        np.testing.assert_array_equal(by_rows.inputs[name], by_columns.inputs[name])
    assert by_rows.inputs["tag"].tolist() == [b"foo", b"bar"]
    assert by_rows.inputs["sensor"].shape == (2, 2, 2)


def test_mixed_whole_and_decimal_numbers_fill_a_float():
    x = read({"instances": [1, 2.0, 3, 4, 5.003, 0.007, 0.0]}, X).inputs["x"]
    np.testing.assert_array_equal(x, np.float32([1, 2, 3, 4, 5.003, 0.007, 0]))


def test_numbers_that_are_not_finite_are_read():
    x = read('{"instances": [NaN, Infinity, -Infinity, 1e300]}', X, text=True).inputs["x"]
    assert np.isnan(x[0]) and x[1:].tolist() == [np.inf, -np.inf, np.inf]


@pytest.mark.parametrize("dtype", ["float", "int32", "string", "bool"])
def test_a_column_may_be_a_scalar(dtype):
    value = {"float": 1.5, "int32": 3, "string": "a", "bool": True}[dtype]
    assert read({"inputs": {"x": value}}, info(dtype)).inputs["x"].shape == ()
    assert read({"inputs": value}, info(dtype)).inputs["x"].shape == ()


def test_bytes_come_as_base64():
    assert read({"instances": [{"b64": "aGVsbG8="}]}, info("string")).inputs["x"][0] == b"hello"
    assert read({"inputs": {"b64": "/w=="}}, info("string")).inputs["x"].item() == b"\xff"
    assert read({"inputs": {"x": [{"b64": ""}]}}, info("string")).inputs["x"].tolist() == [b""]
    assert "base64" in refused({"instances": [{"b64": "*"}]}, info("string"))


def test_text_goes_to_the_model_byte_for_byte():
    body = b'{"instances": ["a\xff\xc3\xa9"]}'
    assert read(body, info("string")).inputs["x"][0] == b"a\xff\xc3\xa9"
    assert read({"instances": ["😀\u0000é"]}, info("string")).inputs["x"][0] == "😀\0é".encode()
    assert "surrogate" in refused('{"instances": ["\\ud800"]}', info("string"))


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [
        ("float", ["x", True, None, {"a": 1}]),
        ("int32", [1.0, "1", True, 2**31, -(2**31) - 1]),
        ("int8", [128, -129]),
        ("uint8", [-1, 256]),
        ("uint64", [-1, 2**64]),
        ("int64", [2**63]),
        ("bool", [0, "true"]),
        ("string", [1, None, False]),
    ],
)
def test_a_value_of_another_type_is_refused(dtype, bad):
    for value in bad:
        message = refused({"inputs": {"x": [value]}}, info(dtype))
        assert f"is not of expected type: {dtype}" in message or "base64" in message


def test_a_type_error_is_worded_as_in_serving():
    assert refused({"instances": ["x", "y"]}, X) == (
        "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
        'JSON Value: "x" Type: String is not of expected type: float'
    )


@pytest.mark.parametrize("dtype", ["half", "bfloat16", "complex64"])
def test_types_that_json_does_not_carry_are_unimplemented(dtype):
    assert dtype in refused({"inputs": [1]}, info(dtype), "UNIMPLEMENTED")


TWO = {"a": TensorInfo("int32", None), "b": TensorInfo("int32", None)}


@pytest.mark.parametrize(
    ("body", "infos", "words"),
    [
        ("", X, "JSON Parse error: The document is empty"),
        ("  ", X, "JSON Parse error: The document is empty"),
        ("instances = [1, 2]", X, "JSON Parse error: Invalid value"),
        ('{"instances": [1, 2', X, "JSON Parse error"),
        ("[1]", X, "Is not object"),
        ("{}", X, "Missing 'inputs' or 'instances' key"),
        ('{"instances": [1], "inputs": [1]}', X, "expecting only one of 'inputs' or 'instances'"),
        ('{"instances": 1}', X, "Expecting 'instances' to be an list/array"),
        ('{"instances": []}', X, "No values in 'instances' array"),
        ('{"signature_name": 100}', X, "'signature_name' key must be a string value."),
        ('{"instances": [[1, 2], [3]]}', X, "Expecting tensor size: 2 but got: 1"),
        ('{"instances": [[[1], [2]], [[3, 4]]]}', X, "Expecting shape [2,1] but got: [1,2]"),
        ('{"instances": [[1, [2]]]}', X, "Encountered list at unexpected level: 1 expected < 1"),
        ('{"instances": [[[1], 2]]}', X, "found at incorrect level: 2 in the JSON DOM"),
        ('{"inputs": [[1, 2], [3]]}', X, "Encountered list at unexpected size: 1 at level: 1"),
        ('{"instances": [1]}', TWO, "expecting list of objects as multiple input tensors"),
        ('{"instances": [{"a": 1}]}', TWO, "keys must be equal to: a,b"),
        ('{"instances": [{"a": 1, "b": 2, "c": 3}]}', TWO, "does not have named input: c"),
        ('{"instances": [{"a": 1, "b": 2}, 3]}', TWO, "Expecting object but got list at item 1"),
        ('{"instances": [1, {"x": 2}]}', X, "Expecting value/list but got object at item 1"),
        ('{"inputs": [1]}', TWO, "expecting an object as multiple input tensors"),
        ('{"inputs": {"a": 1}}', TWO, "Missing named input: b in 'inputs' object."),
        ('{"inputs": {"a": 1, "b": 2, "c": 3}}', TWO, "names that the signature does not: c"),
    ],
)
def test_a_body_that_breaks_a_rule_is_told_which(body, infos, words):
    assert words in refused(body, infos)


def test_hostile_documents_are_errors_not_crashes():
    assert "deep" in refused('{"inputs": ' + "[" * 100_000 + "]" * 100_000 + "}", X)
    assert "deep" in refused('{"inputs": ' + "[" * 200 + "]" * 200 + "}", X)
    refused('{"inputs": [1' + "0" * 5000 + "]}", X)
    refused('{"inputs": [1' + "0" * 400 + "]}", X)
    assert len(refused({"instances": ["y" * 1_000_000]}, X)) < 1000


def test_what_follows_the_object_is_not_read():
    assert read('{"instances": [1]} trailing', X, text=True).inputs["x"].tolist() == [1.0]


def text(outputs, by_rows):
    return write_predict({n: np.asarray(v) for n, v in outputs.items()}, by_rows).decode()


def strings(*values):
    return np.array(values, np.object_)


def test_replies_by_row_and_by_column():
    y = np.float32([3.5, 4.0, 5.5])
    assert text({"y": y}, True) == '{"predictions": [3.5, 4.0, 5.5]}'
    assert text({"y": y}, False) == '{"outputs": [3.5, 4.0, 5.5]}'
    both = {"a": np.int32([[1, 2], [3, 4]]), "b": np.array([True, False])}
    assert json.loads(text(both, True)) == {
        "predictions": [{"a": [1, 2], "b": True}, {"a": [3, 4], "b": False}]
    }
    assert json.loads(text(both, False)) == {"outputs": {"a": [[1, 2], [3, 4]], "b": [True, False]}}
    assert text({"z": np.float32(2.0)}, False) == '{"outputs": 2.0}'
    assert text({"z": np.zeros([2, 0], np.int32)}, False) == '{"outputs": [[], []]}'


def test_numbers_are_written_as_serving_writes_them():
    values = [0.2, 9000000, 0.00003, 1 / 3, np.nan, np.inf, -np.inf, -0.0, 16777216]
    assert text({"y": np.float32(values)}, False) == (
        '{"outputs": [0.2, 9e+06, 3e-05, 0.333333343, NaN, Infinity, -Infinity, -0.0, 16777216.0]}'
    )
    assert text({"y": np.float64([0.1, 1 / 3])}, False) == (
        '{"outputs": [0.1, 0.33333333333333331]}'
    )


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_a_float_comes_back_as_it_was(values):
    y = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        back = np.array(json.loads(text({"y": y}, False))["outputs"], np.float32)
    np.testing.assert_array_equal(back, y)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_replies_are_valid_json_for_any_bytes(values):
    y = strings(*values)
    out = json.loads(text({"y": y, "y_bytes": y}, False))["outputs"]
    assert out["y"] == [value.decode("utf-8", "replace") for value in values]
    back = read({"inputs": {"x": out["y_bytes"]}}, info("string")).inputs["x"]
    assert back.tolist() == values


@given(st.text(max_size=30))
def test_text_makes_the_round_trip(value):
    x = read({"inputs": [value]}, info("string")).inputs["x"]
    assert json.loads(text({"y": x}, False))["outputs"] == [value]


def test_outputs_that_rows_cannot_hold_are_refused():
    with pytest.raises(ServingError, match="no shape information"):
        text({"y": np.float32(1)}, True)
    with pytest.raises(ServingError, match="inconsistent batch size: 3 expecting: 2"):
        text({"a": np.zeros(2, np.int32), "b": np.zeros(3, np.int32)}, True)
    with pytest.raises(ServingError, match="Failed to write JSON value"):
        text({"y": np.zeros(2, np.float16)}, False)
