"""Small SavedModels for testing a server, and a raw HTTP call."""

import atexit
import contextlib
import functools
import http.client
import json
import shutil
import tempfile
import time
from pathlib import Path

import tensorflow as tf

from tfllm.serving.server.server import ModelServer


class HalfPlus(tf.Module):
    """y = x / 2 + c, the model of TensorFlow Serving's own documentation."""

    def __init__(self, c):
        super().__init__()
        self.c = tf.Variable(float(c))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        return {"y": x / 2.0 + self.c}


class Several(tf.Module):
    """Inputs of several types and shapes; outputs of every type that JSON carries."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="tag"),
            tf.TensorSpec([None, 2], tf.int32, name="pair"),
        ]
    )
    def serve(self, tag, pair):
        total = tf.reduce_sum(pair, 1)
        return {
            "echo": tag,
            "raw_bytes": tag,
            "total": total,
            "wide": tf.cast(pair, tf.int64),
            "real": tf.cast(total, tf.float64) / 8.0,
            "even": total % 2 == 0,
        }

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def scalar(self, x):
        return {"z": x + 1.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def numbers(self, x):
        return {"f": x, "d": tf.cast(x, tf.float64)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int8, name="tiny"),
            tf.TensorSpec([None], tf.uint8, name="byte"),
        ]
    )
    def small(self, tiny, byte):
        return {"tiny": tiny + 0, "byte": byte + 0}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
    def pairs(self, x):
        wait(0.05)
        return {"difference": tf.squeeze(tf.matmul(x, tf.constant([[1.0], [-1.0]])), 1)}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
    def ragged_width(self, x):
        return {"sum": tf.reduce_sum(x, 1)}


class Lengths(tf.Module):
    """Scores a text by its length, and by the number that stands beside it."""

    def length(self, inputs):
        features = {
            "text": tf.io.FixedLenFeature([], tf.string, ""),
            "times": tf.io.FixedLenFeature([], tf.int64, 1),
            "number": tf.io.FixedLenFeature([], tf.float32, 0.0),
        }
        parsed = tf.io.parse_example(inputs, features)
        length = tf.strings.length(parsed["text"]) * tf.cast(parsed["times"], tf.int32)
        return tf.cast(length, tf.float32) + parsed["number"]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs):
        length = self.length(inputs)
        scores = tf.stack([length, tf.ones_like(length) / 4], 1)
        return {
            "classes": tf.tile(tf.constant([["long", "naïve"]]), [tf.shape(inputs)[0], 1]),
            "scores": scores,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, inputs):
        return {"outputs": self.length(inputs)[:, None]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def scores_alone(self, inputs):
        return {"scores": tf.cast(tf.strings.length(inputs), tf.float32)[:, None]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
    def other(self, x):
        return {"y": x}


class Picky(tf.Module):
    """Refuses the whole batch for one negative number."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        wait(0.05)
        with tf.control_dependencies(
            [tf.debugging.assert_non_negative(x, message="x must not be negative")]
        ):
            return {"y": tf.identity(x)}


class Slow(tf.Module):
    """Answers after as many seconds as the largest number of the batch."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="seconds")])
    def serve(self, seconds):
        with tf.control_dependencies([wait(tf.cast(tf.reduce_max(seconds), tf.float64))]):
            return {"rows": tf.fill(tf.shape(seconds), tf.size(seconds)), "echo": seconds + 0.0}


class Compiled(tf.Module):
    """Needs XLA, which TensorFlow Serving has off."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        return {"y": tf.function(lambda v: v + 1.0, jit_compile=True)(x)}


OPTIONS = {
    "max_new_tokens": tf.int32,
    "temperature": tf.float32,
    "top_k": tf.int32,
    "top_p": tf.float32,
    "min_p": tf.float32,
    "repetition_penalty": tf.float32,
    "seed": tf.int32,
    "stop": tf.string,
}


def option_specs(batch):
    return [tf.TensorSpec([batch], dtype, name=name) for name, dtype in OPTIONS.items()]


