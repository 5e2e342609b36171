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

from tfllm.cli_arguments import columns_of, parse, settings
from tfllm.config import (
    ConfigError,
    GenerationConfig,
    ModelConfig,
    PrepareConfig,
    TrainingConfig,
    build,
    field_types,
    read_value,
    unknown_name,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for the processes it starts, too
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever ~/.keras/keras.json prefers
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
        return getattr(error, "exit_status", 1)


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
    if config.tokenizer:  # a model's is read by what imports TensorFlow
        with quiet_start():
            pass
    from tfllm.data import prepare

    data = prepare(
        options.text, options.out, config, overwrite=getattr(options, "overwrite", False)
    )
    print(data.describe())
    model = "" if data.records == "text" else f" --model {config.tokenizer}"
    print(f"train with: tfllm train --data {options.out}{model} --out runs/NAME")


def _train(options: argparse.Namespace) -> int:
    found = settings(options, "training", "model", "prepare")
    preset_name = getattr(options, "preset", found["model"].pop("preset", None))
    found["model"].pop("preset", None)
    build(TrainingConfig, found["training"])  # before TensorFlow's slow import
    model: Any = getattr(options, "model", None)
    task = getattr(options, "task", None)
    vocab_size = found["model"].pop("vocab_size", None) if task is not None else None
    if model is not None and (preset_name or found["model"] or vocab_size):
        named = preset_name or ", ".join(found["model"]) or "vocab_size"
        raise ConfigError(
            f"a pretrained model has its own architecture: leave {named} out, or --model {model}"
        )
    data: Any = options.data
    prepare: Any
    if task is not None:
        prepare = _task_data(found["prepare"], columns_of(options), vocab_size)
        data = parsed_source(data)
        if model is None and (preset_name or found["model"]):
            model = {"preset": preset_name, **found["model"]}
    else:
        prepare = build(PrepareConfig, found["prepare"])
        resume = getattr(options, "resume", False)
        if model is None and (not resume or preset_name or found["model"]):
            model = _model_config(preset_name, found["model"], options.data)
    with quiet_start():
        from tfllm.training import train
    types = field_types(TrainingConfig)
    chosen = {n: read_value(n, v, types[n]) for n, v in found["training"].items()}
    run = train(
        data,
        options.out,
        model,
        task=task,
        prepare=prepare,
        strategy=getattr(options, "strategy", "auto"),
        replicas=getattr(options, "replicas", None),
        resume=getattr(options, "resume", False),
        **chosen,
    )
    if run.interrupted_by:
        if run.is_chief:
            print(
                f"stopped by {run.interrupted_by} after step {run.step}, which is saved; the same "
                f"command goes on from there, and so does: tfllm train --data {options.data} "
                f"--out {options.out} --resume"
            )
        return 128 + signal.Signals[run.interrupted_by]
    if not run.is_chief:
        return 0
    replicas = run.batch.replicas
    rows = {
        "parameters": f"{run.num_parameters:,}"
        + (
            f", {run.num_trained:,} of them trained" if run.num_trained < run.num_parameters else ""
        ),
        "steps": f"{run.step:,}",
        "precision": run.precision,
        "tokens/s": f"{run.tokens_per_second:,.0f}"
        + (f" ({run.tokens_per_second / replicas:,.0f} a replica)" if replicas > 1 else ""),
        "of the matmul peak": f"{run.flops_utilization:.0%}",
    }
    if run.time_shares:
        rows["time"] = ", ".join(f"{kind} {s:.1%}" for kind, s in run.time_shares.items())
    if run.batch.workers > 1 or replicas > 1:
        rows["replicas"] = f"{replicas} on {run.batch.workers} workers"
    if run.skipped_steps:
        rows["skipped updates"] = f"{run.skipped_steps} (float16 gradients that were not finite)"
    if run.validation_perplexity is not None:
        rows["validation perplexity"] = f"{run.validation_perplexity:.2f}"
    elif run.validation_loss is not None:
        rows["validation loss"] = f"{run.validation_loss:.4f}"
    for name, value in run.validation_measures.items():
        rows[f"last validation's {name}"] = f"{value:.3f}"
    for measure in run.task_measures:
        rows[measure.name] = f"{measure.format()} on {measure.num_examples:,} validation records"
    if run.adapter_folder is not None:
        rows["adapter"] = str(run.adapter_folder)
    rows["model"] = str(run.model_folder)
    print(table(rows))
    return 0


def _task_data(given: dict[str, Any], columns: dict[str, str], vocab_size: Any) -> Any:
    """How records are read; of the settings of `prepare` a task knows some."""
    from tfllm.data import TaskDataConfig

    known = {"validation", "validation_fraction", "skip_bad_records"}
    if unknown := set(given) - known:
        raise ConfigError(
            f"records of a task are prepared with {', '.join(sorted(known))}; received "
            f"{', '.join(sorted(unknown))}"
        )
    values = {**given}
    read = build(PrepareConfig, values)
    values = {name: getattr(read, name) for name in values}
    if len(read.validation) == 1:
        values["validation"] = parsed_source(read.validation[0])
    if vocab_size is not None:
        values["vocab_size"] = read_value("vocab_size", vocab_size, int)
    return TaskDataConfig(columns=columns, **values)


def _launch(options: argparse.Namespace) -> int:
    train = parse(options.worker_command)
    assert train is not None  # a command is named
    build(TrainingConfig, settings(train, "training", "model", "prepare")["training"])
    strategy = getattr(train, "strategy", "auto")
    if strategy not in ("auto", "multiworker"):
        raise ConfigError(
            f"the workers of launch train under the strategy multiworker; received {strategy!r}; "
            "leave --strategy out, or train without launch"
        )
    from tfllm.distribution.launching import launch, logs_of

    return launch(
        [sys.executable, "-m", "tfllm.cli", *options.worker_command],
        num_workers=options.workers,
        logs=getattr(options, "logs", None) or logs_of(train.out),
        restarts=options.restarts,
        pin=not getattr(options, "no_pin", False),
    )


def _model_config(preset_name: str | None, overrides: dict[str, Any], data: str) -> ModelConfig:
    from tfllm.data import PreparedData
    from tfllm.models.presets import preset

    types = field_types(ModelConfig)
    values = {n: read_value(n, v, types[n]) for n, v in overrides.items()}
    vocab_size = PreparedData.open(data).vocab_size
    return preset(preset_name or "llama-4m", **{"vocab_size": vocab_size, **values})


def _report(options: argparse.Namespace) -> None:
    from tfllm.training import report

    page = report(options.runs, options.out, x=options.x)
    print(f"wrote {page} and {page.with_suffix('.png')}")
    desktop = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}
    if desktop and sys.stdout.isatty() and not getattr(options, "open_nothing", False):
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


