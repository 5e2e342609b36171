"""Texts that tests prepare as data."""

import random

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "tree",
    "quickly",
    "ünïcode",
    "猫",
    "🙂",
    "42",
    "x=1;",
    "and",
]


def make_documents(count: int, seed: int = 0, longest: int = 120) -> list[str]:
    """Documents that all differ, of 3 to `longest` words."""
    draw = random.Random(seed)
    return [
        " ".join([f"{i}:", *draw.choices(WORDS, k=draw.randint(3, longest))]) for i in range(count)
    ]
