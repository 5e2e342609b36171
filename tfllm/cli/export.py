"""The commands `merge`, `export` and `check`: from a trained model to a served one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tfllm.cli.arguments import AddCommand, add_model, add_prompt_name, add_task
from tfllm.cli.settings import add_settings, settings
from tfllm.cli.terminal import quiet_start
from tfllm.config import ConfigError, GenerationConfig, build


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    merge = add("merge", "Merge an adapter into its model, and write the whole", _merge)
    add_model(merge)
    merge.add_argument("adapter", help="a folder in PEFT's layout, such as RUN/adapter")
    merge.add_argument("--out", required=True, help="the model folder to write")
    merge.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the weights"
    )

    export = add("export", "Write a model for TensorFlow Serving", _export)
    add_model(export, adapter=True)
    export.add_argument("base", help="the served model's folder, such as saved_models/NAME")
    add_task(export)
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
    add_prompt_name(export)
    export.add_argument(
        "--measure",
        action="store_true",
        help="run it as a server does, and write memory limits and start-up times from that",
    )
    add_settings(export, "generation")

    check = add("check", "Find what would fail in TensorFlow Serving", _check)
    check.add_argument("path", help="an exported model, or one version of it")
    check.add_argument("--no-run", action="store_true", help="read it only, do not run it")
    check.add_argument("--json", action="store_true", help="print JSON")


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
        from tfllm.serving.footprint import footprint
        from tfllm.tasks import load
    adapter = getattr(options, "adapter", None)
    name = getattr(options, "task", None)
    task = load(options.model, dtype=options.dtype, adapter=adapter, task=name)
    if given:
        task = task.with_settings(given)
    if hasattr(options, "prompt_name"):
        task = task.with_settings({"prompt_name": options.prompt_name})
    if getattr(task, "no_chat_reason", ""):
        print(f"without the signature chat, as to the chat template: {task.no_chat_reason}")
    base = Path(options.base)
    measure = getattr(options, "measure", False)
    folder = export(task, base, version=getattr(options, "model_version", None), measure=measure)
    print(f"wrote {folder}")
    if measure:
        print(footprint(folder).format())
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
