"""The command `evaluate`: perplexity, the metrics of a task, or a published benchmark."""

from __future__ import annotations

import argparse
import json
import sys

from tfllm.cli.arguments import AddCommand, add_columns, add_encoding, add_model
from tfllm.cli.settings import columns_of, encoding_of
from tfllm.cli.terminal import quiet_start, table
from tfllm.config import ConfigError


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    evaluate = add(
        "evaluate",
        "Evaluate a model: its perplexity, the metrics of its task, or a published benchmark",
        _evaluate,
        "tfllm evaluate runs/mine --data held_out.jsonl --predictions predictions.jsonl",
    )
    add_model(evaluate, adapter=True)
    evaluate.add_argument(
        "--data",
        metavar="PATH",
        required=True,
        help="prepared data (of `tfllm prepare`), or files of text or records",
    )
    evaluate.add_argument(
        "--task",
        metavar="TASK",
        help="task to evaluate, such as translation; default: the task the model was trained for",
    )
    add_columns(evaluate)
    add_encoding(evaluate)
    evaluate.add_argument(
        "--skip-bad-records", action="store_true", help="for a task: skip malformed records"
    )
    evaluate.add_argument(
        "--predictions",
        metavar="FILE",
        help="for a task: write each record with its prediction to this .jsonl file",
    )
    evaluate.add_argument(
        "--bleu-tokenizer",
        metavar="NAME",
        help="for translation: a tokenizer of sacrebleu, such as 13a, intl, zh or char; default: "
        "by the script of the references",
    )
    evaluate.add_argument(
        "--rouge-tokenizer",
        choices=["auto", "english", "unicode"],
        help="for summarization: english (that of rouge-score) or unicode (words of any script); "
        "default: auto, by the script of the references",
    )
    evaluate.add_argument(
        "--split",
        choices=["validation", "train"],
        help="split of the prepared data; default: validation",
    )
    evaluate.add_argument(
        "--sequence-length",
        type=int,
        metavar="N",
        help="tokens per example; default: the sequence length of the training",
    )
    evaluate.add_argument("--batch-size", type=int, metavar="N", help="examples per batch")
    evaluate.add_argument(
        "--batches", type=int, metavar="N", help="for text: batches to evaluate on; 0: all"
    )
    evaluate.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "int8"],
        default="float32",
        help="dtype of weights and matrix products; int8: of the weights only, products in the "
        "faster of float32 and bfloat16",
    )
    evaluate.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_harness(evaluate)
    evaluate.lead_with(
        *("--data", "--task", "--columns", "--predictions", "--split", "--sequence-length"),
        *("--batch-size", "--batches", "--dtype", "--adapter", "--harness", "--json"),
    )


def _add_harness(evaluate: argparse.ArgumentParser) -> None:
    group = evaluate.add_argument_group(
        "published benchmarks of language models (--data: their files of records)"
    )
    group.add_argument(
        "--harness",
        choices=["multiple_choice", "exact_match", "humaneval", "rolling_perplexity"],
        help="kind of benchmark: choices ranked by log-likelihood (HellaSwag), answers compared "
        "by exact match (GSM8K), programs that must pass tests (HumanEval), or perplexity of whole "
        "documents (WikiText)",
    )
    group.add_argument(
        "--limit", type=int, metavar="N", help="evaluate on the first N records; 0: all"
    )
    group.add_argument(
        "--chat", action="store_true", help="ask with the chat template instead of plain text"
    )
    group.add_argument(
        "--num-shots", type=int, metavar="N", help="exact_match: few-shot examples in the prompt"
    )
    group.add_argument(
        "--extract",
        metavar="RULE",
        help="exact_match: how the answer is found in the text: number, line or regex:PATTERN",
    )
    group.add_argument(
        "--template",
        metavar="TEXT",
        help="template of the prompt, which contains {question} (exact_match) or {context}",
    )
    group.add_argument(
        "--delimiter",
        metavar="TEXT",
        help="multiple_choice: text between context and choice; default: a space",
    )
    group.add_argument(
        "--num-samples", type=int, metavar="N", help="humaneval: programs sampled per problem"
    )
    group.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help="sampling temperature of generated answers; default: greedy",
    )
    group.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="maximum number of tokens in an answer"
    )
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
"""maps each flag to the argument of `evaluate`; only flags that are given are passed on"""


def _evaluate(options: argparse.Namespace) -> None:
    if hasattr(options, "harness"):
        for name in ("columns", "encoding", "skip_bad_records", *_METRIC_TOKENIZERS):
            if hasattr(options, name):
                flag = "--" + name.replace("_", "-")
                raise ConfigError(
                    f"{flag} is for the records of a task, but a benchmark has its own file format "
                    "in UTF-8; leave it out"
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
    values = result.metric_values()
    if hasattr(options, "predictions"):
        result.save(options.predictions)
    if getattr(options, "json", False):
        notes = {"notes": list(result.notes)} if result.notes else {}
        print(json.dumps({"harness": result.harness, "metrics": [*map(vars, values)], **notes}))
        return
    rows = {f"examples of {result.harness}": f"{values[0].num_examples:,}"}
    for metric in values:
        error = metric.standard_error
        note = metric.note + ("" if error is None else f"; standard error {error:.4g}")
        rows[metric.name] = f"{metric.format()}  ({note})"
    if hasattr(options, "predictions"):
        rows["answers"] = str(options.predictions)
    print(table(rows))
    for note in result.notes:
        print(f"note: {note}")
