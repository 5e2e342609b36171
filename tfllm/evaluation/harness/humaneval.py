"""Let a model write functions, and run them against their tests (HumanEval, Chen et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import regex

from tfllm.data.reading.table_records import Column, Record, Source
from tfllm.evaluation.harness.code_execution import Limits, run_programs
from tfllm.evaluation.harness.exact_match import replies
from tfllm.evaluation.harness.harness import (
    HarnessResult,
    in_batches,
    read_records,
    truncation_note,
)
from tfllm.evaluation.harness.prompts import continuations, room_for_answers
from tfllm.evaluation.metrics import Metric, check_lengths, mean

COLUMNS = {
    "prompt": Column(),
    "test": Column(),
    "entry_point": Column(),
    "task_id": Column(required=False, kind="label"),
}
"""columns of a record: a function's signature and docstring, `def check(candidate)`, its name"""
STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\n```")
"""starts of unindented lines, at which the function ends"""
INSTRUCTION = "Complete this Python function. Answer with the whole function in one code block."


def humaneval(
    model: Any,
    data: Source | Sequence[Mapping[str, Any]],
    *,
    allow_code_execution: bool,
    limit: int = 0,
    batch_size: int = 16,
    num_samples: int = 1,
    ks: Sequence[int] = (1,),
    chat: bool = False,
    max_new_tokens: int | None = None,
    limits: Limits | None = None,
    **options: Any,
) -> HarnessResult:
    """Let a model write functions, run each with its tests in a confined process, and count passes.

    Args:
        model: object with the method `generate`; with `chat`, one with `reply` (`Chat`) or `chat`
            (a `Client`).
        data: files with `COLUMNS`, such as HumanEval.jsonl.gz, or records.
        allow_code_execution: must be true, since a model's code is run (see `code_execution`).
        limit: maximum number of problems; 0: all. Defaults to 0.
        batch_size: prompts per batch. Defaults to 16.
        num_samples: programs per problem; more than one need a temperature. Defaults to 1.
        ks: values of k for pass@k, at most `num_samples`. Defaults to (1,).
        chat: whether to ask for the function in a message, and to use the code block of the reply.
            Defaults to False.
        max_new_tokens: maximum tokens of a program. Defaults to 256, or half the model's context if
            that is less.
        limits: resource limits of a program.
        options: other fields of `GenerationConfig`; by default, decoding is greedy.

    Returns:
        The result.

    Raises:
        PermissionError: `allow_code_execution` is false; nothing was generated.
        ValueError: a record is not of this form, or k is out of range.
        RuntimeError: the system cannot confine a process.
    """
    if num_samples < 1 or any(not 1 <= k <= num_samples for k in ks):
        raise ValueError(
            f"ks must be from 1 to num_samples ({num_samples}), which is at least 1; received "
            f"{list(ks)}"
        )
    if max_new_tokens is None:
        max_new_tokens = room_for_answers(model)
    settings: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": max_new_tokens, **options}
    if num_samples > 1 and not settings["temperature"]:
        raise ValueError(
            f"without a temperature, all num_samples ({num_samples}) samples are the same; set "
            "one, such as temperature=0.8"
        )
    # Check that programs may and can be run before the slow generation.
    run_programs(["pass"], allow_code_execution=allow_code_execution, limits=limits)
    records = read_records(data, COLUMNS, limit)
    # Without white space at the end, which tokenizers merge with the following word.
    prompts = [str(record["prompt"]).rstrip() for record in records]
    programs: list[list[str]] = [[] for _ in records]
    texts: list[list[str]] = [[] for _ in records]
    num_truncated = 0
    for sample in range(num_samples):
        wanted = {**settings, "seed": settings.get("seed", 0) + sample}
        if chat:
            given = in_batches(prompts, lambda some, w=wanted: _replies(model, some, w), batch_size)
        else:
            stopped = {**wanted, "stop": list(STOPS)}
            given, num_truncated = continuations(model, prompts, stopped, batch_size)
        for i, text in enumerate(given):
            body = function_of_reply(text) if chat else text
            texts[i].append(text)
            programs[i].append(program_of(records[i], body, whole=chat))
    outcomes = iter(
        run_programs(
            [program for several in programs for program in several],
            allow_code_execution=allow_code_execution,
            limits=limits,
        )
    )
    predictions, right = [], []
    for number, record in enumerate(records):
        found = [next(outcomes) for _ in range(num_samples)]
        right.append(sum(outcome.passed for outcome in found))
        for text, outcome in zip(texts[number], found, strict=True):
            predictions.append(
                {
                    "task_id": record.get("task_id") or str(number),
                    "text": text,
                    "passed": outcome.passed,
                    "reason": outcome.reason,
                }
            )
    note = "greedy" if not settings["temperature"] else f"temperature {settings['temperature']:g}"
    note += f", {num_samples} samples" * (num_samples > 1) + ", chat" * chat
    metrics = [pass_at(k, right, [num_samples] * len(right), note=note) for k in ks]
    notes = truncation_note(num_truncated, len(records))
    return HarnessResult("humaneval", metrics, predictions, notes)


def pass_at(
    k: int, num_right: Sequence[int], num_samples: Sequence[int], *, note: str = ""
) -> Metric:
    """pass@k, the fraction of problems that one of k programs solves: 1 - C(n - c, k) / C(n, k).

    Its mean over problems is an unbiased estimate (Chen et al., 2021).

    Args:
        k: number of programs.
        num_right: c, the number of correct programs for each problem.
        num_samples: n, the number of programs for each problem, at least k.
        note: as in `Metric.note`.

    Raises:
        ValueError: a problem has fewer samples than k.
    """
    check_lengths(num_right, num_samples)
    if min(num_samples, default=k) < k:
        raise ValueError(f"pass@{k} needs {k} samples per problem; one has {min(num_samples)}")

    def estimate(n: int, c: int) -> float:
        return 1.0 - float(np.prod([(n - c - i) / (n - i) for i in range(k)]))

    return mean(
        f"pass@{k}",
        [estimate(n, c) for n, c in zip(num_samples, num_right, strict=True)],
        note=note,
    )


def program_of(record: Record | Mapping[str, Any], text: str, *, whole: bool = False) -> str:
    """The program of a function, its tests, and the call that runs them.

    Args:
        record: a record with `COLUMNS`.
        text: continuation of the prompt, whose trailing white space is removed; or, with `whole`,
            code that defines the whole function.
        whole: whether the text defines the whole function; it follows the prompt, whose imports and
            definitions it may use.
    """
    head = record["prompt"].rstrip() + ("\n    pass\n\n" if whole else "")
    return f"{head}{text}\n\n{record['test']}\n\ncheck({record['entry_point']})\n"


def function_of_reply(reply: str) -> str:
    """The code of a reply: its first code block, or the whole reply if it has none."""
    block = regex.search(r"```(?:\w+)?[ \t]*\n(.*?)(?:\n```|\Z)", reply, regex.DOTALL)
    return block.group(1) if block else reply


def _replies(model: Any, prompts: list[str], settings: Mapping[str, Any]) -> list[str]:
    asked = [f"{INSTRUCTION}\n\n```python\n{prompt}\n```" for prompt in prompts]
    return replies(model, [[{"role": "user", "content": one}] for one in asked], settings)
