"""Functions that a model writes, run against their tests (HumanEval, Chen et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import regex

from tfllm.data.reading.table_records import Column, Record, Source
from tfllm.evaluation.harness.code_execution import Limits, run_programs
from tfllm.evaluation.harness.exact_match import replies
from tfllm.evaluation.harness.harness import HarnessResult, cut_note, in_batches, read_records
from tfllm.evaluation.harness.prompts import continuations, room_for_answers
from tfllm.evaluation.measures import Measure, check_lengths, mean

COLUMNS = {
    "prompt": Column(),
    "test": Column(),
    "entry_point": Column(),
    "task_id": Column(required=False, kind="label"),
}
"""of a record: a function's head and docstring, `def check(candidate)`, the function's name"""
STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\n```")
"""what begins at the margin belongs to the function no more"""
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
    """Let a model write functions, run each with its tests in a confined process, and count.

    Args:
        model: what has `generate`; with `chat`, what has `reply` (`Chat`) or `chat` (a `Client`).
        data: files with `COLUMNS`, such as HumanEval.jsonl.gz, or records.
        allow_code_execution: must be true: a model's code is run (see `code_execution`).
        limit: the first so many problems; 0: all.
        batch_size: prompts at once.
        num_samples: programs for each problem; more than one want a temperature.
        ks: pass@k for these; none above `num_samples`.
        chat: ask for the function in a message, and take the reply's code block.
        max_new_tokens: of a program; default: 256, or half the model's context if that is less.
        limits: of a program's process.
        options: other fields of `GenerationConfig`; greedy, unless told otherwise.

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
            f"num_samples ({num_samples}) are all the same without a temperature; set one, such as "
            "0.8"
        )
    # Before the slow part: may programs run, and can they?
    run_programs(["pass"], allow_code_execution=allow_code_execution, limits=limits)
    records = read_records(data, COLUMNS, limit)
    # Without white space at the end, which tokenizers join with what follows.
    prompts = [str(record["prompt"]).rstrip() for record in records]
    programs: list[list[str]] = [[] for _ in records]
    texts: list[list[str]] = [[] for _ in records]
    num_cut = 0
    for sample in range(num_samples):
        wanted = {**settings, "seed": settings.get("seed", 0) + sample}
        if chat:
            given = in_batches(prompts, lambda some, w=wanted: _replies(model, some, w), batch_size)
        else:
            stopped = {**wanted, "stop": list(STOPS)}
            given, num_cut = continuations(model, prompts, stopped, batch_size)
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
    measures = [pass_at(k, right, [num_samples] * len(right), note=note) for k in ks]
    return HarnessResult("humaneval", measures, predictions, cut_note(num_cut, len(records)))


def pass_at(
    k: int, num_right: Sequence[int], num_samples: Sequence[int], *, note: str = ""
) -> Measure:
    """The share of problems of which one of k programs works: 1 - C(n - c, k) / C(n, k).

    The mean of that over problems has no bias (Chen et al., 2021).

    Args:
        k: programs.
        num_right: c, of each problem, programs that work.
        num_samples: n, of each problem, programs that were tried, at least k.
        note: as `Measure.note`.

    Raises:
        ValueError: a problem has fewer samples than k.
    """
    check_lengths(num_right, num_samples)
    if min(num_samples, default=k) < k:
        raise ValueError(f"pass@{k} needs {k} samples of each problem; one has {min(num_samples)}")

    def estimate(n: int, c: int) -> float:
        return 1.0 - float(np.prod([(n - c - i) / (n - i) for i in range(k)]))

    return mean(
        f"pass@{k}",
        [estimate(n, c) for n, c in zip(num_samples, num_right, strict=True)],
        note=note,
    )


def program_of(record: Record | Mapping[str, Any], text: str, *, whole: bool = False) -> str:
    """The function, its tests, and the call that runs them.

    Args:
        record: by `COLUMNS`.
        text: what goes on from the prompt without white space at its end; or, with `whole`, code
            that defines the function anew, before which the prompt stands for what it imports and
            defines.
    """
    head = record["prompt"].rstrip() + ("\n    pass\n\n" if whole else "")
    return f"{head}{text}\n\n{record['test']}\n\ncheck({record['entry_point']})\n"


def function_of_reply(reply: str) -> str:
    """The code of a reply: its first code block, or all of it."""
    block = regex.search(r"```(?:\w+)?[ \t]*\n(.*?)(?:\n```|\Z)", reply, regex.DOTALL)
    return block.group(1) if block else reply


def _replies(model: Any, prompts: list[str], settings: Mapping[str, Any]) -> list[str]:
    asked = [f"{INSTRUCTION}\n\n```python\n{prompt}\n```" for prompt in prompts]
    return replies(model, [[{"role": "user", "content": one}] for one in asked], settings)