def parsed_source(text: str) -> Any:
    """A path; or, as `source=a.en,target=a.de`, a file of lines for each column."""
    parts = [part.partition("=") for part in text.split(",")]
    if all(name.isidentifier() and equals and path for name, equals, path in parts):
        return {name: path for name, _, path in parts}
    return text


def _evaluate_task(options: argparse.Namespace) -> None:
    from tfllm.tasks import evaluate_task

    result = evaluate_task(
        options.model,
        parsed_source(options.data),
        task=getattr(options, "task", None),
        columns=columns_of(options),
        skip_bad_records=getattr(options, "skip_bad_records", False),
        out=getattr(options, "predictions", None),
        batch_size=options.batch_size,
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


def _predict(options: argparse.Namespace) -> None:
    with quiet_start():
        from tfllm.pretrained import task_of
        from tfllm.tasks import TASKS, load_task, task_definition
    words = options.record
    if not words:
        raise ConfigError("name a record, such as text='How lovely!', or files of records")
    served = load_task(options.model)
    pairs = [word.partition("=") for word in words]
    names = served.input_names
    if all(equals and name in names for name, equals, _ in pairs):
        records: Any = [{name: value for name, _, value in pairs}]
    elif all(equals and name.isidentifier() for name, equals, _ in pairs):
        unknown = next(name for name, _, _ in pairs if name not in names)
        raise ConfigError(f"{unknown_name('input', unknown, names)}")
    else:
        from tfllm.data.table_records import Column, read_table

        found = task_of(options.model)
        known = task_definition(found["name"]).columns if found and found["name"] in TASKS else {}
        columns = {
            n: Column(
                aliases=known[n].aliases if n in known else (),
                required=n not in served.optional_inputs,
            )
            for n in names
        }
        records = read_table(
            words, columns, columns_of(options), only_inputs=True, empty_inputs=True
        ).records
    for answer in served.predict(records, batch_size=options.batch_size):
        print(json.dumps(answer, ensure_ascii=False))


def _mine(options: argparse.Namespace) -> None:
    with quiet_start():
        from tfllm.data.sources import documents, find_files
        from tfllm.evaluation import charts
        from tfllm.tasks import load_task
        from tfllm.tasks.knowledge_graph import check_graph_file
        from tfllm.tasks.text_mining import mine
    out, picture = Path(options.out), getattr(options, "picture", None)
    check_graph_file(out)  # before the work
    tagger: Any = None
    if hasattr(options, "tagger"):
        tagger = load_task(options.tagger, task="tagging")
    texts = [text for file in find_files(options.text) for text in documents(file)]
    graph = mine(
        texts,
        tagger=tagger,
        min_count=options.min_count,
        min_log_likelihood=options.min_log_likelihood,
    )
    graph.save(out)
    if picture is not None:
        charts.save(graph.figure(), picture)
    print(
        f"{out}: {len(graph.entities):,} entities and {len(graph.relations):,} relations in "
        f"{len(texts):,} documents"
    )


_HARNESS_SETTINGS = (
    *("limit", "num_shots", "chat", "extract", "template", "num_samples", "temperature"),
    *("max_new_tokens", "allow_code_execution"),
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
    model = task.load(options.model, adapter=getattr(options, "adapter", None))
    result = run_harness(
        options.harness, model, options.data, batch_size=options.batch_size, **given
    )
    measured = result.measured()
    if hasattr(options, "predictions"):
        result.save(options.predictions)
    if getattr(options, "json", False):
        print(json.dumps({"harness": result.harness, "measures": [*map(vars, measured)]}))
        return
    rows = {f"examples of {result.harness}": f"{measured[0].num_examples:,}"}
    for measure in measured:
        rows[measure.name] = f"{measure.format()}  ({measure.note})"
    if hasattr(options, "predictions"):
        rows["answers"] = str(options.predictions)
    print(table(rows))


def _evaluate(options: argparse.Namespace) -> None:
    if hasattr(options, "harness"):
        _evaluate_harness(options)
        return
    if getattr(options, "task", None) is not None or not _is_prepared(options.data):
        with quiet_start():
            pass
        _evaluate_task(options)
        return
    with quiet_start():
        from tfllm.evaluation import evaluate
        from tfllm.pretrained import load
        from tfllm.pretrained.adapters import load_merged
        from tfllm.pretrained.model_folder import model_folder
    folder = model_folder(options.model)
    adapter = getattr(options, "adapter", None)
    pretrained = load(folder) if adapter is None else load_merged(folder, adapter)
    sequence_length = getattr(options, "sequence_length", None)
    result = evaluate(
        pretrained.model,
        options.data,
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


def _generate(options: argparse.Namespace) -> None:
    config = build(GenerationConfig, given := settings(options, "generation")["generation"])
    with quiet_start():
        from tfllm.tasks import TextGeneration
    task = TextGeneration.load(options.model, adapter=getattr(options, "adapter", None))
    if options.prompt:
        for prompt in options.prompt:
            _print_continuation(task, prompt, given, config, options)
    elif sys.stdin.isatty():
        print("Type a prompt and Enter; an empty line ends.", file=sys.stderr)
        with contextlib.suppress(EOFError):
            while prompt := input("> "):
                try:
                    _print_continuation(task, prompt, given, config, options)
                except ValueError as error:  # of this prompt; the next one may do
                    print(f"tfllm generate: {error}", file=sys.stderr)
    else:
        _print_continuation(task, sys.stdin.read(), given, config, options)


def _print_continuation(
    task: Any, prompt: str, given: dict[str, Any], config: GenerationConfig, options: Any
) -> None:
    chosen = {name: getattr(config, name) for name in given}
    if config.num_samples > 1 or config.searches or getattr(options, "no_stream", False):
        texts = task.generate(prompt, **chosen)
        for text in [texts] if isinstance(texts, str) else texts:
            print(f"{prompt}{text}")
        return
    _print_stream(prompt, task.stream(prompt, **chosen))


def _print_stream(prompt: str, pieces: Iterator[str]) -> None:
    first = next(pieces, "")  # a prompt that is refused is not printed
    print(prompt, first, sep="", end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _chat(options: argparse.Namespace) -> None:
    config = build(GenerationConfig, given := settings(options, "generation")["generation"])
    if config.num_samples > 1:
        raise ConfigError(f"num_samples must be 1 for a chat; received {config.num_samples}")
    with quiet_start():
        from tfllm.tasks import Chat, ChatSession
    chosen = {name: getattr(config, name) for name in given}
    task = Chat.load(options.model, adapter=getattr(options, "adapter", None))
    session = ChatSession(task, system=getattr(options, "system", ""), **chosen)
    whole = getattr(options, "no_stream", False)
    if options.message:
        for message in options.message:
            _print_reply(session.say(message), whole)
    elif sys.stdin.isatty():
        print("Say something; /clear begins anew, /exit or Ctrl-D ends.", file=sys.stderr)
        with contextlib.suppress(EOFError):
            while (message := input("> ").strip()) != "/exit":
                if message == "/clear":
                    session.clear()
                elif message:
                    _answer(session, message, whole)
    else:
        _print_reply(session.say(sys.stdin.read().rstrip("\n")), whole)


def _answer(session: Any, message: str, whole: bool) -> None:
    """One turn of a conversation in a terminal; Ctrl-C ends the reply, and nothing else."""
    try:
        _print_reply(session.say(message), whole)
    except KeyboardInterrupt:
        print("\nstopped; this turn is forgotten", file=sys.stderr)
    except ValueError as error:  # of this turn; another may do
        print(f"tfllm chat: {error}; /clear begins anew", file=sys.stderr)


def _print_reply(pieces: Iterator[str], whole: bool) -> None:
    _print_stream("", iter(["".join(pieces)]) if whole else pieces)


def _merge(options: argparse.Namespace) -> None:
    with quiet_start():
        from tfllm.pretrained import save
        from tfllm.pretrained.adapters import load_merged
    model, tokenizer, generation = load_merged(options.model, options.adapter)
    folder = save(model, options.out, tokenizer, generation=generation, dtype=options.dtype)
    print(f"wrote {folder}")


def _export(options: argparse.Namespace) -> None:
    given = settings(options, "generation")["generation"]
    if build(GenerationConfig, given).num_samples > 1:
        raise ConfigError(
            "num_samples must be 1, as a served model gives each prompt one text; "
            f"received {given['num_samples']}"
        )
    with quiet_start():
        from tfllm.serving import export, write_deployment_files
        from tfllm.tasks import load_task
    adapter = getattr(options, "adapter", None)
    task = load_task(options.model, dtype=options.dtype, adapter=adapter)
    if given:
        task = task.with_settings(given)
    if getattr(task, "no_chat_reason", ""):
        print(f"without the signature chat, as to the chat template: {task.no_chat_reason}")
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
    chosen = {name: getattr(config, name) for name in given if name != "num_samples"}
    from tfllm.serving.client import Client

    grpc = getattr(options, "grpc", False)
    if grpc:  # its messages are TensorFlow's
        with quiet_start():
            pass
    address = options.address
    if grpc and address == "127.0.0.1:8501":
        address = "127.0.0.1:8500"
    with Client(
        address,
        model=options.model,
        version=getattr(options, "model_version", None),
        protocol="grpc" if grpc else "rest",
    ) as client:
        _ask(client, options, config, chosen)


def _ask(
    client: Any, options: argparse.Namespace, config: GenerationConfig, chosen: dict[str, Any]
) -> None:
    """Print what a server answers."""
    signature = getattr(options, "signature", None)
    generates = any(getattr(options, name, False) for name in ("chat", "score", "stream"))
    if not signature and not generates and "prompt" not in client.input_names():
        signature = "serving_default"  # of a task
    if signature:
        if chosen:
            raise ConfigError(
                f"settings are for text that is generated, and {signature} of {options.model} "
                f"takes none; leave {', '.join(chosen)} out"
            )
        for row in client.rows(signature, rows_of(options.prompt, client.input_names(signature))):
            print(json.dumps(row, ensure_ascii=False))
    elif getattr(options, "chat", False):
        if config.num_samples > 1:
            raise ConfigError(f"num_samples must be 1 for a chat; received {config.num_samples}")
        for text in options.prompt:
            messages = [{"role": "user", "content": text}]
            if system := getattr(options, "system", ""):
                messages.insert(0, {"role": "system", "content": system})
            if getattr(options, "stream", False):
                _print_stream("", client.stream_chat(messages, **chosen))
            else:
                print(client.chat(messages, **chosen))
    elif getattr(options, "score", False):
        for text, score in zip(options.prompt, client.score(options.prompt), strict=True):
            print(f"{text!r}: {score}")
    elif getattr(options, "stream", False):
        if config.num_samples > 1:
            raise ConfigError(f"num_samples must be 1 for a stream; received {config.num_samples}")
        for prompt in options.prompt:
            _print_stream(prompt, client.stream(prompt, **chosen))
    else:
        requests = [chosen]
        if config.num_samples > 1:
            seeds = range(config.seed, config.seed + config.num_samples)
            requests = [{**chosen, "seed": seed % 2**31} for seed in seeds]
        answers = [client.generate(options.prompt, **request) for request in requests]
        for prompt, *texts in zip(options.prompt, *answers, strict=True):
            for text in texts:
                print(f"{prompt}{text}")


def rows_of(words: Sequence[str], names: Sequence[str]) -> list[dict[str, str]]:
    """Rows of inputs given as NAME=VALUE; a name that was given already begins the next.

    Where there is one input alone, its name may be left out.

    Args:
        words: of the command line.
        names: of the inputs.

    Raises:
        ConfigError: a word is no such pair, or a row lacks what another has.
    """
    rows: list[dict[str, str]] = [{}]
    for word in words:
        name, equals, value = word.partition("=")
        if len(names) == 1 and name != names[0] and not (equals and name.isidentifier()):
            name, value = names[0], word
        elif not equals:
            told = " ".join(f"{name}=VALUE" for name in names)
            raise ConfigError(f"inputs are given as {told}; received {word!r}")
        if name in rows[-1]:
            rows.append({})
        rows[-1][name] = value
    for number, row in enumerate(rows, 1):
        if set(row) != set(rows[0]):
            raise ConfigError(
                f"all rows must have the same inputs ({', '.join(rows[0])}); row {number} has "
                f"{', '.join(row)}"
            )
    return rows


def _presets(options: argparse.Namespace) -> None:
    from tfllm.models.presets import preset_table

    print(preset_table())


_COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "prepare": _prepare,
    "train": _train,
    "launch": _launch,
    "report": _report,
    "evaluate": _evaluate,
    "predict": _predict,
    "mine": _mine,
    "generate": _generate,
    "chat": _chat,
    "merge": _merge,
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
