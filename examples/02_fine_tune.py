"""Fine-tune SmolLM2 to answer in one line, on questions about Python: behind `make fine-tune`.

A pretrained chat model gives long answers. Here it learns from examples to explain a function the
way Python's own documentation does: in one sentence. The examples are generated from the docstrings
of the standard library, so they are available with every Python. A tenth of them is held out for
the loss, and includes the questions below.

Usage: python examples/02_fine_tune.py [--quick] [--model PATH] [--epochs N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import json
import re
import shutil
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

from pretrained import smollm2

from tfllm.cli import quiet_start, table

SYSTEM = "You explain Python."
HELD_OUT = tuple(
    f"What does `{name}` do?" for name in ("random.shuffle", "urllib.parse.urljoin", "copy.copy")
)
ELSE = "What is the capital of France?"
MODULES = """
argparse ast base64 bisect calendar collections colorsys configparser contextlib copy csv datetime
difflib dis email.utils enum fileinput fnmatch fractions functools gettext glob gzip heapq hmac html
http.client imaplib inspect io ipaddress itertools json keyword linecache locale logging lzma
mailbox math mimetypes operator os pathlib pickle pickletools pkgutil platform plistlib poplib
posixpath pprint profile quopri random re sched secrets shelve shlex shutil signal smtplib socket
sqlite3 ssl stat statistics string struct subprocess sysconfig tarfile tempfile textwrap threading
timeit tokenize traceback unicodedata unittest urllib.parse urllib.request uuid warnings wave
weakref webbrowser xml.dom.minidom zipfile zoneinfo
"""


def questions() -> Iterator[tuple[str, str]]:
    """Questions about functions of the standard library, with the first sentence of the
    docstring."""
    seen = set()
    for module_name in MODULES.split():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = importlib.import_module(module_name)
        for name, value in sorted(vars(module).items()):
            home = getattr(value, "__module__", None) or ""
            if (
                name.startswith("_")
                or not inspect.isroutine(value)
                or home.strip("_") != module_name
            ):
                continue
            first = re.split(r"(?<=\.)\s", " ".join((inspect.getdoc(value) or "").split()))[0]
            plain = first.endswith(".") and first[:1].isupper() and not re.search(r"\(|->", first)
            if plain and 25 <= len(first) <= 120 and first not in seen:
                seen.add(first)
                yield f"What does `{module_name}.{name}` do?", first


def tiny(model: str, folder: Path) -> str:
    """A small untrained model with the tokenizer of another one; returns its folder."""
    from tfllm import pretrained
    from tfllm.models.causal_lm import CausalLM
    from tfllm.models.sizes import size

    _, tokenizer, generation = pretrained.load(model)
    sizes = {"embedding_dim": 64, "num_heads": 2, "num_kv_heads": 1, "feed_forward_dim": 128}
    small = CausalLM(size("smollm2-135m", num_layers=2, **sizes))
    return str(pretrained.save(small, folder, tokenizer, generation=generation))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a pretrained chat model: a folder, a GGUF file, hf://...")
    parser.add_argument(
        "--quick", action="store_true", help="a minute: a tiny model, no check, no warm-up requests"
    )
    parser.add_argument("--epochs", type=float, help="passes over the examples; default: 3")
    parser.add_argument("--out", default="runs/fine_tune", help="folder of examples, data and run")
    parser.add_argument("--saved-models", default="saved_models", help="folder of exported models")
    options = parser.parse_args()
    start = time.perf_counter()
    model = options.model or smollm2()
    settings = {"epochs": 3, "learning_rate": 1e-3, "batch_size": 8, "lora_rank": 8}
    with quiet_start():
        import tfllm
        from tfllm import serving
        from tfllm.tasks import load
    out, base = Path(options.out), Path(options.saved_models) / "explain"
    if options.quick:
        model = tiny(model, out / "tiny")
        # All weights are trained: an adapter would build on what a model already knows.
        settings = {"epochs": 3, "learning_rate": 1e-2, "batch_size": 2, "lora_rank": None}
    if options.epochs:
        settings["epochs"] = options.epochs
    if (out / "run" / "run.json").exists():  # from an earlier run
        shutil.rmtree(out / "run")

    # 1. Examples: a question and its answer, one conversation per line. A tenth is held out.
    out.mkdir(parents=True, exist_ok=True)
    learned, held_out = out / "learned.jsonl", out / "held_out.jsonl"
    with open(learned, "w", encoding="utf-8") as many, open(held_out, "w", encoding="utf-8") as few:
        for question, answer in itertools.islice(questions(), 0, None, 5 if options.quick else 1):
            messages = [*asked(question), {"role": "assistant", "content": answer}]
            file = few if zlib.crc32(question.encode()) % 10 == 0 else many
            print(json.dumps({"messages": messages}), file=file)
    data = tfllm.prepare(
        [learned], out / "data",
        tfllm.PrepareConfig(tokenizer=model, validation=(str(held_out),)),
        overwrite=(out / "data").exists(),
    )  # fmt: skip
    print(data.describe())

    # 2. The model's answers before training.
    said: dict[str, list[str]] = {question: [] for question in (*HELD_OUT, ELSE)}
    before = load(model)
    loss_before = tfllm.evaluate(before.model, data, sequence_length=256).loss
    for question, replies in said.items():
        replies.append(before.reply(asked(question), max_new_tokens=60))

    # 3. Fine-tune: a low-rank adapter is trained, the model's own weights do not change.
    run = tfllm.train(
        data, out / "run", model, sequence_length=256, validate_every=13, checkpoint_every=13,
        **settings,
    )  # fmt: skip
    if run.interrupted_by:
        return 130

    # 4. The answers after training, from the merged model.
    after = load(run.model_folder)
    loss_after = tfllm.evaluate(after.model, data, sequence_length=256).loss
    for question, replies in said.items():
        replies.append(after.reply(asked(question), max_new_tokens=60))
    for question, (first, second) in said.items():
        print(f"\n{question}\n  before: {' '.join(first.split())}")
        print(f"  after:  {' '.join(second.split())}")

    # 5. Export in float32 and in int8, check, serve, query.
    for earlier in base.glob("[0-9]*/saved_model.pb"):
        shutil.rmtree(earlier.parent)
    sizes = {}
    warmup = {"warmup_prompts": ()} if options.quick else {}
    for dtype in ("int8",) if options.quick else ("float32", "int8"):  # the last one is served
        folder = serving.export(load(run.model_folder, dtype=dtype), base, **warmup)
        sizes[dtype] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if not options.quick:
        print("\nchecking the exported model as TensorFlow Serving would run it ...", flush=True)
        report = serving.check(base)
        if not report.ok:
            print(report.format())
            return 1
    with (
        serving.ModelServer(base.parent, rest_port=0, grpc_port=0) as server,
        serving.Client(server.rest_address, model=base.name) as client,
    ):
        served = client.chat(asked(HELD_OUT[0]), max_new_tokens=60)

    folders = {"model folder": str(run.model_folder)}
    if settings["lora_rank"]:
        folders = {
            "adapter, in PEFT's layout": str(out / "run" / "adapter"),
            "merged model folder": str(run.model_folder),
        }
    rows = {
        "examples": f"{data.train.num_documents} to train on, {data.validation.num_documents} "
        "held out",
        "loss on held-out replies": f"{loss_before:.3f} before, {loss_after:.3f} after",
        "parameters trained": f"{run.num_trained:,} of {run.num_parameters:,}",
        "tokens/s": f"{run.tokens_per_second:,.0f} in {run.precision}",
        **folders,
        "exported": ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in sizes.items()),
        f"served in int8, {HELD_OUT[0]}": " ".join(served.split()),
        "time": f"{time.perf_counter() - start:.0f} s",
    }
    print("\n" + table(rows))
    return 0


def asked(question: str) -> list[dict[str, str]]:
    """The conversation up to the reply."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


if __name__ == "__main__":
    sys.exit(main())
