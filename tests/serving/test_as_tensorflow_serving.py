"""The answers of TensorFlow Serving 2.20.0 to requests, compared with those of tfllm's server.

`tensorflow_serving_answers.json` has a row for each request: the rule, in our own words, with the
source file of TensorFlow Serving that it is taken from, and the answer that follows. Where tfllm
answers differently on purpose, the row has a key `tfllm`, and the table in docs/serving.md has
exactly these rows.
"""

import base64
import gzip
import http.client
import json
from pathlib import Path

import pytest

from tests.serving.toy_models import start, toy_base

pytestmark = pytest.mark.alone

ROWS = json.loads(
    Path(__file__).with_name("tensorflow_serving_answers.json").read_text(encoding="utf-8")
)
DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
MAX_BODY_BYTES = 1 << 20


@pytest.fixture(scope="module")
def servers():
    """A server without flags, and by a flag's name one with it."""
    base = toy_base()
    with (
        start(base, max_body_bytes=MAX_BODY_BYTES) as plain,
        start(base, rest_api_enable_cors_support=True) as cors,
    ):
        yield {None: plain, "rest_api_enable_cors_support": cors}


def body_of(row):
    body = row.get("body")
    if body is None:
        return None
    if isinstance(body, str):
        content = body.encode()
    elif "parts" in body:
        content = "".join(text * count for text, count in body["parts"]).encode()
    else:
        content = base64.b64decode(body["base64"])
    return gzip.compress(content) if row.get("gzip") else content


def send(server, row):
    """Status, headers and body; the connection is the row's own."""
    connection = http.client.HTTPConnection(server.rest_address, timeout=120)
    try:
        connection.request(row["method"], row["path"], body_of(row), row.get("headers", {}))
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()
    finally:
        connection.close()


def document(content):
    """A reply's object; numbers that are not finite as their words, to be compared."""
    return json.loads(content, parse_constant=str)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["request"])
def test_a_request_is_answered_by_the_rule(servers, row):
    status, headers, content = send(servers[row.get("flag")], row)
    expected = {"status": row["status"], "reply": row.get("reply"), **row.get("tfllm", {})}
    assert status == expected["status"], content[:500]
    kind = row.get("content_type", "application/json")
    if status < 300 and (reply := expected["reply"]) is not None:
        assert document(content) == reply
    elif status >= 400 and kind == "application/json" and row["method"] != "HEAD":
        assert list(document(content)) == ["error"]
    if "tfllm" not in row and row["method"] != "OPTIONS":
        assert headers["content-type"].partition(";")[0] == kind
    if row["method"] == "HEAD":
        assert content == b""
    for name, value in row.get("reply_headers", {}).items():
        assert headers.get(name) == value


def test_every_row_says_what_it_is():
    for row in ROWS:
        assert row["rule"] and row["source"] and row["status"]
        if "tfllm" in row:
            ours = row["tfllm"]
            assert ours["server"] and ours["tfllm"]
            # A difference is one that a client sees.
            assert ours["status"] != row["status"] or ours["reply"] != row.get("reply")


def test_the_docs_list_exactly_the_requests_that_are_answered_otherwise():
    text = DOCS.read_text(encoding="utf-8")
    section = text.split("## How `tfllm serve` differs from TensorFlow Serving")[1]
    lines = section.split("\n## ")[0].splitlines()
    head = next(n for n, line in enumerate(lines) if line.startswith("| request |"))
    listed = []
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        listed.append(tuple(cell.strip() for cell in line.strip("|").split(" | ")))
    expected = [
        (row["request"], row["tfllm"]["server"], row["tfllm"]["tfllm"], f"`{row['source']}`")
        for row in ROWS
        if "tfllm" in row
    ]
    assert listed == expected
