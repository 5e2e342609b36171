"""Streaming: server-sent events, text that is held back, and what ends a stream."""

import http.client
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.toy_models import call, start, toy_base, until
from tfllm.generation.stop_strings import StopHold

pytestmark = pytest.mark.alone

TEXT = "Once upon a time, 😀 there was a Ünïcode fox."


@pytest.fixture(scope="module")
def server():
    with start(toy_base(), max_streams=2) as running:
        yield running


def stream(server, **body):
    """The pieces and the summary of a whole stream."""
    connection = http.client.HTTPConnection(server.rest_address, timeout=60)
    connection.request("POST", "/v1/models/parrot:stream", json.dumps(body))
    response = connection.getresponse()
    assert response.status == 200
    assert response.getheader("content-type") == "text/event-stream"
    events = response.read().decode().split("\n\n")
    connection.close()
    assert events[-1] == "" and events[-2] == "data: [DONE]"
    assert all(event.startswith("data: ") for event in events[:-1])
    data = [json.loads(event[6:]) for event in events[:-2]]
    return [event["text"] for event in data[:-1]], data[-1]


def whole(server, **body):
    """The text that the signature gives for the same options."""
    options = {
        "max_new_tokens": 64, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
        "repetition_penalty": 1.0, "seed": 0, "stop": "",
    } | body  # fmt: skip
    options["stop"] = "\x1f".join(options["stop"])
    request = {"signature_name": "generate", "inputs": {n: [v] for n, v in options.items()}}
    _, reply = call(server, "POST", "/v1/models/parrot:predict", request)
    return reply["outputs"]["text"][0]


def test_the_pieces_are_the_text_and_the_summary_says_why_it_ended(server):
    pieces, summary = stream(server, prompt=TEXT, max_new_tokens=12)
    assert "".join(pieces) == TEXT[:12] and len(pieces) == 12
    assert summary == {
        "finish_reason": "length",
        "prompt_tokens": len(TEXT),
        "generated_tokens": 12,
    }
    assert "".join(stream(server, prompt=TEXT, max_new_tokens=1000)[0]) == TEXT


@pytest.mark.parametrize("stop", [["time"], ["fox", "there"], ["tim", "times"], ["nowhere"], ["."]])
def test_a_stop_string_never_shows_in_part(server, stop):
    pieces, summary = stream(server, prompt=TEXT, stop=stop)
    assert "".join(pieces) == whole(server, prompt=TEXT, stop=stop)
    assert summary["finish_reason"] == "stop"


def test_stop_may_be_one_string(server):
    assert "".join(stream(server, prompt="abcdef", stop="de")[0]) == "abc"


@given(
    st.text("ab\ufffd", max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=2),
    st.booleans(),
)
def test_pieces_joined_are_the_final_text(text, stop, halts):
    hold = StopHold(stop)
    ends = [text.find(s) for s in stop if s in text]
    final = text[: min(ends)] if ends and halts else text
    pieces, shown = [], ""
    for length in range(len(final)):
        pieces.append(hold.piece(final[:length], False))
        shown += pieces[-1]
        assert final.startswith(shown)
    pieces.append(hold.piece(final, True))
    assert "".join(pieces) == final


def test_a_character_that_is_not_whole_is_held_back():
    hold = StopHold([])
    assert hold.piece("ab\ufffd", False) == "ab"
    assert hold.piece("ab😀", False) == "😀"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "a string 'prompt'"),
        ({"prompt": 3}, "a string 'prompt'"),
        ({"prompt": ["a"]}, "a string 'prompt'"),
        ({"prompt": "a", "max_tokens": 3}, "did you mean 'max_new_tokens'?"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"prompt": "a", "max_new_tokens": "many"}, "max_new_tokens must be a number"),
        ({"prompt": "a", "temperature": -1}, "temperature must be"),
        ({"prompt": "a", "top_p": 0}, "top_p must lie in"),
        ({"prompt": "a", "stop": [""]}, "a stop string must not be empty"),
        ({"prompt": "a", "stop": 3}, "stop must be a list of strings"),
        ({"prompt": "a", "num_samples": 2}, "unknown option 'num_samples'"),
        ('{"prompt": "\\ud800"}', "valid Unicode"),
        ('{"prompt": "a", "temperature": NaN}', "temperature must be"),
        ({"prompt": ""}, "the prompt is empty"),
        ("[]", "Is not object"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(server, body, words):
    status, reply = call(server, "POST", "/v1/models/parrot:stream", body)
    assert status == 400 and words in reply["error"], reply


def test_unknown_models_and_versions(server):
    for where in ("nope", "parrot/versions/3"):
        status, _ = call(server, "POST", f"/v1/models/{where}:stream", {"prompt": "a"})
        assert status == 404


def test_streams_are_limited_and_end_when_their_reader_goes(server):
    readers = []
    for _ in range(2):
        connection = http.client.HTTPConnection(server.rest_address, timeout=60)
        body = json.dumps({"prompt": "x" * 20_000, "max_new_tokens": 20_000})
        connection.request("POST", "/v1/models/parrot:stream", body)
        response = connection.getresponse()
        assert response.read(6) == b"data: "
        readers.append((connection, response))
    status, reply = call(server, "POST", "/v1/models/parrot:stream", {"prompt": "a"})
    assert status == 429 and "2 live streams are running" in reply["error"]
    for connection, response in readers:
        response.close()
        connection.close()

    def free():
        return call(server, "POST", "/v1/models/parrot:stream", {"prompt": "a"})[0] == 200

    begin = time.monotonic()
    until(free)
    assert time.monotonic() - begin < 20  # whole, each would take 100 s and more
