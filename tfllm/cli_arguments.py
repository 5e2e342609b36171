"""What the command line takes: its commands, flags and settings, read without TensorFlow."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from tfllm import __version__
from tfllm.config import (
    ConfigError,
    GenerationConfig,
    ModelConfig,
    PrepareConfig,
    TrainingConfig,
    field_docs,
    field_types,
    read_file,
    read_value,
    unknown_name,
)

_SECTIONS: dict[str, type] = {
    "prepare": PrepareConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "generation": GenerationConfig,
}
"""Of a settings file. `model` may also name a `preset`."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse prints all flags."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace | None:
    """What was asked for; None where no command was named, once the help is printed.

    Exits with status 2 and one line on standard error where the arguments are wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = _parser()
    name = next((word for word in words if not word.startswith("-")), None)
    if name is not None and name not in commands:
        parser.error(unknown_name("command", name, commands))
    command = commands[name] if name else parser
    flags = [flag for flag in command._option_string_actions if flag.startswith("--")]
    end = words.index("--") if "--" in words else len(words)
    behind: list[str] = []
    if name == "launch":  # what stands behind `--` is a command line of its own
        words, behind = words[:end], words[end + 1 :]
        if not {"-h", "--help"} & set(words):
            _check_worker_command(command, behind, commands)
    for i, word in enumerate(words[:end]):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag.replace("_", "-") not in flags:
            command.error(unknown_name("argument", flag, flags))
        if flag.startswith("--"):
            words[i] = flag.replace("_", "-") + equals + value
    options, rest = parser.parse_known_args(words)
    if name is None:
        parser.print_help()
        return None
    # argparse fills a list of positionals once; words that follow a flag are left over.
    lists = [a for a in command._actions if not a.option_strings and a.nargs in ("*", "+")]
    only_texts = False
    for word in rest:
        if word == "--" and not only_texts:
            only_texts = True
            continue
        key, equals, _ = word.partition("=")
        setting = equals and f"--{key.replace('_', '-')}" in flags
        if setting and "positional_assignments" not in vars(options):
            command.error(f"unexpected argument {word!r}; a setting is given as --set {word}")
        if not lists or (word.startswith("-") and not only_texts):
            command.error(f"unexpected argument {word!r}")
        setattr(options, lists[0].dest, [*getattr(options, lists[0].dest), word])
    if name == "launch":
        options.worker_command = behind
    return options


def _check_worker_command(parser: _Parser, behind: list[str], commands: dict[str, Any]) -> None:
    usage = "the workers' command stands behind --: tfllm launch --workers 2 -- train --data ..."
    if not behind:
        parser.error(usage)
    if behind[0] == "train":
        return
    if behind[0] not in commands:
        parser.error(f"{usage}; received {behind[0]!r} there")
    parser.error(
        f"launch starts the workers of one training, behind -- stands train; received "
        f"{behind[0]!r}, which runs in one process: start it without launch"
    )


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    """Of all commands, and of each."""
    parser = _Parser(
        allow_abbrev=False,
        prog="tfllm",
        description="From a folder of text to a language model that TensorFlow Serving runs.",
        epilog="Settings may also stand in a TOML file: --config FILE, with the sections "
        "[prepare], [model], [training] and [generation]; what the command line says goes over it.",
    )
    parser.add_argument("--version", action="version", version=f"tfllm {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            allow_abbrev=False,
            help=text[0].lower() + text[1:],
            description=text + ".",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            argument_default=argparse.SUPPRESS,
        )

    prepare = command("prepare", "Write token shards from text, or from examples to learn from")
    prepare.add_argument(
        "text",
        nargs="+",
        help="files (.txt, .md, .jsonl, .json, each also .gz), folders or globs",
    )
    prepare.add_argument("--out", required=True, help="the folder to write")
    prepare.add_argument("--overwrite", action="store_true", help="replace the folder")
    _add_settings(prepare, "prepare")

    train = command("train", "Train a new model, or fine-tune a pretrained one")
    train.add_argument(
        "positional_assignments",
        metavar="KEY=VALUE",
        nargs="*",
        default=[],
        help="settings, as with --set",
    )
    train.add_argument(
        "--data",
        required=True,
        help="what `tfllm prepare` wrote; with --model also the files that it reads; with --task "
        "records: JSON lines, CSV or TSV, or a file of lines for each column (source=A,target=B)",
    )
    train.add_argument(
        "--task", help="train the model of a task, such as classification, from records"
    )
    _add_columns(train)
    train.add_argument("--out", required=True, help="the run's folder")
    train.add_argument("--preset", help="size of a new model; see `tfllm presets`")
    train.add_argument(
        "--model",
        help="a pretrained model to begin with: a model folder, a run, a .gguf file, or hf://ORG/NAME",
    )
    train.add_argument(
        "--strategy",
        choices=["auto", "one", "mirrored", "multiworker", "tpu"],
        default="auto",
        help="one device; all devices of this machine; the workers of a cluster; a TPU; auto: what "
        "is there",
    )
    train.add_argument(
        "--replicas", type=int, help="devices to use; without GPUs, logical devices of the CPU"
    )
    train.add_argument(
        "--resume",
        action="store_true",
        help="the run must be there, and goes on with its settings; without it, the command that "
        "began a run goes on with it, and begins one where there is none",
    )
    _add_settings(train, "training", "model")
    _add_fields(
        train.add_argument_group("data, where they are prepared for --model or --task"),
        "prepare",
        ("records", "validation_fraction", "validation", "text_field", "skip_bad_records"),
    )

    launch = command("launch", "Train with several workers on this machine")
    launch.usage = (
        "tfllm launch [-h] [--workers N] [--restarts N] [--logs DIR] [--no-pin] "
        "-- train --data DATA --out OUT ..."
    )
    launch.add_argument("--workers", type=int, default=2, metavar="N", help="processes")
    launch.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="N",
        help="how often all start again, from the last checkpoint, after one was killed or lost",
    )
    launch.add_argument("--logs", metavar="DIR", help="default: logs in the run's folder")
    launch.add_argument(
        "--no-pin", action="store_true", help="do not divide cores and GPUs among the workers"
    )

    report = command("report", "Draw and compare runs, running or finished")
    report.add_argument("runs", metavar="RUN", nargs="+", help="what `tfllm train` writes to")
    report.add_argument(
        "--out", default="report", help="a folder, or a file that ends with .html or .png"
    )
    report.add_argument(
        "--x", choices=["tokens", "step", "seconds"], default="tokens", help="the horizontal axis"
    )
    report.add_argument(
        "--open-nothing",
        action="store_true",
        help="do not show the page in a browser; a terminal without a desktop never does",
    )

    evaluate = command("evaluate", "Measure a model: its perplexity, or its answers for a task")
    _add_model(evaluate, adapter=True)
    evaluate.add_argument(
        "--data", required=True, help="what `tfllm prepare` wrote; of a task: files of records"
    )
    evaluate.add_argument(
        "--task", help="measure the answers to records; a model folder of a task says it itself"
    )
    _add_columns(evaluate)
    evaluate.add_argument(
        "--skip-bad-records", action="store_true", help="of a task: pass over broken records"
    )
    evaluate.add_argument(
        "--predictions", metavar="FILE", help="of a task: a .jsonl file for every answer"
    )
    evaluate.add_argument(
        "--split", choices=["validation", "train"], default="validation", help="which documents"
    )
    evaluate.add_argument(
        "--sequence-length", type=int, help="tokens in a row; default: as trained with"
    )
    evaluate.add_argument("--batch-size", type=int, default=8, help="rows or records at once")
    evaluate.add_argument("--batches", type=int, default=0, help="stop after so many; 0: all")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    _add_harness(evaluate)

    predict = command("predict", "Answer records with the model of a task, as JSON lines")
    _add_model(predict)
    predict.add_argument(
        "record",
        nargs="*",
        default=[],
        metavar="COLUMN=VALUE",
        help="one record, such as text='How lovely!'; or files of records",
    )
    _add_columns(predict)
    predict.add_argument("--batch-size", type=int, default=32, help="records at once")

    mine = command("mine", "Find names and relations in text: a knowledge graph")
    mine.add_argument(
        "text",
        nargs="+",
        help="files (.txt, .md, .jsonl, .json, each also .gz), folders or globs",
    )
    mine.add_argument(
        "--out", required=True, metavar="FILE", help="the graph: a .graphml or .json file"
    )
    mine.add_argument("--picture", metavar="FILE", help="a .png file; needs matplotlib")
    mine.add_argument("--tagger", metavar="MODEL", help="of the task tagging, to find the names")
    mine.add_argument("--min-count", type=int, default=5, help="mentions of a name, at least")
    mine.add_argument(
        "--min-log-likelihood", type=float, default=10.83,
        help="of two names that share sentences: Dunning's ratio, at least",
    )  # fmt: skip

    generate = command("generate", "Continue prompts")
    _add_model(generate, adapter=True)
    generate.add_argument(
        "prompt", nargs="*", default=[], help="texts to continue; none: asks for them"
    )
    generate.add_argument("--no-stream", action="store_true", help="print whole texts only")
    _add_settings(generate, "generation")

    chat = command("chat", "Talk with a chat model")
    _add_model(chat, adapter=True)
    chat.add_argument(
        "message",
        nargs="*",
        default=[],
        help="what to say, one after another; none: asks for it, until /exit or Ctrl-D",
    )
    chat.add_argument("--system", help="a system message")
    chat.add_argument("--no-stream", action="store_true", help="print whole replies only")
    _add_settings(chat, "generation")

    merge = command("merge", "Merge an adapter into its model, and write the whole")
    _add_model(merge)
    merge.add_argument("adapter", help="a folder in PEFT's layout, such as RUN/adapter")
    merge.add_argument("--out", required=True, help="the model folder to write")
    merge.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the weights"
    )

    export = command("export", "Write a model for TensorFlow Serving")
    _add_model(export, adapter=True)
    export.add_argument("base", help="the served model's folder, such as saved_models/NAME")
    export.add_argument("--model-version", type=int, help="default: the next one")
    export.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "int8"],
        default="float32",
        help="of weights and products; int8: of weights, used in the faster of the two",
    )
    export.add_argument(
        "--no-deployment-files",
        action="store_true",
        help="do not write models.config, docker-compose.yaml and the like beside the model",
    )
    _add_settings(export, "generation")

    check = command("check", "Find what would fail in TensorFlow Serving")
    check.add_argument("path", help="an exported model, or one version of it")
    check.add_argument("--no-run", action="store_true", help="read it only, do not run it")
    check.add_argument("--json", action="store_true", help="print JSON")

    serve = command("serve", "Serve models over TensorFlow Serving's REST and gRPC")
    serve.add_argument("base", help="the folder of exported models, such as saved_models")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--rest-port", type=int, default=8501, help="0: any free one")
    serve.add_argument("--grpc-port", type=int, default=8500, help="0: any free one")
    serve.add_argument("--max-batch-size", type=int, default=8, help="rows run together")
    serve.add_argument("--max-body-bytes", type=int, default=16 << 20, help="of a REST request")
    serve.add_argument("--no-batching", action="store_true", help="run each request alone")

    query = command("query", "Ask a server, ours or TensorFlow Serving")
    query.add_argument("model", help="the model's name")
    query.add_argument("prompt", nargs="+", help="texts to continue, or a task's inputs")
    query.add_argument("--address", default="127.0.0.1:8501", help="the server's")
    query.add_argument("--grpc", action="store_true", help="speak gRPC (port 8500 by default)")
    query.add_argument("--score", action="store_true", help="score the texts instead")
    query.add_argument("--stream", action="store_true", help="token by token (`tfllm serve` only)")
    query.add_argument(
        "--chat", action="store_true", help="each text is a question to a chat model"
    )
    query.add_argument("--system", help="with --chat: a system message")
    query.add_argument(
        "--signature",
        help="run this signature; then the texts are its inputs, as text='How lovely!' (one named "
        "again begins a new row; an only one need not be named). Default: serving_default of a "
        "task, else text is generated",
    )
    query.add_argument("--model-version", type=int, help="default: the newest")
    _add_settings(query, "generation")

    command("presets", "List the sizes of models")
    return parser, dict(commands.choices)


def _add_model(parser: argparse.ArgumentParser, *, adapter: bool = False) -> None:
    parser.add_argument(
        "model", help="a model folder, the run that trained it, a .gguf file, or hf://ORG/NAME"
    )
    if adapter:
        parser.add_argument(
            "--adapter", metavar="DIR", help="an adapter for the model, in PEFT's layout"
        )


def _add_harness(evaluate: argparse.ArgumentParser) -> None:
    group = evaluate.add_argument_group(
        "published tests of language models (--data: their files of records)"
    )
    group.add_argument(
        "--harness",
        choices=["multiple_choice", "exact_match", "humaneval"],
        help="which: choices by log-likelihood (HellaSwag), answers that must match (GSM8K), or "
        "functions that must pass their tests (HumanEval)",
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
    group.add_argument("--num-samples", type=int, help="humaneval: programs for each problem")
    group.add_argument("--temperature", type=float, help="of what is generated; else greedy")
    group.add_argument("--max-new-tokens", type=int, help="of an answer")
    group.add_argument(
        "--allow-code-execution",
        action="store_true",
        help="humaneval: run the programs that the model writes, each confined as far as an "
        "unprivileged process can be",
    )


def _add_columns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--columns",
        metavar="COLUMN=NAME",
        nargs="+",
        action="extend",
        help="of a task: what its columns are called in the files, such as text=review label=stars",
    )


def columns_of(options: argparse.Namespace) -> dict[str, str]:
    """Column to its name in the files.

    Raises:
        ConfigError: one is not given as COLUMN=NAME, or is a setting.
    """
    found = {}
    for word in getattr(options, "columns", None) or ():
        column, equals, name = word.partition("=")
        if not equals or not column or not name:
            raise ConfigError(f"a column is given as COLUMN=NAME; received {word!r}")
        if any(column in field_types(section) for section in _SECTIONS.values()):
            raise ConfigError(
                f"{word!r} is a setting and stands among the columns; put it behind --set"
            )
        found[column] = name
    return found


def _add_settings(parser: argparse.ArgumentParser, *sections: str) -> None:
    """A flag for each setting of some sections, with the field's own words as help."""
    parser.add_argument("--config", help="a TOML or JSON file of settings")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        dest="assignments",
        help="settings by name, such as learning_rate=3e-4 or model.num_layers=8",
    )
    for section in sections:
        # A model's own defaults are not shown: the preset's values stand in their place.
        of_preset = section == "model"
        group = parser.add_argument_group("model, over the preset" if of_preset else "settings")
        _add_fields(group, section, tuple(field_types(_SECTIONS[section])), defaults=not of_preset)


