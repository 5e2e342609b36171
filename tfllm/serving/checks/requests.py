"""The requests that a check runs: a model's own warm-up requests, then probes with odd text."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.serving.checks.files import WARMUP_FILE
from tfllm.serving.checks.graph import MUTABLE_TABLES
from tfllm.serving.checks.report import Finding, listed
from tfllm.serving.checks.signatures import DEFAULT_SIGNATURE
from tfllm.serving.protocol.warmup_requests import (
    MAX_RECORDS,
    WarmupError,
    WarmupRequest,
    read_warmup_requests,
)
from tfllm.serving.saved_model.graph import SavedModelGraph
from tfllm.serving.saved_model.output_widths import shape_of

LONG_TEXT = b"It was the best of times, it was the worst of times. " * 80
ODD_TEXTS: dict[str, bytes] = {
    "a word": b"word",
    "an empty string": b"",
    "emoji and combining marks": "naïve e\u0301 👩‍👩‍👧 你好".encode(),
    "bytes that are not UTF-8": b"caf\xe9 \xff\xfe \xe4\xbd",
    "an embedded NUL": b"a\0b",
    "a long text": LONG_TEXT,
}
OTHER_TEXT = b"zyzzyva quixotic 7391 \xc3\xa6on"
"""words that the odd texts do not have, so that a table that remembers words grows"""
STRING = 7  # DT_STRING
EXAMPLE_METHODS = ("tensorflow/serving/classify", "tensorflow/serving/regress")
"""of signatures whose texts are tf.train.Example messages"""


@dataclass(frozen=True)
class Request:
    """A request to run in the clean process."""

    name: str
    """what it is, for a reader: a warm-up record, or a signature's input"""
    kind: str
    """"warm-up", "probe" (several rows of odd text), "row" (one of them), "whole" (rows whose
    "part"s are run as well), "full" (as many rows as run together), "empty" or "growth" """
    signature: str
    inputs: dict[str, Any]
    """input name to a NumPy array"""
    outputs: tuple[str, ...]
    """names of the outputs to fetch"""
    batch: int | None
    """rows, where every input has the batch as dimension 0"""
    rows: tuple[str, ...] = ()
    """of a probe: what the text of each row is"""
    only_if_failed: int | None = None
    """index of another request: run this one only when that one failed"""
    part_of: int | None = None
    """of a part: index of the request that has its rows, among others"""
    first_row: int = 0
    """of a part: where its rows begin there"""


def warmup_requests(folder: Path, graph: SavedModelGraph) -> tuple[list[Request], list[Finding]]:
    """The warm-up requests as requests to run, and what is wrong with the file."""
    path = folder / WARMUP_FILE
    if not path.is_file():
        return [], []
    mend = "write them anew, with the inputs and the types of the signature"
    try:
        logs, records = read_warmup_requests(path)
    except WarmupError as error:
        return [], [
            Finding("error", "warmup_unreadable", f"{WARMUP_FILE}: {error}; the load fails", mend)
        ]
    findings = []
    if records > MAX_RECORDS:
        findings.append(
            Finding(
                "error",
                "too_many_warmup_records",
                f"{WARMUP_FILE} has more than {MAX_RECORDS} records, so Serving refuses the model",
                f"keep at most {MAX_RECORDS}: one of each signature and batch size is enough",
            )
        )
    requests = []
    not_run = set()
    for index, log in enumerate(logs, 1):
        if log.kind in ("session_run", "predict_streamed"):
            wrong = f"is a {log.kind} log, which Serving cannot replay"
        elif log.kind == "multi_inference":
            not_run.add(log.kind)
            continue
        else:
            wrong = _misfit(log, graph)
            if not wrong and log.kind != "predict" and not len((log.inputs or {})["inputs"]):
                wrong = f"is a {log.kind} log without examples"
        if wrong:
            what = f"warm-up record {index} {wrong}, so the load fails"
            findings.append(Finding("error", "warmup_misfit", what, mend))
            continue
        assert log.inputs is not None
        names = log.output_filter or tuple(sorted(graph.signatures[log.signature].outputs))
        inputs = dict(log.inputs)
        requests.append(
            Request(
                f"warm-up record {index}", "warm-up", log.signature, inputs, names, _batch(inputs)
            )
        )
    if not_run:
        what = f"{listed(sorted(not_run))} warm-up records were not run"
        findings.append(Finding("info", "warmup_not_run", what, "try them on a server"))
    return requests, findings


