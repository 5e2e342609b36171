"""What the command line takes: its commands, flags and settings, read without TensorFlow."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

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
    # argparse fills a list of positionals once; those that follow a flag are left over.
    if "positional_assignments" in vars(options):
        more = [word for word in rest if re.match(r"[A-Za-z_.]+=", word)]
        options.positional_assignments = [*options.positional_assignments, *more]
        rest = [word for word in rest if word not in more]
    if rest:
        hint = f"; a setting is given as --set {rest[0]}" if "=" in rest[0] else ""
        command.error(f"unexpected argument {rest[0]!r}{hint}")
    return options


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

    prepare = command("prepare", "Train a tokenizer on text, and write token shards")
    prepare.add_argument(
        "text", nargs="+", help="files (.txt, .md, .jsonl, each also .gz), folders or globs"
    )
    prepare.add_argument("--out", required=True, help="the folder to write")
    prepare.add_argument("--overwrite", action="store_true", help="replace the folder")
    _add_settings(prepare, PrepareConfig)

    train = command("train", "Train a model on prepared text")
    train.add_argument(
        "positional_assignments",
        metavar="KEY=VALUE",
        nargs="*",
        default=[],
        help="settings, as with --set",
    )
    train.add_argument("--data", required=True, help="what `tfllm prepare` wrote")
    train.add_argument("--out", required=True, help="the run's folder")
    train.add_argument("--preset", help="size of the model; see `tfllm presets`")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    _add_settings(train, TrainingConfig)

    evaluate = command("evaluate", "Measure a model's perplexity on prepared text")
    _add_model(evaluate)
    evaluate.add_argument("--data", required=True, help="what `tfllm prepare` wrote")
    evaluate.add_argument(
        "--split", choices=["validation", "train"], default="validation", help="which documents"
    )
    evaluate.add_argument(
        "--sequence-length", type=int, help="tokens in a row; default: as trained with"
    )
    evaluate.add_argument("--batch-size", type=int, default=8, help="rows at once")
    evaluate.add_argument("--batches", type=int, default=0, help="stop after so many; 0: all")
    evaluate.add_argument("--json", action="store_true", help="print JSON")

    generate = command("generate", "Continue prompts")
    _add_model(generate)
    generate.add_argument(
        "prompt", nargs="*", default=[], help="texts to continue; none: asks for them"
    )
    generate.add_argument("--no-stream", action="store_true", help="print whole texts only")
    _add_settings(generate, GenerationConfig)

    export = command("export", "Write a model for TensorFlow Serving")
    _add_model(export)
    export.add_argument("base", help="the served model's folder, such as saved_models/NAME")
    export.add_argument("--model-version", type=int, help="default: the next one")
    export.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of weights and products",
    )
    export.add_argument(
        "--no-deployment-files",
        action="store_true",
        help="do not write models.config, docker-compose.yaml and the like beside the model",
    )
    _add_settings(export, GenerationConfig)

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
    query.add_argument("prompt", nargs="+", help="texts to continue")
    query.add_argument("--address", default="127.0.0.1:8501", help="the server's")
    query.add_argument("--grpc", action="store_true", help="speak gRPC (port 8500 by default)")
    query.add_argument("--score", action="store_true", help="score the texts instead")
    query.add_argument("--stream", action="store_true", help="token by token (`tfllm serve` only)")
    query.add_argument("--model-version", type=int, help="default: the newest")
    _add_settings(query, GenerationConfig)

    command("presets", "List the sizes of models")
    return parser, dict(commands.choices)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model folder, or the run that trained it")


def _add_settings(parser: argparse.ArgumentParser, cls: type) -> None:
    """A flag for each field of a settings class, with the field's own words as help."""
    parser.add_argument("--config", help="a TOML or JSON file of settings")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        dest="assignments",
        help="settings by name, such as learning_rate=3e-4 or model.num_layers=8",
    )
    group = parser.add_argument_group("settings")
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    for name, text in field_docs(cls).items():
        default = defaults[name]
        shown = "" if default is None or default == () else f" (default: {default})"
        options: dict[str, Any] = {
            "metavar": name.upper(),
            "help": (text + shown).replace("%", "%%"),
        }
        if field_types(cls)[name] is bool:
            options = {"help": options["help"], "action": argparse.BooleanOptionalAction}
        elif name == "stop":
            options["action"] = "append"
        group.add_argument("--" + name.replace("_", "-"), dest=f"setting:{name}", **options)


def settings(options: argparse.Namespace, *sections: str) -> dict[str, dict[str, Any]]:
    """Each section's settings: the file's, then KEY=VALUE's, then the flags' of the first one.

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
            found[sections[0]][key.removeprefix("setting:")] = value
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
