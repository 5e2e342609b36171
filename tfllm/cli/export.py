"""The commands `merge`, `export` and `check`: from a trained model to a served one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tfllm.cli.arguments import (
    GENERATION,
    AddCommand,
    add_model,
    add_prompt_name,
    add_settings,
    add_task,
)
from tfllm.cli.settings import settings
from tfllm.cli.terminal import quiet_start
from tfllm.config import ConfigError, GenerationConfig, build


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    merge = add(
        "merge",
        "Merge a LoRA adapter into its base model",
        _merge,
        "tfllm merge MODEL runs/mine/adapter --out merged",
    )
    add_model(merge)
    merge.add_argument(
        "adapter", metavar="ADAPTER", help="adapter folder in PEFT's layout, such as RUN/adapter"
    )
    merge.add_argument("--out", metavar="DIR", required=True, help="model folder to write")
    merge.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="dtype of the weights"
    )

    export = add(
        "export",
        "Export a model, with its tokenizer, as a SavedModel for TensorFlow Serving",
        _export,
        "tfllm export runs/mine saved_models/mine --dtype int8",
    )
    add_model(export, adapter=True)
    export.add_argument(
        "base", metavar="FOLDER", help="folder of the served model, such as saved_models/NAME"
    )
    add_task(export)
    export.add_argument(
        "--model-version", type=int, metavar="N", help="version to write; default: the next one"
    )
    export.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "int8"],
        default="float32",
        help="dtype of weights and matrix products; int8: of the weights, and of the products of "
        "decoding where --int8-kernels has them, others in the faster of float32 and bfloat16",
    )
    export.add_argument(
        "--int8-kernels",
        choices=["auto", "portable", "onednn"],
        default="auto",
        help="how an int8 model decodes; onednn: products of integers, for servers on x86; "
        "portable: products of floats, slower, for any server; auto: onednn if this machine "
        "has it",
    )
    export.add_argument(
        "--no-deployment-files",
        action="store_true",
        help="do not write models.config, docker-compose.yaml and the other deployment files",
    )
    add_prompt_name(export)
    export.add_argument(
        "--measure",
        action="store_true",
        help="run the export as a server does, and set memory limits and start-up times from that",
    )
    add_settings(export, "generation")
    export.lead_with(
        *("--adapter", "--task", "--model-version", "--dtype", "--measure"),
        *("--no-deployment-files", *GENERATION),
    )

    check = add(
        "check",
        "Check that an exported model runs in TensorFlow Serving",
        _check,
        "tfllm check saved_models/mine",
    )
    check.add_argument("path", metavar="FOLDER", help="an exported model, or one version of it")
    check.add_argument("--no-run", action="store_true", help="inspect the model without running it")
    check.add_argument("--json", action="store_true", help="print the result as JSON")


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
            "num_samples must be 1, since a served model generates one text per prompt; "
            f"received {given['num_samples']}"
        )
    with quiet_start():
        from tfllm.optimization.precision import with_kernels
        from tfllm.serving import export, write_deployment_files
        from tfllm.serving.footprint import footprint
        from tfllm.tasks import load
    adapter = getattr(options, "adapter", None)
    name = getattr(options, "task", None)
    dtype = with_kernels(options.dtype, options.int8_kernels)
    task = load(options.model, dtype=dtype, adapter=adapter, task=name)
    if given:
        task = task.with_settings(given)
    if hasattr(options, "prompt_name"):
        task = task.with_settings({"prompt_name": options.prompt_name})
    if getattr(task, "no_chat_reason", ""):
        print(f"the signature chat is not exported: {task.no_chat_reason}")
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