def _misfit(log: WarmupRequest, graph: SavedModelGraph) -> str:
    """Why a server would refuse a request, or ""."""
    from tensorflow import as_dtype

    if log.signature not in graph.signatures:
        return f"asks for the signature {log.signature!r}; there are {listed(graph.signatures)}"
    signature = graph.signatures[log.signature]
    given, wanted = set(log.inputs or ()), set(signature.inputs)
    needed = wanted - set(signature.defaults)
    if not needed <= given <= wanted:
        return (
            f"gives {log.signature} the inputs {listed(sorted(given)) or 'none'} "
            f"instead of {listed(sorted(wanted), limit=12)}"
        )
    for key, value in (log.inputs or {}).items():
        dtype = STRING if value.dtype == object else as_dtype(value.dtype).as_datatype_enum
        wanted_type = as_dtype(signature.inputs[key].dtype)
        if dtype != wanted_type.as_datatype_enum:
            return f"gives {log.signature} {key!r} as {value.dtype}, not {wanted_type.name}"
    unknown = set(log.output_filter) - set(signature.outputs)
    if unknown:
        return f"asks for outputs that {log.signature} lacks: {listed(sorted(unknown))}"
    return ""


def probe_requests(graph: SavedModelGraph, known: list[Request]) -> list[Request]:
    """Odd texts for each string input of every signature: all in one batch, then alone.

    `known` are the requests that come before. The other inputs are taken from the first row of a
    warm-up request of that signature, so a signature that has inputs of other types and no
    warm-up request is not probed.
    """
    probes: list[Request] = []
    empty: list[Request] = []
    for name, signature in graph.signatures.items():
        inputs = signature.inputs
        example = _example(name, signature, known)
        if example is None:
            continue
        for key in sorted(key for key, info in inputs.items() if info.dtype == STRING):
            probe = _Probe(name, signature, key, example)
            for texts in probe.batches():
                together = len(known) + len(probes)
                probes.append(probe.request("probe", texts))
                if probe.size is None:
                    rows = ({label: text} for label, text in texts)
                    probes += [
                        replace(probe.request("row", row.items()), only_if_failed=together)
                        for row in rows
                    ]
            if mutable_tables(graph):
                texts = [("other words", OTHER_TEXT)] * (probe.size or 1)
                probes.append(probe.request("growth", texts))
            if probe.size is None and name not in {request.signature for request in empty}:
                empty.append(probe.request("empty", []))
        if signature.method_name in EXAMPLE_METHODS:
            together = len(known) + len(probes)
            damaged = probe.damaged()
            probes.append(probe.of_messages("probe", damaged))
            rows = ({label: text} for label, text in damaged)
            probes += [
                replace(probe.of_messages("row", row.items()), only_if_failed=together)
                for row in rows
            ]
    probes += _part_requests(graph, known, probes)
    # Last: a kernel that cannot take no rows may end the process.
    return probes + empty


def full_batches(graph: SavedModelGraph, known: list[Request], rows: int) -> list[Request]:
    """A batch of long texts for each input of texts, as a busy server runs it.

    `known` are the requests that come before, as of `probe_requests`.
    """
    found = []
    for name, signature in graph.signatures.items():
        example = _example(name, signature, known)
        if example is None:
            continue
        texts = [key for key, info in signature.inputs.items() if info.dtype == STRING]
        for key in sorted(texts):  # one of them may be an option
            probe = _Probe(name, signature, key, example)
            number = probe.size or rows
            found.append(probe.request("full", [("a long text", LONG_TEXT)] * number))
    return found