def _add_fields(group: Any, section: str, names: Sequence[str], *, defaults: bool = True) -> None:
    for field in dataclasses.fields(_SECTIONS[section]):
        if field.name not in names:
            continue
        text = field_docs(_SECTIONS[section])[field.name]
        if defaults and field.default is not None and field.default != ():
            shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
            text += f" (default: {shown})"
        options: dict[str, Any] = {"metavar": field.name.upper(), "help": text.replace("%", "%%")}
        kind = field_types(_SECTIONS[section])[field.name]
        if typing.get_origin(kind) is Literal:
            options["metavar"] = f"{{{','.join(typing.get_args(kind))}}}"
        if kind is bool:
            options = {"help": options["help"], "action": argparse.BooleanOptionalAction}
        elif field.name == "stop":
            options["action"] = "append"
        flag = "--" + field.name.replace("_", "-")
        group.add_argument(flag, dest=f"setting:{section}.{field.name}", **options)


def settings(options: argparse.Namespace, *sections: str) -> dict[str, dict[str, Any]]:
    """Each section's settings: the file's; over them KEY=VALUE's; over both the flags'.

    Raises:
        ConfigError: an unknown section or key, or a value in the file of another type.
    """
    given = vars(options)
    file = _sections_of(given["config"]) if given.get("config") else {}
    found = {section: dict(file.get(section, {})) for section in sections}
    assignments = [*given.get("positional_assignments", []), *given.get("assignments", [])]
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"a setting is given as KEY=VALUE; received {assignment!r}")
        section, _, name = key.rpartition(".")
        if section and section not in found:
            raise ConfigError(unknown_name("section", section, found))
        name_of = {s: _names(s) for s in found}
        fitting = [section] if section else [s for s in found if name in name_of[s]]
        if not fitting or name not in name_of[fitting[0]]:
            known = [n for s in ([section] if section else found) for n in name_of[s]]
            raise ConfigError(unknown_name("setting", name, known))
        found[fitting[0]][name] = value
    for key, value in given.items():
        if key.startswith("setting:"):
            section, _, name = key.removeprefix("setting:").partition(".")
            found[section][name] = value
    return found


