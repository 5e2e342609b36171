"""A tiny data set and model for each task, with what the contract needs of every task.

A new task needs an entry in `TASKS` and a case here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tfllm.data import prepared

_WORDS = ["the", "a", "film", "day", "night", "road", "was", "is", "very", "quite", "not", "so"]
TINY_ENCODER: dict[str, Any] = {
    "num_layers": 1,
    "embedding_dim": 16,
    "num_heads": 2,
    "feed_forward_dim": 24,
    "max_sequence_length": 32,
    "dropout": 0.1,
}

ADDITIONS = 3 * (3 * 16 + 8 + 32 + 2 * 16 + 24) + 2 * 16 + 120
"""on the longest way through the tiny models, an encoder and a decoder: to a softmax over 120"""


@dataclass(frozen=True)
class TinyCase:
    """What the contract needs of a task."""

    records: Callable[[], list[dict[str, Any]]]
    """training records, some dozens, the same each time"""
    model: Any
    """of `train(model=)`: sizes of a tiny one"""
    inputs: list[dict[str, Any]]
    """records to predict from: good ones, and one that is too long"""
    bad_records: list[tuple[dict[str, Any], str]]
    """records that must not be learned from, and what the error says"""
    bad_inputs: list[dict[str, Any]] = field(default_factory=list)
    """records whose answer has an `error`"""
    settings: dict[str, Any] = field(default_factory=dict)
    """of the training, over the contract's own"""
    vocab_size: int = 120


def prepare_task(task, source, out, config=None, *, base=None, sequence_length, **options):
    """Records as the examples of a task, in a folder."""
    config = task.prepare_config(config, base=base, sequence_length=sequence_length)
    return prepared(task, source, out, config, **options)


def sentence(rng: random.Random, extra: list[str], longest: int = 12) -> str:
    words = [*rng.choices(_WORDS, k=rng.randint(3, longest)), rng.choice(extra)]
    rng.shuffle(words)
    return " ".join(words)


def _labelled() -> list[dict[str, Any]]:
    rng = random.Random(0)
    words = {"good": ["lovely", "great"], "bad": ["awful", "poor"], "odd, even": ["strange"]}
    return [
        {"text": sentence(rng, words[label]) + f" {i}", "label": label}
        for i in range(20)
        for label in words
    ]


def _pairs() -> list[dict[str, Any]]:
    rng = random.Random(0)
    kinds = ["cats", "dogs", "trains", "rivers", "songs"]
    return [
        {"text": f"what of {kind} {i}", "positive": sentence(rng, [kind]) + f" {i}"}
        for i in range(8)
        for kind in kinds
    ]


def _asked() -> list[dict[str, Any]]:
    rng = random.Random(0)
    records = []
    for i in range(40):
        context = f"{sentence(rng, ['road'])} {i} cats {sentence(rng, ['night'])}"
        record = {"question": "how many cats", "context": context, "answer": f"{i} cats"}
        if i % 4 == 0:
            record |= {"question": "how many dogs", "answer": ""}
        records.append(record)
    return records


def _tagged() -> list[dict[str, Any]]:
    rng = random.Random(0)
    names = {"PERSON": ["Anna", "Jane Grey"], "PLACE": ["Rome", "New York"]}
    records = []
    for i in range(20):
        for label in names:
            before, name = sentence(rng, ["film"], 5), rng.choice(names[label])
            span = {"begin": len(before) + 1, "end": len(before) + 1 + len(name), "label": label}
            records.append({"text": f"{before} {name} was {i}", "spans": [span]})
    return records


TINY_ENCODER_DECODER: dict[str, Any] = {**TINY_ENCODER, "num_layers": 1}


def _translated() -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {"text": text, "translation": " ".join(reversed(text.upper().split()))}
        for text in (f"{sentence(rng, ['film'], 5)} {i}" for i in range(40))
    ]


CASES: dict[str, TinyCase] = {
    "classification": TinyCase(
        _labelled,
        TINY_ENCODER,
        [{"text": "a lovely day"}, {"text": "so " * 80}, {"text": "naïve 你好"}],
        [
            ({"text": "a day", "label": " "}, "'label' is empty"),
            ({"text": "", "label": "good"}, "'text' is empty"),
            ({"text": "a day", "lable": "good"}, "no column 'label'.*'text', 'lable'"),
            (
                {"text": "a day", "second_text": "b", "label": "good"},
                "either every record must have a second_text or none",
            ),
        ],
        [{"text": ""}],
    ),
    "embedding": TinyCase(
        _pairs,
        TINY_ENCODER,
        [{"text": "what of cats"}, {"text": "so " * 80}, {"text": "naïve 你好"}],
        [({"text": "a day", "positive": ""}, "'positive' is empty")],
    ),
    "question_answering": TinyCase(
        _asked,
        TINY_ENCODER,
        [
            {"question": "how many cats", "context": "was 3 cats"},
            {"question": "how many cats", "context": "so many " * 60},
            {"question": "so many " * 30, "context": "naïve 你好"},
        ],
        [
            ({"question": "a", "context": "b c", "answer": "d"}, "is not in the context"),
            (
                {"question": "a", "context": "b c", "answer": "c", "answer_start": 1},
                "line 41.*is not at answer_start 1: the text there is ' '",
            ),
            ({"question": "a", "text": "b"}, "no column 'context'"),
        ],
        [{"question": "a", "context": " "}, {"question": "", "context": "b"}],
    ),
    "tagging": TinyCase(
        _tagged,
        TINY_ENCODER,
        [{"text": "so Anna was"}, {"text": "so Jane Grey " * 60}, {"text": "naïve 你好"}],
        [
            ({"text": "Anna", "spans": [[1, 4, "PERSON"]]}, "begin and end where words do"),
            ({"text": "Anna", "spans": [[0, 5, "PERSON"]]}, "line 41.*lie within its text"),
            ({"text": "a b", "spans": [[0, 3, "A"], [2, 3, "B"]]}, "must not overlap"),
            ({"text": "a", "span": []}, "no column 'spans'"),
        ],
        [{"text": " "}],
    ),
    "masked_language_model": TinyCase(
        lambda: [{"text": record["text"]} for record in _labelled()],
        TINY_ENCODER,
        [{"text": "the [MASK] was so"}, {"text": "so [MASK] " * 80}, {"text": "naïve 你好"}],
        [({"text": ""}, "'text' is empty")],
        [{"text": ""}],
    ),
    "summarization": TinyCase(
        lambda: [
            {"text": f"{r['text']} {r['translation']}", "summary": r["text"]} for r in _translated()
        ],
        TINY_ENCODER_DECODER,
        [{"text": "the film was"}, {"text": "so " * 80}, {"text": "naïve 你好"}],
        [
            ({"text": "a day", "summary": ""}, "'summary' is empty"),
            ({"document": "a", "sumary": "b"}, "no column 'summary'.*'document', 'sumary'"),
        ],
        [{"text": " "}],
        vocab_size=300,
    ),
    "translation": TinyCase(
        _translated,
        TINY_ENCODER_DECODER,
        # The last of no language that it has seen.
        [{"text": "the film was"}, {"text": "so " * 80}, {"text": "naïve 你好 👋🏽 \u202e"}],
        [
            ({"text": "a day", "translation": " "}, "'translation' is empty"),
            ({"translation": {"en": "a", "es": "b"}}, "no column 'text'.*columns are 'en', 'es'"),
            ({"text": "a day", "translation": 3}, "'translation' must be a string"),
        ],
        [{"text": ""}, {"text": " \n"}],
        vocab_size=300,
    ),
}