def _example(name: str, signature: Any, known: list[Request]) -> dict[str, Any] | None:
    """Inputs of a signature to vary: those of a request, or texts; None: there are none."""
    inputs = signature.inputs
    example = next((dict(r.inputs) for r in known if r.signature == name), None)
    if example is None and all(info.dtype == STRING for info in inputs.values()):
        example = {key: np.array(b"a", object) for key in inputs}
    if signature.method_name in EXAMPLE_METHODS and _features(example) is None:
        return None  # its texts are messages, and nothing tells what is in them
    dense = all(info.WhichOneof("encoding") == "name" for info in inputs.values())
    return example if dense and example is not None and set(example) == set(inputs) else None


class _Probe:
    """One string input of a signature, the others held at an example."""

    def __init__(self, name: str, signature: Any, key: str, example: dict[str, Any]) -> None:
        self.name, self.signature, self.key, self.example = name, signature, key, example
        shape = shape_of(signature.inputs[key])
        self.size = None if shape is None else 1 if not shape else shape[0]
        """rows that the input must have; None: any number"""

    def batches(self) -> list[list[tuple[str, bytes]]]:
        """The odd texts, in batches of the size that the input takes."""
        texts = list(ODD_TEXTS.items())
        if self.size is None:
            return [texts]
        size = max(self.size, 1)
        starts = range(0, len(texts), size)
        return [[texts[(start + i) % len(texts)] for i in range(size)] for start in starts]

    def _value(self, text: bytes) -> bytes:
        """The text; for Classify and Regress, the example's message with it as every text."""
        features = _features(self.example)
        if self.signature.method_name not in EXAMPLE_METHODS or features is None:
            return text
        import tensorflow as tf

        value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
        message = tf.train.Features(feature=dict.fromkeys(features, value))
        return tf.train.Example(features=message).SerializeToString()

    def damaged(self) -> list[tuple[str, bytes]]:
        """Messages that are none, or hold other things, and one that is good."""
        import tensorflow as tf

        good = self._value(b"word")
        names = _features(self.example) or []
        number = tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))
        two = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a", b"b"]))
        wrong = [
            tf.train.Example(features=tf.train.Features(feature=dict.fromkeys(names, value)))
            for value in (number, two)
        ]
        return [
            ("a good message", good),
            ("bytes that are no message", b"\xff\xff"),
            ("a message that is cut short", good[:-1]),
            ("a message without features", b""),
            ("a number in the place of a text", wrong[0].SerializeToString()),
            ("two texts in the place of one", wrong[1].SerializeToString()),
        ]

    def of_messages(self, kind: str, messages: Iterable[tuple[str, bytes]]) -> Request:
        """A request whose rows are these messages, as they are."""
        messages = list(messages)
        request = self.request(kind, messages)
        array = np.empty([len(messages)], object)
        array[:] = [message for _, message in messages]
        return replace(request, inputs={self.key: array})

    def request(self, kind: str, texts: Iterable[tuple[str, bytes]]) -> Request:
        """A request whose rows are these texts."""
        texts = list(texts)
        values = [self._value(text) for _, text in texts]
        inputs = {
            key: _rows(info, values, self.example[key], key == self.key)
            for key, info in self.signature.inputs.items()
        }
        return Request(
            f"input {self.key!r} of {self.name}",
            kind,
            self.name,
            inputs,
            tuple(sorted(self.signature.outputs)),
            _batch(inputs),
            tuple(label for label, _ in texts),
        )


