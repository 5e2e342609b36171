"""The command `evaluate`: perplexity, the measures of a task, or a published test."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

from tfllm.cli.arguments import (
    AddCommand,
    add_columns,
    add_encoding,
    add_model,
    columns_of,
    encoding_of,
    parsed_source,
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
        "--data", required=True, help="what `tfllm prepare` wrote; of a task: files of records"
    )
    evaluate.add_argument(
        "--task", help="measure the answers to records; a model folder of a task says it itself"
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
        "--split", choices=["validation", "train"], default="validation", help="which documents"
    )
    evaluate.add_argument(
        "--sequence-length", type=int, help="tokens in a row; default: as trained with"
    )
    evaluate.add_argument("--batch-size", type=int, default=8, help="rows or records at once")
    evaluate.add_argument("--batches", type=int, default=0, help="stop after so many; 0: all")
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


_OF_RECORDS = ("columns", "encoding", "skip_bad_records", "bleu_tokenizer", "rouge_tokenizer")


def _refuse_of_records(options: argparse.Namespace, what: str) -> None:
    """Refuse what says how a task's records are read or measured, where none are."""
    for name in _OF_RECORDS:
        if hasattr(options, name):
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} is for the records of a task, and {what}; leave it out")


def _evaluate(options: argparse.Namespace) -> None:
    if hasattr(options, "harness"):
        _refuse_of_records(options, "a harness reads its own files, in UTF-8")
        _evaluate_harness(options)
        return
    if getattr(options, "task", None) is not None or not _is_prepared(options.data):
        with quiet_start():
            pass
        _evaluate_task(options)
        return
    _refuse_of_records(options, f"{options.data} is prepared text")
    with quiet_start():
        from tfllm.data import PreparedData
        from tfllm.evaluation import evaluate
        from tfllm.pretrained import load
        from tfllm.pretrained.adapters import load_merged
        from tfllm.pretrained.model_folder import model_folder
    folder = model_folder(options.model)
    data = PreparedData.open(options.data)  # before the model, which takes longer
    adapter = getattr(options, "adapter", None)
    dtype = options.dtype
    pretrained = (
        load(folder, dtype=dtype) if adapter is None else load_merged(folder, adapter, dtype=dtype)
    )
    sequence_length = getattr(options, "sequence_length", None)
    result = evaluate(
        pretrained.model,
        data,
        split=options.split,
        sequence_length=_trained_length(folder) if sequence_length is None else sequence_length,
        batch_size=options.batch_size,
        num_batches=options.batches,
        tokenizer=pretrained.tokenizer,
    )
    if getattr(options, "json", False):
        values = dataclasses.asdict(result)
        print(json.dumps({n: None if math.isnan(v) else v for n, v in values.items()}))
        return
    rows = {
        f"tokens of the {options.split} text": f"{result.num_tokens:,}",
        "loss": f"{result.loss:.4f}",
        "perplexity": f"{result.perplexity:.2f}",
        "of a unigram model": f"{result.unigram_perplexity:.2f}",
        "bits per byte": f"{result.bits_per_byte:.3f}",
    }
    if options.split != "validation" or math.isnan(result.unigram_perplexity):
        del rows["of a unigram model"]  # it is about the validation text
    print(table(rows))


def _is_prepared(data: str) -> bool:
    """Whether it is a folder of prepared text, or none at all, whose error tells of such."""
    path = Path(data)
    return (path / "manifest.json").exists() or not path.exists()


def _trained_length(folder: Path) -> int | None:
    """The sequence length that a model was trained with, where its folder says so."""
    try:
        values = json.loads((folder / "tfllm.json").read_text(encoding="utf-8"))
        return int(values["training"]["sequence_length"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _evaluate_task(options: argparse.Namespace) -> None:
    from tfllm.tasks import evaluate_task

    result = evaluate_task(
        options.model,
        parsed_source(options.data),
        task=getattr(options, "task", None),
        columns=columns_of(options),
        encoding=encoding_of(options),
        skip_bad_records=getattr(options, "skip_bad_records", False),
        out=getattr(options, "predictions", None),
        dtype=options.dtype,
        batch_size=options.batch_size,
        measure_settings={
            name: getattr(options, name)
            for name in ("bleu_tokenizer", "rouge_tokenizer")
            if hasattr(options, name)
        },
    )
    if getattr(options, "json", False):
        print(json.dumps(result.to_dict()))
        return
    rows = {f"records of {result.task}": f"{result.num_records:,}"}
    if result.num_errors:
        rows["refused, which counts as wrong"] = f"{result.num_errors:,}"
    for measure in result.measures:
        rows[measure.name] = measure.format() + (f"  ({measure.note})" if measure.note else "")
    rows["records/s"] = f"{result.num_records / max(result.seconds, 1e-9):,.1f}"
    if result.predictions is not None:
        rows["answers"] = str(result.predictions)
    if result.pictures:
        rows["pictures"] = ", ".join(map(str, result.pictures))
    print(table(rows))
    for note in result.notes:
        print(f"note: {note}")


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
    result = run_harness(
        options.harness, model, options.data, batch_size=options.batch_size, **given
    )
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