class Parrot(tf.Module):
    """A language model that says the prompt again, one character a token, until a stop string."""

    def text(self, prompt, count, stop):
        text = tf.strings.substr(prompt, tf.zeros_like(count), count, unit="UTF8_CHAR")
        pattern = tf.strings.join(["(?s)(?:", tf.strings.regex_replace(stop, "\x1f", "|"), ").*"])
        cut = tf.map_fn(
            lambda row: tf.strings.regex_replace(row[0], row[1], ""),
            (text, pattern),
            fn_output_signature=tf.string,
        )
        return tf.where(stop == "", text, cut), text

    def outputs(self, prompt, count, stop):
        text, whole = self.text(prompt, count, stop)
        length = tf.strings.length(prompt, unit="UTF8_CHAR")
        bad = tf.strings.length(prompt) == 0
        done = tf.logical_or(text != whole, count >= length)
        return {
            "text": text,
            "prompt_tokens": length,
            "generated_tokens": tf.minimum(count, length),
            "finish_reason": tf.where(bad, "error", tf.where(done, "stop", "length")),
            "error": tf.where(bad, "the prompt is empty", ""),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="prompt")])
    def serve(self, prompt):
        count = tf.fill(tf.shape(prompt), 64)
        return self.outputs(prompt, count, tf.fill(tf.shape(prompt), ""))

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string, name="prompt"), *option_specs(None)]
    )
    def generate(self, prompt, max_new_tokens, temperature, top_k, top_p, min_p,
                 repetition_penalty, seed, stop):  # fmt: skip
        return self.outputs(prompt, max_new_tokens, stop)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def score(self, text):
        ids = tf.strings.unicode_decode(text, "UTF-8")
        return {
            "num_tokens": tf.cast(ids.row_lengths(), tf.int32),
            "log_prob": -tf.cast(ids.row_lengths(), tf.float32),
            "perplexity": tf.ones(tf.shape(text)),
            "token_ids": ids.to_tensor(-1),
            "token_log_probs": tf.cast(tf.zeros_like(ids), tf.float32).to_tensor(0),
            "error": tf.fill(tf.shape(text), ""),
        }

    @tf.function(input_signature=[tf.TensorSpec([1], tf.string, name="prompt"), *option_specs(1)])
    def stream_begin(self, prompt, max_new_tokens, temperature, top_k, top_p, min_p,
                     repetition_penalty, seed, stop):  # fmt: skip
        return self.step(prompt, tf.zeros_like(max_new_tokens), max_new_tokens, stop)

    @tf.function
    def stream_next(self, state):
        return self.step(
            state["prompt"], state["count"] + 1, state["max_new_tokens"], state["stop"]
        )

    def step(self, prompt, count, limit, stop):
        with tf.control_dependencies([wait(0.005)]):
            outputs = self.outputs(prompt, count, stop)
        # As a model does that decodes bytes: the last character may not be whole yet.
        done = tf.logical_or(outputs["finish_reason"] != "length", count >= limit)
        return {
            **outputs,
            "done": done,
            "prompt": prompt,
            "count": count,
            "max_new_tokens": limit,
            "stop": stop,
        }


def wait(seconds):
    """Keeps the graph busy for so long; returns how often it looked at the clock."""
    start = tf.timestamp()
    return tf.while_loop(
        lambda _: tf.timestamp() - start < tf.cast(seconds, tf.float64),
        lambda looks: looks + 1,
        [tf.constant(0)],
        parallel_iterations=1,
    )[0]


def save_half_plus(folder, c):
    model = HalfPlus(c)
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.serve})


def save_parrot(folder):
    model = Parrot()
    state = model.stream_begin.get_concrete_function().structured_outputs
    model.stream_next.get_concrete_function(
        {name: tf.TensorSpec(s.shape, s.dtype, name=name) for name, s in state.items()}
    )
    signatures = {
        "serving_default": model.serve,
        "generate": model.generate,
        "score": model.score,
    }
    tf.saved_model.save(model, str(folder), signatures=signatures)


@functools.cache
def toy_base() -> Path:
    """A folder of models, made once a test run; tests that change it take a copy."""
    base = Path(tempfile.mkdtemp(prefix="tfllm-toy-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    save_half_plus(base / "half" / "1", 1.0)
    save_half_plus(base / "half" / "2", 2.0)
    several = Several()
    tf.saved_model.save(
        several,
        str(base / "several" / "7"),
        signatures={
            "serving_default": several.serve,
            "scalar": several.scalar,
            "numbers": several.numbers,
            "small": several.small,
            "pairs": several.pairs,
            "ragged_width": several.ragged_width,
        },
    )
    lengths = Lengths()
    tf.saved_model.save(
        lengths,
        str(base / "lengths" / "1"),
        signatures={
            "serving_default": lengths.classify,
            "scores_alone": lengths.scores_alone,
            "regress": lengths.regress,
            "other": lengths.other,
        },
    )
    for name, model in (("picky", Picky()), ("slow", Slow()), ("compiled", Compiled())):
        tf.saved_model.save(
            model, str(base / name / "1"), signatures={"serving_default": model.serve}
        )
    save_parrot(base / "parrot" / "1")
    return base


def call(server, method, path, body=None):
    """One HTTP request. Returns the status and the body, as an object if it is JSON."""
    status, text, _ = raw_call(server, method, path, body)
    with contextlib.suppress(ValueError):
        return status, json.loads(text)
    return status, text


def raw_call(server, method, path, body=None):
    connection = http.client.HTTPConnection(server.rest_address, timeout=300)
    try:
        if body is not None and not isinstance(body, bytes):
            body = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read().decode(), dict(response.getheaders())
    finally:
        connection.close()


def until(condition, seconds=120):
    """Polls until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def start(base, **settings):
    return ModelServer(
        base, **{"rest_port": 0, "grpc_port": None, "poll_seconds": 0.05, **settings}
    )