def _part_requests(
    graph: SavedModelGraph, known: list[Request], probes: list[Request]
) -> list[Request]:
    """For each signature some rows together, and then in parts: all but the last, the last, and
    the first alone.

    The rows are the odd texts, or those of a request among the `known` where it takes no texts.
    """
    found: list[Request] = []
    for name, signature in graph.signatures.items():
        example = _example(name, signature, known)
        keys = [key for key, info in signature.inputs.items() if info.dtype == STRING]
        shapes = [shape_of(info) for info in signature.inputs.values()]
        if example is None or any(shape == [] or (shape and shape[0]) for shape in shapes):
            continue
        before = len(known) + len(probes)
        if keys:
            probe = _Probe(name, signature, keys[0], example)
            texts = list(ODD_TEXTS.items())
            whole = probe.request("whole", texts)
            if len(keys) > 1:
                columns = [_Probe(name, signature, key, example) for key in keys]
                varied = {c.key: c.request("whole", texts).inputs[c.key] for c in columns}
                whole = replace(whole, name=f"texts of {name}", inputs={**whole.inputs, **varied})
        else:
            several = [r for r in known if r.signature == name and (r.batch or 0) > 1]
            if not several:
                continue
            whole = replace(several[0], kind="whole", outputs=tuple(sorted(signature.outputs)))
        rows = whole.batch or 0
        if rows < 2:
            continue
        index = before + len(found)
        same = [i for i, r in enumerate(probes) if keys == keys[:1] and _are_alike(r, whole)]
        if same:  # it runs already
            index = len(known) + same[0]
        else:
            found.append(whole)
        for begin, end in ((0, rows - 1), (rows - 1, rows), (0, 1)):
            found.append(
                replace(
                    whole,
                    kind="part",
                    inputs={key: value[begin:end] for key, value in whole.inputs.items()},
                    batch=end - begin,
                    rows=whole.rows[begin:end],
                    part_of=index,
                    first_row=begin,
                )
            )
    return found


def _are_alike(probe: Request, whole: Request) -> bool:
    return (probe.kind, probe.signature, probe.rows) == ("probe", whole.signature, whole.rows)


def _features(example: Mapping[str, Any] | None) -> list[str] | None:
    """The texts by name in an example's tf.train.Example; None where it holds other things."""
    if example is None or len(example) != 1:
        return None
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    (value,) = example.values()
    first = np.asarray(value, object).ravel()[:1]
    try:
        message = tf.train.Example.FromString(bytes(first[0]))
    except (DecodeError, IndexError, TypeError):
        return None
    features = message.features.feature
    if not features or any(f.WhichOneof("kind") != "bytes_list" for f in features.values()):
        return None
    return sorted(features)


def mutable_tables(graph: SavedModelGraph) -> list[str]:
    """Nodes of the graph that are tables which can grow."""
    return [
        place.node.name
        for place in graph.places
        if not place.function and MUTABLE_TABLES.match(place.node.op)
    ]


def signatures_not_run(graph: SavedModelGraph, requests: list[Request]) -> list[Finding]:
    """One finding when some signatures get no request."""
    missing = [name for name in graph.signatures if name not in {r.signature for r in requests}]
    if not missing:
        return []
    severity = "warning" if DEFAULT_SIGNATURE in missing else "info"
    return [
        Finding(
            severity,  # type: ignore[arg-type]
            "signature_not_run",
            f"not run, for want of an example: {listed(missing)}",
            "write a warm-up request for each signature",
        )
    ]


def encode_tensor(value: Any) -> dict[str, Any]:
    """An array, in its own type, as JSON for session_process.py."""
    from tensorflow import as_dtype

    value = np.asarray(value)
    if value.dtype == object or value.dtype.kind in "SU":
        texts = [t.encode() if isinstance(t, str) else bytes(t) for t in value.ravel().tolist()]
        strings = [base64.b64encode(text).decode() for text in texts]
        return {"dtype": STRING, "shape": list(value.shape), "strings": strings}
    data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    dtype = as_dtype(value.dtype).as_datatype_enum
    return {"dtype": dtype, "shape": list(value.shape), "data": data}


def _rows(info: Any, texts: list[bytes], example: Any, probed: bool) -> np.ndarray:
    """A value for one input: the texts, or the first row of an example, once for each text."""
    shape = shape_of(info)
    if shape == []:
        return np.array(texts[0], object) if probed else np.asarray(example)
    if probed:
        value = np.empty([len(texts), *(dim or 1 for dim in (shape or [None])[1:])], object)
        for index, text in enumerate(texts):
            value[index] = text
        return value
    value = np.asarray(example)
    if value.ndim == 0:  # not of a warm-up request
        value = value.reshape([1] * len(shape or [1]))
    return np.repeat(value[:1], len(texts), axis=0)


def _batch(inputs: Mapping[str, Any]) -> int | None:
    sizes = {value.shape[0] if np.ndim(value) else None for value in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else None
