"""The command `evaluate`: perplexity, the measures of a task, or a published test."""

from __future__ import annotations

import argparse
import json
import sys

from tfllm.cli.arguments import (
    AddCommand,
    add_columns,
    add_encoding,
    add_model,
    columns_of,
    encoding_of,
)
from tfllm.cli.terminal import quiet_start, table
from tfllm.config import ConfigError


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    evaluate = add(
        "evaluate", "Measure a model: its perplexity, or its answers for a task", _evaluate
    )
    add_model(evaluate, adapter=True)
    evaluate.add_argument(
        "--data",
        required=True,
        help="what `tfllm prepare` wrote, or files; of a task with columns: files of records",
    )
    evaluate.add_argument(
        "--task", help="what is measured, such as translation; default: what the model says"
    )
    add_columns(evaluate)
    add_encoding(evaluate)
    evaluate.add_argument(
        "--skip-bad-records", action="store_true", help="of a task: pass over broken records"
    )
    evaluate.add_argument(
        "--predictions", metavar="FILE", help="of a task: a .jsonl file for every answer"
    )
    evaluate.add_argument(
        "--bleu-tokenizer",
        help="of a translation: sacrebleu's, such as 13a, intl, zh or char; default: by the script "
        "of the references",
    )
    evaluate.add_argument(
        "--rouge-tokenizer",
        choices=["auto", "english", "unicode"],
        help="of a summarization: rouge-score's own, or words of any script; default: auto, by the "
        "script of the references",
    )
    evaluate.add_argument(
        "--split",
        choices=["validation", "train"],
        help="of prepared data: which documents; default: validation",
    )
    evaluate.add_argument(
        "--sequence-length", type=int, help="tokens in a row; default: as trained with"
    )
    evaluate.add_argument("--batch-size", type=int, help="rows or records at once")
    evaluate.add_argument("--batches", type=int, help="of text: stop after so many; 0: all")
    evaluate.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "int8"],
        default="float32",
        help="of weights and products; int8: of weights, used in the faster of the two",
    )
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    _add_harness(evaluate)


def _add_harness(evaluate: argparse.ArgumentParser) -> None:
    group = evaluate.add_argument_group(
        "published tests of language models (--data: their files of records)"
    )
    group.add_argument(
        "--harness",
        choices=["multiple_choice", "exact_match", "humaneval", "rolling_perplexity"],
        help="which: choices by log-likelihood (HellaSwag), answers that must match (GSM8K), "
        "functions that must pass their tests (HumanEval), or perplexity of documents (WikiText)",
    )
    group.add_argument("--limit", type=int, help="the first so many records; 0: all")
    group.add_argument("--chat", action="store_true", help="ask in messages, not in running text")
    group.add_argument(
        "--num-shots", type=int, help="exact_match: so many records with answers come before"
    )
    group.add_argument(
        "--extract", help="exact_match: the answer's rule: number, line or regex:PATTERN"
    )
    group.add_argument(
        "--template", help="of a question, with {question} (exact_match) or {context} in it"
    )
    group.add_argument(
        "--delimiter", help="multiple_choice: what parts context and choice; default: a space"
    )
    group.add_argument("--num-samples", type=int, help="humaneval: programs for each problem")
    group.add_argument("--temperature", type=float, help="of what is generated; else greedy")
    group.add_argument("--max-new-tokens", type=int, help="of an answer")
    group.add_argument(
        "--allow-code-execution",
        action="store_true",
        help="humaneval: run the programs that the model writes, each confined as far as an "
        "unprivileged process can be",
    )


_SETTINGS = {
    **{name: name for name in ("split", "sequence_length", "batch_size", "encoding")},
    **{name: name for name in ("skip_bad_records", "bleu_tokenizer", "rouge_tokenizer")},
    "batches": "num_batches",
    "predictions": "out",
}
"""flag to what `evaluate` calls it; only those that are given are passed on"""


def _evaluate(options: argparse.Namespace) -> None:
    if hasattr(options, "harness"):
        for name in ("columns", "encoding", "skip_bad_records", *_METRIC_TOKENIZERS):
            if hasattr(options, name):
                flag = "--" + name.replace("_", "-")
                raise ConfigError(
                    f"{flag} is for the records of a task, and a harness reads its own files, in "
                    "UTF-8; leave it out"
                )
        _evaluate_harness(options)
        return
    with quiet_start():
        from tfllm.tasks import evaluate
    given = {
        name: getattr(options, flag) for flag, name in _SETTINGS.items() if hasattr(options, flag)
    }
    if "encoding" in given:
        encoding_of(options)
    if columns := columns_of(options):
        given["columns"] = columns
    result = evaluate(
        options.model,
        options.data,
        task=getattr(options, "task", None),
        dtype=options.dtype,
        adapter=getattr(options, "adapter", None),
        **given,
    )
    if getattr(options, "json", False):
        print(json.dumps(result.to_dict()))
        return
    print(table(result.rows()))
    for remark in result.remarks():
        print(f"note: {remark}")


_METRIC_TOKENIZERS = ("bleu_tokenizer", "rouge_tokenizer")
_HARNESS_SETTINGS = (
    *("limit", "num_shots", "chat", "extract", "template", "delimiter", "num_samples"),
    *("temperature", "max_new_tokens", "allow_code_execution"),
)


def _evaluate_harness(options: argparse.Namespace) -> None:
    with quiet_start():
        from tfllm.evaluation.harness.by_name import check_settings, run_harness
        from tfllm.tasks import Chat, TextGeneration
    given = {name: getattr(options, name) for name in _HARNESS_SETTINGS if hasattr(options, name)}
    check_settings(options.harness, given)
    if options.harness == "humaneval":
        from tfllm.evaluation.harness.code_execution import WARNING, check_allowed

        check_allowed(given.setdefault("allow_code_execution", False))
        print(f"warning: {WARNING}", file=sys.stderr)
    task = Chat if given.get("chat") else TextGeneration
    adapter = getattr(options, "adapter", None)
    model = task.load(options.model, dtype=options.dtype, adapter=adapter)
    if hasattr(options, "batch_size"):
        given["batch_size"] = options.batch_size
    result = run_harness(options.harness, model, options.data, **given)
    measured = result.measured()
    if hasattr(options, "predictions"):
        result.save(options.predictions)
    if getattr(options, "json", False):
        notes = {"notes": list(result.notes)} if result.notes else {}
        print(json.dumps({"harness": result.harness, "measures": [*map(vars, measured)], **notes}))
        return
    rows = {f"examples of {result.harness}": f"{measured[0].num_examples:,}"}
    for measure in measured:
        error = measure.standard_error
        told = measure.note + ("" if error is None else f"; standard error {error:.4g}")
        rows[measure.name] = f"{measure.format()}  ({told})"
    if hasattr(options, "predictions"):
        rows["answers"] = str(options.predictions)
    print(table(rows))
    for note in result.notes:
        print(f"note: {note}")