def _sections_of(path: str) -> dict[str, dict[str, Any]]:
    """A settings file's sections, all of whose keys are known and of the right type."""
    file = read_file(path)
    if not isinstance(file, dict):
        raise ConfigError(
            f"{path} must hold sections ({', '.join(_SECTIONS)}) of settings; "
            f"received a {type(file).__name__}"
        )
    for section, values in file.items():
        if not isinstance(values, dict):
            at_home = [s for s in _SECTIONS if section in _names(s)]
            raise ConfigError(
                f"{path}: {section!r} stands in no section; sections are "
                f"{', '.join(f'[{s}]' for s in _SECTIONS)}"
                + (f"; it belongs into [{at_home[0]}]" if at_home else "")
            )
        if section not in _SECTIONS:
            raise ConfigError(unknown_name("section", section, _SECTIONS, path))
        types: dict[str, Any] = {**field_types(_SECTIONS[section]), "preset": str}
        for key, value in values.items():
            if key not in _names(section):
                where = f"{path}, section [{section}]"
                raise ConfigError(unknown_name("setting", key, _names(section), where))
            try:
                read_value(key, value, types[key])
            except ConfigError as error:
                raise ConfigError(f"{path}, section [{section}]: {error}") from None
    return file


def _names(section: str) -> list[str]:
    return [*field_types(_SECTIONS[section]), *(["preset"] if section == "model" else [])]
