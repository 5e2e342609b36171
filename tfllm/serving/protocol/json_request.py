"""Parses the JSON of a request as TensorFlow Serving's parser (RapidJSON 1.1.0) does.

Python's own parser differs in a few places, which are corrected here: if a key is given twice, the
first value counts; `Inf` and `-NaN` are numbers; and a number that is too big for a double is
refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from typing import Any

from tfllm.serving.protocol.errors import invalid_argument

_MAX_SHOWN = 256  # bytes of a value that an error message shows

# Maps every digit to 0, to find out whether a number may be too big for a double; a false alarm
# inside a string does no harm. Searching for plain bytes is ten times as fast as a pattern.
_SHAPE = bytes.maketrans(b"123456789E", b"000000000e")
_MAYBE_TOO_BIG = (b"e000", b"e+000", b"0" * 300)
_MAX_EXPONENT = 308
_SIGNIFICANT_DIGITS = 17

# Words for numbers that Python does not know, and the tokens by which strings are recognized.
_WORDS = {"Inf": "Infinity", "-NaN": "NaN"}
_TOKENS = re.compile(r'\\.|"|-NaN\b|\bInf\b', re.S)

_PADDED_BASE64 = re.compile(r"([A-Za-z0-9+/]*)([=.]*)", re.A)


class RepeatedKeys(dict):
    """A JSON object in which a key is given more than once; it has the first values.

    Attributes:
        last: key to its last value.
        num_members: number of members in the JSON.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__()
        for key, value in pairs:
            self.setdefault(key, value)
        self.last = dict(pairs)
        self.num_members = len(pairs)


class _TooBig(ValueError):
    """A number is too big for a double."""


def read_json(body: bytes) -> tuple[dict[str, Any], bool]:
    """Parse the JSON object at the start of `body`.

    What follows the object is ignored. Bytes that are not UTF-8 become surrogates, so that a model
    receives a string byte for byte.

    Returns:
        The object, and whether `body` is valid UTF-8.

    Raises:
        ServingError: INVALID_ARGUMENT, with the offset at which the JSON is invalid.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        text, valid = body.decode("utf-8"), True
    except UnicodeDecodeError:
        text, valid = body.decode("utf-8", "surrogateescape"), False
    text = text.removeprefix("\ufeff")
    shape = body.translate(_SHAPE)
    decoder = _EXACT if any(part in shape for part in _MAYBE_TOO_BIG) else _FAST
    try:
        try:
            document = _first_value(decoder, text)
        except json.JSONDecodeError as error:
            if not text.startswith(("Inf", "-Inf", "-NaN"), error.pos):
                raise
            document = _first_value(decoder, _with_pythons_words(text))
    except json.JSONDecodeError as error:
        empty = not text.strip(" \t\r\n")
        what = "The document is empty" if empty else f"Invalid value. {error.msg}"
        raise invalid_argument(f"JSON Parse error: {what} at offset: {error.pos}") from None
    except RecursionError:
        raise invalid_argument("JSON Parse error: The document is nested too deeply") from None
    except _TooBig:
        raise invalid_argument("JSON Parse error: Number too big to be stored in double.") from None
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {show(document)} Is not object")
    return document, valid


def is_base64(value: Any) -> bool:
    """Whether a value is `{"b64": string}` without further keys."""
    return (
        isinstance(value, dict)
        and len(value) == 1
        and isinstance(value.get("b64"), str)
        and not isinstance(value, RepeatedKeys)
    )


def read_base64(value: dict) -> bytes:
    """Decode `{"b64": ...}`. White space is ignored, and the padding may be missing.

    Raises:
        ServingError: INVALID_ARGUMENT if the value is not valid base64.
    """
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {show(value)} not formatted correctly for base64 data")
    match = _PADDED_BASE64.fullmatch("".join(value["b64"].split()))
    if match is not None:
        digits, padding = match[1], -len(match[1]) % 4
        if len(match[2]) in (0, padding):
            try:
                return base64.b64decode(digits + "=" * padding, validate=True)
            except (binascii.Error, ValueError):
                pass
    raise invalid_argument("Unable to base64 decode")


def json_type(value: Any) -> str:
    """RapidJSON's name for the type of a value."""
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    names: dict[type, str] = {dict: "Object", RepeatedKeys: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def show(value: Any) -> str:
    """The start of a value as JSON, for messages. The rest of a long value is not encoded."""
    pieces, length = [], 0
    try:
        for piece in json.JSONEncoder(ensure_ascii=False).iterencode(value):
            pieces.append(piece[: _MAX_SHOWN - length])
            length += len(pieces[-1])
            if length >= _MAX_SHOWN:
                break
    except RecursionError:
        pieces.append("...")
    return "".join(pieces).encode("utf-8", "replace").decode()


def _first_value(decoder: json.JSONDecoder, text: str) -> Any:
    start = len(text) - len(text.lstrip(" \t\r\n"))
    return decoder.raw_decode(text, start)[0]


def _with_pythons_words(text: str) -> str:
    """Replace RapidJSON's words for numbers with Python's, except inside strings."""
    pieces, done, inside = [], 0, False
    for match in _TOKENS.finditer(text):
        token = match[0]
        if token == '"':
            inside = not inside
        elif not inside and token in _WORDS:
            pieces += [text[done : match.start()], _WORDS[token]]
            done = match.end()
    return "".join([*pieces, text[done:]])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else RepeatedKeys(pairs)


def _decimal(text: str) -> float:
    """Parse a number with a fraction or an exponent, and refuse what RapidJSON refuses.

    Its rule is about the exponent, not the value: a value that is just too big becomes infinity.
    """
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = exponent.lstrip("+").lstrip("0")
    if digits and not digits.startswith("-"):
        most = _MAX_EXPONENT + min(len(fraction), _SIGNIFICANT_DIGITS)
        if len(digits) > 4 or int(digits) > most:
            raise _TooBig
    if math.isinf(float(whole)):
        raise _TooBig
    return float(text)


def _whole(text: str) -> int:
    if math.isinf(float(text)):
        raise _TooBig
    return int(text)


# Hooks for numbers slow the parser down, so they are used only if they may be needed.
_FAST = json.JSONDecoder(object_pairs_hook=_object)
_EXACT = json.JSONDecoder(object_pairs_hook=_object, parse_float=_decimal, parse_int=_whole)
