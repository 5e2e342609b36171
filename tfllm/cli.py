"""The command line: one subcommand a verb, no logic of its own.

Nothing here imports TensorFlow before a command needs it, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfllm import __version__
from tfllm.config import (
    ConfigError,
    GenerationConfig,
    ModelConfig,
    PrepareConfig,
    TrainingConfig,
    build,
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = options.flags if hasattr(options, "flags") else ["--help", "--version"]
        name = next((u.partition("=")[0] for u in unknown if u.startswith("-")), unknown[0])
        print(f"tfllm: {unknown_name('argument', name, known)}", file=sys.stderr)
        return 2
    if not hasattr(options, "run"):
        parser.print_help()
        return 2
    try:
        return options.run(options) or 0
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("TFLLM_TRACEBACK"):
            raise
        print(f"tfllm {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


# ------------------------------------------------------------------ what the commands take


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tfllm",
        description="From a folder of text to a language model that TensorFlow Serving runs.",
        epilog="Settings may also stand in a TOML file: --config FILE, with the sections "
        "[prepare], [model], [training] and [generation]; what the command line says goes over it.",
    )
    parser.add_argument("--version", action="version", version=f"tfllm {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=text[0].lower() + text[1:],
            description=text + ".",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            argument_default=argparse.SUPPRESS,
        )
        added.set_defaults(run=run)
        return added

    prepare = command("prepare", _prepare, "Train a tokenizer on text, and write token shards")
    prepare.add_argument(
        "text", nargs="+", help="files (.txt, .md, .jsonl, each also .gz), folders or globs"
    )
    prepare.add_argument("--out", required=True, help="the folder to write")
    prepare.add_argument("--overwrite", action="store_true", help="replace the folder")
    _add_settings(prepare, PrepareConfig)

    train = command("train", _train, "Train a model on prepared text")
    train.add_argument("--data", required=True, help="what `tfllm prepare` wrote")
    train.add_argument("--out", required=True, help="the run's folder")
    train.add_argument("--preset", help="size of the model; see `tfllm presets`")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    _add_settings(train, TrainingConfig)

    evaluate = command("evaluate", _evaluate, "Measure a model's perplexity on prepared text")
    _add_model(evaluate)
    evaluate.add_argument("--data", required=True, help="what `tfllm prepare` wrote")
    evaluate.add_argument("--split", choices=["validation", "train"], default="validation", help="")
    evaluate.add_argument("--batches", type=int, default=0, help="stop after so many; 0: all")
    evaluate.add_argument("--json", action="store_true", help="print JSON")

    generate = command("generate", _generate, "Continue prompts")
    _add_model(generate)
    generate.add_argument("prompt", nargs="*", help="texts to continue; none: asks for them")
    generate.add_argument("--no-stream", action="store_true", help="print whole texts only")
    _add_settings(generate, GenerationConfig)

    export = command("export", _export, "Write a model for TensorFlow Serving")
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

    check = command("check", _check, "Find what would fail in TensorFlow Serving")
    check.add_argument("path", help="an exported model, or one version of it")
    check.add_argument("--no-run", action="store_true", help="read it only, do not run it")
    check.add_argument("--json", action="store_true", help="print JSON")

    serve = command("serve", _serve, "Serve models over TensorFlow Serving's REST and gRPC")
    serve.add_argument("base", help="the folder of exported models, such as saved_models")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--rest-port", type=int, default=8501, help="0: any free one")
    serve.add_argument("--grpc-port", type=int, default=8500, help="0: any free one")
    serve.add_argument("--max-batch-size", type=int, default=8, help="rows run together")
    serve.add_argument("--max-body-bytes", type=int, default=16 << 20, help="of a REST request")
    serve.add_argument("--no-batching", action="store_true", help="run each request alone")

    query = command("query", _query, "Ask a server, ours or TensorFlow Serving")
    query.add_argument("model", help="the model's name")
    query.add_argument("prompt", nargs="+", help="texts to continue")
    query.add_argument("--address", default="127.0.0.1:8501", help="the server's")
    query.add_argument("--grpc", action="store_true", help="speak gRPC (port 8500 by default)")
    query.add_argument("--score", action="store_true", help="score the texts instead")
    query.add_argument("--stream", action="store_true", help="token by token (`tfllm serve` only)")
    query.add_argument("--model-version", type=int, help="default: the newest")
    _add_settings(query, GenerationConfig)

    command("presets", _presets, "List the sizes of models")
    for added in commands.choices.values():
        added.set_defaults(flags=[f for f in added._option_string_actions if f.startswith("--")])
    return parser


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
            options |= {"nargs": "?", "const": "true"}
        elif name == "stop":
            options["action"] = "append"
        group.add_argument("--" + name.replace("_", "-"), dest=f"setting:{name}", **options)


def _settings(options: argparse.Namespace, *sections: str) -> dict[str, dict[str, Any]]:
    """Each section's settings: the file's, then KEY=VALUE's, then the flags' of the first one."""
    given = vars(options)
    file = read_file(given["config"]) if given.get("config") else {}
    for name, values in file.items():
        if name not in _SECTIONS or not isinstance(values, dict):
            raise ConfigError(unknown_name("section", name, _SECTIONS, given["config"]))
    found = {section: dict(file.get(section, {})) for section in sections}
    for assignment in given.get("assignments", []):
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


def _names(section: str) -> list[str]:
    return [*field_types(_SECTIONS[section]), *(["preset"] if section == "model" else [])]


# ------------------------------------------------------------------ the commands


def _prepare(options: argparse.Namespace) -> None:
    config = build(PrepareConfig, _settings(options, "prepare")["prepare"])
    from tfllm.data import prepare

    data = prepare(
        options.text, options.out, config, overwrite=getattr(options, "overwrite", False)
    )
    print(data.describe())
    print(f"train with: tfllm train --data {options.out} --out runs/NAME")


def _train(options: argparse.Namespace) -> int:
    found = _settings(options, "training", "model")
    preset_name = getattr(options, "preset", found["model"].pop("preset", None))
    found["model"].pop("preset", None)
    build(TrainingConfig, found["training"])  # before TensorFlow's slow import
    if not getattr(options, "resume", False) or preset_name or found["model"]:
        model = _model_config(preset_name, found["model"], options.data)
    else:
        model = None
    with quiet_start():
        from tfllm.training import train
    types = field_types(TrainingConfig)
    settings = {n: read_value(n, v, types[n]) for n, v in found["training"].items()}
    run = train(
        options.data, options.out, model, resume=getattr(options, "resume", False), **settings
    )
    if run.interrupted_by:
        print(
            f"stopped by {run.interrupted_by} after step {run.step}; go on with: tfllm train "
            f"--data {options.data} --out {options.out} --resume"
        )
        return 130
    rows = {
        "parameters": f"{run.num_parameters:,}",
        "steps": f"{run.step:,}",
        "precision": run.precision,
        "tokens/s": f"{run.tokens_per_second:,.0f}",
        "of the matmul peak": f"{run.flops_utilization:.0%}",
    }
    if run.validation_perplexity is not None:
        rows["validation perplexity"] = f"{run.validation_perplexity:.2f}"
    rows["model"] = str(run.model_folder)
    print(table(rows))
    return 0


def _model_config(preset_name: str | None, overrides: dict[str, Any], data: str) -> ModelConfig:
    from tfllm.data import PreparedData
    from tfllm.models.presets import preset

    vocab_size = PreparedData.open(data).vocab_size
    types = field_types(ModelConfig)
    for name in overrides:
        if name not in types:
            raise ConfigError(unknown_name("setting", name, types, "[model]"))
    values = {n: read_value(n, v, types[n]) for n, v in overrides.items()}
    return preset(preset_name or "llama-4m", **{"vocab_size": vocab_size, **values})


def _evaluate(options: argparse.Namespace) -> None:
    with quiet_start():
        from tfllm.evaluation import evaluate
        from tfllm.pretrained import load
        from tfllm.pretrained.model_folder import model_folder
    model = load(model_folder(options.model)).model
    result = evaluate(model, options.data, split=options.split, num_batches=options.batches)
    if getattr(options, "json", False):
        print(json.dumps(dataclasses.asdict(result)))
        return
    print(
        table(
            {
                f"tokens of the {options.split} text": f"{result.num_tokens:,}",
                "loss": f"{result.loss:.4f}",
                "perplexity": f"{result.perplexity:.2f}",
                "of a unigram model": f"{result.unigram_perplexity:.2f}",
                "bits per byte": f"{result.bits_per_byte:.3f}",
            }
        )
    )


def _generate(options: argparse.Namespace) -> None:
    config = build(GenerationConfig, given := _settings(options, "generation")["generation"])
    with quiet_start():
        from tfllm.tasks import TextGeneration
    task = TextGeneration.load(options.model)
    if options.prompt:
        for prompt in options.prompt:
            _print_continuation(task, prompt, given, config, options)
    elif sys.stdin.isatty():
        print("Type a prompt and Enter; an empty line ends.", file=sys.stderr)
        while prompt := input("> "):
            _print_continuation(task, prompt, given, config, options)
    else:
        _print_continuation(task, sys.stdin.read(), given, config, options)


def _print_continuation(
    task: Any, prompt: str, given: dict[str, Any], config: GenerationConfig, options: Any
) -> None:
    settings = {name: getattr(config, name) for name in given}
    if config.num_samples > 1 or getattr(options, "no_stream", False):
        texts = task.generate(prompt, **settings)
        for text in [texts] if isinstance(texts, str) else texts:
            print(f"{prompt}{text}")
        return
    print(prompt, end="", flush=True)
    for piece in task.stream(prompt, **settings):
        print(piece, end="", flush=True)
    print()


def _export(options: argparse.Namespace) -> None:
    given = _settings(options, "generation")["generation"]
    build(GenerationConfig, given)
    with quiet_start():
        from tfllm.serving import export, write_deployment_files
        from tfllm.tasks import TextGeneration
    task = TextGeneration.load(options.model, dtype=options.dtype)
    if given:
        settings = {**dataclasses.asdict(task.generation), **given}
        task = TextGeneration(task.model, task.tokenizer, build(GenerationConfig, settings))
    base = Path(options.base)
    folder = export(task, base, version=getattr(options, "model_version", None))
    print(f"wrote {folder}")
    if not getattr(options, "no_deployment_files", False):
        names = sorted(p.name for p in base.parent.iterdir() if _has_version(p))
        written = write_deployment_files(base.parent, names)
        print(written.format())
    print(f"check it:  tfllm check {base}\nserve it:  tfllm serve {base.parent}")


def _has_version(folder: Path) -> bool:
    return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


def _check(options: argparse.Namespace) -> int:
    with quiet_start():
        from tfllm.serving import check
    report = check(options.path, run=not getattr(options, "no_run", False))
    print(json.dumps(report.to_dict()) if getattr(options, "json", False) else report.format())
    return 0 if report.ok else 1


def _serve(options: argparse.Namespace) -> int:
    with quiet_start():
        from tfllm.serving import ModelServer
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    server = ModelServer(
        options.base,
        host=options.host,
        rest_port=options.rest_port,
        grpc_port=options.grpc_port,
        batching=not getattr(options, "no_batching", False),
        max_batch_size=options.max_batch_size,
        max_body_bytes=options.max_body_bytes,
    )
    return server.serve_forever()


def _query(options: argparse.Namespace) -> None:
    given = _settings(options, "generation")["generation"]
    config = build(GenerationConfig, given)
    settings = {name: getattr(config, name) for name in given}
    from tfllm.serving.client import Client

    grpc = getattr(options, "grpc", False)
    address = options.address
    if grpc and address == "127.0.0.1:8501":
        address = "127.0.0.1:8500"
    client = Client(
        address,
        model=options.model,
        version=getattr(options, "model_version", None),
        protocol="grpc" if grpc else "rest",
    )
    if getattr(options, "score", False):
        for text, score in zip(options.prompt, client.score(options.prompt), strict=True):
            print(f"{text!r}: {score}")
    elif getattr(options, "stream", False):
        for prompt in options.prompt:
            print(prompt, end="", flush=True)
            for piece in client.stream(prompt, **settings):
                print(piece, end="", flush=True)
            print()
    else:
        for prompt, text in zip(
            options.prompt, client.generate(options.prompt, **settings), strict=True
        ):
            print(f"{prompt}{text}")


def _presets(options: argparse.Namespace) -> None:
    from tfllm.models.presets import preset_table

    print(preset_table())


# ------------------------------------------------------------------ how they print


def table(rows: dict[str, str]) -> str:
    """Names and values in two columns."""
    width = max(map(len, rows))
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows.items())


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Keep TensorFlow's start-up lines off the terminal; show them if its import fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        terminal = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
            yield
        except BaseException:
            kept.seek(0)
            os.write(terminal, kept.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


if __name__ == "__main__":
    sys.exit(main())
