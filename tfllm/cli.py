"""The command line: one subcommand a verb, no logic of its own.

Nothing here imports TensorFlow before a command needs it, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import math
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tfllm.cli_arguments import parse, settings
from tfllm.config import (
    GenerationConfig,
    ModelConfig,
    PrepareConfig,
    TrainingConfig,
    build,
    field_types,
    read_value,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for the processes it starts, too
    options = parse(arguments)
    if options is None:
        return 2
    try:
        with _warnings_in_a_line(options.command):
            status = _COMMANDS[options.command](options) or 0
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has gone, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        message = _message(error)
        if message is None or os.environ.get("TFLLM_TRACEBACK"):
            raise
        print(f"tfllm {options.command}: {message}", file=sys.stderr)
        return 1


def _message(error: Exception) -> str | None:
    """One line for an error that a user can do something about; None for a fault of ours."""
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, ValueError | OSError | RuntimeError | ImportError):
        return " ".join(str(error).split())
    if "tensorflow" in sys.modules:
        errors = sys.modules["tensorflow"].errors
        if isinstance(error, errors.ResourceExhaustedError):
            return (
                f"there is not enough memory ({error.message.splitlines()[0]}); try a smaller "
                "batch_size, a higher gradient_accumulation, or rematerialize"
            )
        if isinstance(error, errors.OpError):
            return error.message.splitlines()[0]
    return None


# ------------------------------------------------------------------ the commands


def _prepare(options: argparse.Namespace) -> None:
    config = build(PrepareConfig, settings(options, "prepare")["prepare"])
    from tfllm.data import prepare

    data = prepare(
        options.text, options.out, config, overwrite=getattr(options, "overwrite", False)
    )
    print(data.describe())
    print(f"train with: tfllm train --data {options.out} --out runs/NAME")


def _train(options: argparse.Namespace) -> int:
    found = settings(options, "training", "model")
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
    chosen = {n: read_value(n, v, types[n]) for n, v in found["training"].items()}
    run = train(
        options.data, options.out, model, resume=getattr(options, "resume", False), **chosen
    )
    if run.interrupted_by:
        print(
            f"stopped by {run.interrupted_by} after step {run.step}; go on with: tfllm train "
            f"--data {options.data} --out {options.out} --resume"
        )
        return 128 + signal.Signals[run.interrupted_by]
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
    values = {n: read_value(n, v, types[n]) for n, v in overrides.items()}
    return preset(preset_name or "llama-4m", **{"vocab_size": vocab_size, **values})


def _evaluate(options: argparse.Namespace) -> None:
    with quiet_start():
        from tfllm.evaluation import evaluate
        from tfllm.pretrained import load
        from tfllm.pretrained.model_folder import model_folder
    folder = model_folder(options.model)
    pretrained = load(folder)
    result = evaluate(
        pretrained.model,
        options.data,
        split=options.split,
        sequence_length=getattr(options, "sequence_length", None) or _trained_length(folder),
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


def _trained_length(folder: Path) -> int | None:
    """The sequence length that a model was trained with, where its folder says so."""
    try:
        values = json.loads((folder / "tfllm.json").read_text(encoding="utf-8"))
        return int(values["training"]["sequence_length"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _generate(options: argparse.Namespace) -> None:
    config = build(GenerationConfig, given := settings(options, "generation")["generation"])
    with quiet_start():
        from tfllm.tasks import TextGeneration
    task = TextGeneration.load(options.model)
    if options.prompt:
        for prompt in options.prompt:
            _print_continuation(task, prompt, given, config, options)
    elif sys.stdin.isatty():
        print("Type a prompt and Enter; an empty line ends.", file=sys.stderr)
        with contextlib.suppress(EOFError):
            while prompt := input("> "):
                _print_continuation(task, prompt, given, config, options)
    else:
        _print_continuation(task, sys.stdin.read(), given, config, options)


def _print_continuation(
    task: Any, prompt: str, given: dict[str, Any], config: GenerationConfig, options: Any
) -> None:
    chosen = {name: getattr(config, name) for name in given}
    if config.num_samples > 1 or getattr(options, "no_stream", False):
        texts = task.generate(prompt, **chosen)
        for text in [texts] if isinstance(texts, str) else texts:
            print(f"{prompt}{text}")
        return
    print(prompt, end="", flush=True)
    for piece in task.stream(prompt, **chosen):
        print(piece, end="", flush=True)
    print()


def _export(options: argparse.Namespace) -> None:
    given = settings(options, "generation")["generation"]
    build(GenerationConfig, given)
    with quiet_start():
        from tfllm.serving import export, write_deployment_files
        from tfllm.tasks import TextGeneration
    task = TextGeneration.load(options.model, dtype=options.dtype)
    if given:
        merged = {**dataclasses.asdict(task.generation), **given}
        task = TextGeneration(task.model, task.tokenizer, build(GenerationConfig, merged))
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
    given = settings(options, "generation")["generation"]
    config = build(GenerationConfig, given)
    chosen = {name: getattr(config, name) for name in given}
    from tfllm.serving.client import Client

    grpc = getattr(options, "grpc", False)
    if grpc:  # its messages are TensorFlow's
        with quiet_start():
            pass
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
            for piece in client.stream(prompt, **chosen):
                print(piece, end="", flush=True)
            print()
    else:
        for prompt, text in zip(
            options.prompt, client.generate(options.prompt, **chosen), strict=True
        ):
            print(f"{prompt}{text}")


def _presets(options: argparse.Namespace) -> None:
    from tfllm.models.presets import preset_table

    print(preset_table())


_COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
    "generate": _generate,
    "export": _export,
    "check": _check,
    "serve": _serve,
    "query": _query,
    "presets": _presets,
}


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


@contextlib.contextmanager
def _warnings_in_a_line(command: str) -> Iterator[None]:
    """Show our own warnings without the line of source, and those of others not at all."""
    here = str(Path(__file__).parent)

    def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        if filename.startswith(here):
            print(f"tfllm {command}: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = show  # type: ignore[assignment]
        yield


if __name__ == "__main__":
    sys.exit(main())
