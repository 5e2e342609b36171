"""Fit the prompts of a harness into the model's context."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfllm.evaluation.harness.harness import in_batches
from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.begin_token import prefix_token_id


def is_local(model: Any) -> bool:
    """Whether a model is a `TextGeneration`, whose tokenizer is accessible, and not a `Client`."""
    return hasattr(model, "decoder") and hasattr(model, "tokenizer")


def encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text, without a second begin token if the text itself begins with one."""
    begins = text.startswith(tokenizer.decode([prefix_token_id(tokenizer)], skip_special=False))
    return tokenizer.encode(text, add_special=not begins)


def continuations(
    model: Any, prompts: Sequence[str], options: Mapping[str, Any], batch_size: int
) -> tuple[list[str], int]:
    """Generate the continuation of each prompt; returns them and the number of truncated prompts.

    A prompt is truncated at its beginning, so that `max_new_tokens` fit after it into the model's
    context. The `Client` of a served model does not know the tokens: there, a prompt that is
    refused as too long is truncated by characters.

    Args:
        model: a `TextGeneration` or a `Client`.
        prompts: the prompts.
        options: fields of `GenerationConfig`, including `max_new_tokens`.
        batch_size: prompts per batch.

    Raises:
        ValueError: `max_new_tokens` leaves no room for a prompt.
    """
    if not is_local(model):
        found = in_batches(
            prompts,
            lambda some: fitting(lambda texts: model.generate(texts, **options), some),
            batch_size,
        )
        return [text for text, _ in found], sum(bool(num_truncated) for _, num_truncated in found)
    room = model.decoder.context - options["max_new_tokens"]
    if room < 1:
        raise ValueError(
            "max_new_tokens must be less than the model's context length "
            f"({model.decoder.context} tokens), which must also hold the prompt; received "
            f"{options['max_new_tokens']}"
        )
    rows = [encoded(model.tokenizer, prompt) for prompt in prompts]
    texts: list[str] = [""] * len(rows)
    for too_long in (True, False):
        places = [i for i, row in enumerate(rows) if (len(row) > room) == too_long]
        if too_long:
            found = in_batches(
                [rows[i][-room:] for i in places],
                lambda some: model.generate_from_ids(some, **options),
                batch_size,
            )
        else:
            found = in_batches(
                [prompts[i] for i in places],
                lambda some: model.generate(some, **options),
                batch_size,
            )
        for place, text in zip(places, found, strict=True):
            texts[place] = text
    return texts, sum(len(row) > room for row in rows)


def room_for_answers(model: Any, most: int = 256) -> int:
    """Default of `max_new_tokens`: `most`, or half the context of a small model."""
    return min(most, max(model.decoder.context // 2, 1)) if is_local(model) else most


def fitting(
    ask: Callable[[list[str]], Sequence[Any]], texts: Sequence[str]
) -> list[tuple[Any, int]]:
    """Answers of a served model to texts, each with the number of characters that were cut off.

    A text longer than the model's context is truncated at its beginning, by as little as possible.
    Other errors are raised.
    """
    try:
        return [(answer, 0) for answer in ask(list(texts))]
    except ValueError as error:
        if "context" not in str(error):
            raise
        if len(texts) > 1:
            return [answer for text in texts for answer in fitting(ask, [text])]
        refusal = error
    (text,) = texts
    low, high, best = 0, len(text), None  # numbers of characters cut off: too few, all
    while high - low > 1:
        middle = (low + high) // 2
        try:
            best, high = ask([text[middle:]])[0], middle
        except ValueError as error:
            if "context" not in str(error):
                raise
            low = middle
    if best is None:
        raise refusal
    return [(best, high)]
