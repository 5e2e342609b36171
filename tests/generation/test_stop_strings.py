import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfllm.config import ConfigError, GenerationConfig
from tfllm.generation.options import (
    MOST_STOP_BYTES,
    OPTION_TYPES,
    STOP_SEPARATOR,
    option_values,
    read_options,
    stop_input,
)
from tfllm.generation.stop_strings import StopHold, StopStrings

CHARACTERS = "ab.*+?()[]{}|^$\\\n\r\t /-é你🎉\u0301\0\x7f#"
TEXT = st.text(CHARACTERS, max_size=10)
STOPS = st.lists(st.text(CHARACTERS, min_size=1, max_size=3), max_size=3)


def cut(text: str, stops: list[str]) -> str:
    places = [text.find(stop) for stop in stops if stop in text]
    return text[: min(places)] if places else text


def strings(texts) -> tf.Tensor:
    return tf.constant([t.encode() for t in texts], tf.string)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(TEXT, STOPS), max_size=4))
def test_each_row_ends_before_the_first_of_its_own_strings(rows):
    rule = StopStrings(strings(stop_input(stops) for _, stops in rows))
    texts = strings(text for text, _ in rows)
    assert rule(texts).numpy().tolist() == [any(s in t for s in stops) for t, stops in rows]
    assert [t.decode() for t in rule.cut(texts).numpy()] == [cut(t, stops) for t, stops in rows]


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        ("ab\x1fb", "xxab", "xx"),  # overlapping: the first in the text, not in the list
        ("b\x1fab", "xxab", "xx"),
        ("aab", "aaaab", "aa"),
        ("\n\n", "one\ntwo\n\nthree", "one\ntwo"),
        ("\x1f\x1f.\x1f\x1f\x1f!\x1f", "no!stop.", "no"),  # nothing between two separators
        ("\x1f", "text", "text"),
        ("", "text", "text"),
    ],
)
def test_the_form_with_separators(stops, text, expected):
    assert StopStrings(strings([stops])).cut(strings([text])).numpy()[0].decode() == expected


def test_bytes_that_are_not_utf_8_do_not_hide_a_stop_string():
    rule = StopStrings(strings(["end"] * 3))
    texts = tf.constant([b"\xff\xfe end", b"en\xffd", b"end\xe4\xbd"])
    assert rule(texts).numpy().tolist() == [True, False, True]


def test_the_longest_stop_string_still_works():
    stop = "é." * (MOST_STOP_BYTES // 3)
    rule = StopStrings(strings([stop]))
    texts = strings([f"x{stop}y"])
    assert rule(texts).numpy()[0] and rule.cut(texts).numpy()[0] == b"x"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TEXT, STOPS, st.lists(st.integers(0, 10), max_size=5))
def test_pieces_that_can_be_shown_join_to_the_text_up_to_the_stop(text, stops, lengths):
    hold = StopHold(stops)
    shown = ""
    for length in sorted(lengths):
        if any(s in text[:length] for s in stops):
            break
        shown += hold.piece(text[:length], False)
        assert cut(text, stops).startswith(shown)
    assert shown + hold.piece(cut(text, stops), True) == cut(text, stops)


def test_nothing_is_held_back_that_cannot_become_a_stop_string():
    hold = StopHold(["END"])
    texts = ["a", "a E", "a EN", "a ENt", "a ENtE", "a ENtEx"]
    assert [hold.piece(t, False) for t in texts] == ["a", " ", "", "ENt", "", "Ex"]


def test_a_stop_string_that_cannot_be_sent_is_refused():
    with pytest.raises(ConfigError, match=r"must not contain U\+001F"):
        stop_input(["a", f"b{STOP_SEPARATOR}"])
    with pytest.raises(ConfigError, match="valid Unicode"):
        stop_input(["\ud800"])


def test_options_are_read_by_name_and_written_as_one_value_each():
    config = read_options({"temperature": 0.5, "stop": ["a", "b"], "top_k": 2**40})
    assert config == GenerationConfig(temperature=0.5, stop=("a", "b"), top_k=2**40)
    values = option_values(config)
    assert list(values) == list(OPTION_TYPES)
    assert values["stop"] == "a\x1fb"
    assert np.array(values["top_k"], OPTION_TYPES["top_k"]) == 2**31 - 1
    for bad, message in (
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"num_samples": 2}, "unknown option"),
        ({"top_k": 1.5}, "top_k must be a whole number"),
        ({"temperature": float("nan")}, "temperature must be a finite number"),
        ({"stop": [""]}, "a stop string must not be empty"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_options(bad)
