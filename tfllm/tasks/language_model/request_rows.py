"""Convert the texts and options of a call to the rows of a batch, and the results to texts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfllm.config import ConfigError, GenerationConfig, build, to_dict
from tfllm.config.generation import option_rows
from tfllm.generation.option_inputs import row_tensors

OF_TASK = [name for name, row in option_rows().items() if row.of_task]
"""options that are the same for all prompts of a task"""


def texts_of(given: Any, name: str) -> list[bytes]:
    """One text or several, as bytes, which may hold lone surrogates.

    Raises:
        ValueError: `given` is something else; `name` names it in the error.
    """
    rows = [given] if isinstance(given, str) else given
    if not isinstance(rows, list | tuple) or not all(isinstance(row, str) for row in rows):
        raise ValueError(f"{name} must be a string or a list of strings; received {given!r}")
    return [row.encode("utf-8", "surrogatepass") for row in rows]


def row_options(
    defaults: GenerationConfig, num_rows: int, options: dict[str, Any]
) -> list[GenerationConfig]:
    """The configuration of each row.

    Args:
        defaults: values of the options that are not given.
        num_rows: number of rows of the call.
        options: options as in `TextGeneration.generate`; a list of values has one for each row.

    Raises:
        ConfigError: an option is unknown or out of range, or the number of its values is not the
            number of rows.
    """
    unknown = set(options) - set(to_dict(defaults))
    if unknown:
        build(GenerationConfig, {name: None for name in unknown})  # raises, with the nearest
    for name in options.keys() & set(OF_TASK):
        raise ConfigError(
            f"{name} is the same for all texts of a task; give it with "
            f"task.with_settings({{{name!r}: ...}})"
        )
    per_row = {
        name
        for name, value in options.items()
        if isinstance(value, list | tuple)
        and (name != "stop" or any(isinstance(v, list | tuple) for v in value))
    }
    for name in per_row:
        if len(options[name]) != num_rows:
            raise ConfigError(
                f"{name} must be one value or one a prompt ({num_rows}); received "
                f"{len(options[name])} values"
            )
    configs = []
    for i in range(num_rows):
        values = {n: v[i] if n in per_row else v for n, v in options.items()}
        configs.append(build(GenerationConfig, {**to_dict(defaults), **values}))
    for config in configs:
        config.check_supported()
    return configs


def check_not_searched(given: Sequence[GenerationConfig]) -> None:
    """Refuse beam search where it is not supported.

    Raises:
        ConfigError: one of the configurations asks for beam search.
    """
    if any(g.searches for g in given):
        raise ConfigError(
            "num_beams must be 1, and no_repeat_ngram_size 0, for code and for token ids"
        )


def stream_options(defaults: GenerationConfig, options: dict[str, Any]) -> GenerationConfig:
    """The configuration of a stream; arguments as in `row_options`.

    Raises:
        ConfigError: as in `row_options`; or an option is not supported in a stream.
    """
    (given,) = row_options(defaults, 1, options)
    if given.num_samples > 1 and "num_samples" in options:
        raise ConfigError(
            f"num_samples must be 1 for a stream; received {given.num_samples}. Start a "
            "stream for each, with another seed."
        )
    if given.searches:
        raise ConfigError(
            f"num_beams must be 1, and no_repeat_ngram_size 0, for a stream; received "
            f"{given.num_beams} and {given.no_repeat_ngram_size}: a search knows its first "
            "token when it knows its last"
        )
    return given


class SampledRows:
    """The rows of a call, each repeated `num_samples` times, with a different seed each time.

    Args:
        given: configuration of each row, as from `row_options`.
    """

    def __init__(self, given: Sequence[GenerationConfig]) -> None:
        self._given = given

    def repeated(self, rows: Sequence[Any]) -> tf.Tensor:
        """A tensor of the rows, `[B, ...]`, each once per sample."""
        pairs = zip(rows, self._given, strict=True)
        return tf.constant([row for row, g in pairs for _ in range(g.num_samples)])

    def options(self) -> dict[str, tf.Tensor]:
        """The options of the samples by name, each `[B]`."""
        return row_tensors(
            [
                dataclasses.replace(g, seed=(g.seed + i) % 2**31)
                for g in self._given
                for i in range(g.num_samples)
            ]
        )

    def texts(self, result: dict[str, tf.Tensor]) -> list[Any]:
        """The text of each row, or a list of its samples if any `num_samples` is above 1.

        Raises:
            ValueError: a row has an error.
        """
        given = self._given
        numbers = [i + 1 for i, g in enumerate(given) for _ in range(g.num_samples)]
        answers = iter([text.decode() for text in checked(result, numbers)["text"].numpy()])
        texts: list[Any] = [list(itertools.islice(answers, g.num_samples)) for g in given]
        if any(g.num_samples > 1 for g in given):
            return texts
        return [text for (text,) in texts]


def checked(
    result: dict[str, tf.Tensor], numbers: Sequence[int] | None = None
) -> dict[str, tf.Tensor]:
    """Raise the first error of a row, if any; `numbers` are those of the rows in the error."""
    for row, error in enumerate(result["error"].numpy()):
        if error:
            raise ValueError(f"text {numbers[row] if numbers else row + 1}: {error.decode()}")
    return result
