"""The token that comes before the first token of a text."""

from __future__ import annotations

from tfllm.tokenizers.base import Tokenizer


def begin_token_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids that the tokenizer's own configuration puts before each text; often none.

    An end token that it puts after a text is not included.
    """
    bare = tokenizer.encode("a", add_special=False)
    whole = tokenizer.encode("a")
    for place in range(len(whole) - len(bare) + 1):
        if whole[place : place + len(bare)] == bare:
            return whole[:place]
    return tokenizer.encode("")[:1]


def prefix_token_id(tokenizer: Tokenizer) -> int:
    """The token from which the first token of a text is predicted, where one is needed.

    It is the tokenizer's begin token, even if the tokenizer does not put it before texts, or else
    its end token, which ended the previous document. lm-evaluation-harness chooses the same.
    """
    begin = tokenizer.settings.get("bos_token")
    if isinstance(begin, dict):
        begin = begin.get("content")
    known = tokenizer.token_id(begin) if isinstance(begin, str) else None
    if known is not None:
        return known
    added = begin_token_ids(tokenizer)
    return added[0] if added else tokenizer.end_token_id
