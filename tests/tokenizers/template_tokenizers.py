"""A tokenizer with each recorded chat template, and words that look like special tokens."""

import functools
from pathlib import Path

from hypothesis import strategies as st

from tests.tokenizers.conversations import (
    BEGIN_AND_END,
    OTHER_ADDED_TOKENS,
    SPECIAL_TOKENS,
    without_generation_tags,
)
from tfllm.tokenizers import BytePairTokenizer
from tfllm.tokenizers.chat.chat_template import ChatTemplate

FOLDER = Path(__file__).parent / "chat_templates"


@functools.cache
def tokenizer(name: str, marked: bool = False) -> BytePairTokenizer:
    begin, end = BEGIN_AND_END[name]
    made = BytePairTokenizer((FOLDER / "tokenizer.json").read_text(encoding="utf-8"), end_token=end)
    source = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    made.settings["chat_template"] = source if marked else without_generation_tags(source)
    if begin:
        made.settings["bos_token"] = {"content": begin}
    return made


@functools.cache
def template(name: str, marked: bool = False) -> ChatTemplate:
    return ChatTemplate.of(tokenizer(name, marked))


WORDS = st.lists(
    st.sampled_from(
        [
            *SPECIAL_TOKENS,
            *OTHER_ADDED_TOKENS,
            *"<|[ie_m/>] \n",
            "<|im_",
            "end|>",
            "the cat",
            "\ufdd0",
            "\ufdd1",
            "é🎉",
            "\ud800",
        ]
    ),
    max_size=8,
).map("".join)
