"""From text to a served language model in one run: the script behind `make quickstart`.

Usage: python examples/quickstart.py [--steps N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from tfllm.cli import quiet_start, table

HERE = Path(__file__).parent
TEXT = HERE / "data" / "state_of_the_union.jsonl.gz"
PROMPT = "My fellow citizens, the state of our"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=400, help="updates of the weights")
    parser.add_argument("--out", default="runs/quickstart", help="folder of data and run")
    parser.add_argument("--saved-models", default="saved_models", help="folder of served models")
    options = parser.parse_args()
    start = time.perf_counter()
    with quiet_start():
        import tfllm
        from tfllm import serving
    out, base = Path(options.out), Path(options.saved_models) / "quickstart"
    if (out / "run" / "run.json").exists():  # from an earlier quickstart
        shutil.rmtree(out / "run")

    data = tfllm.prepare(
        [TEXT], out / "data", tfllm.PrepareConfig(vocab_size=4096),
        overwrite=(out / "data").exists(),
    )  # fmt: skip
    run = tfllm.train(
        data, out / "run", "llama-1m", sequence_length=256, batch_size=16, steps=options.steps,
        learning_rate=5e-3, validate_every=100, checkpoint_every=100,
    )  # fmt: skip
    if run.interrupted_by:
        return 130
    task = tfllm.TextGeneration.load(run.model_folder)
    for earlier in base.glob("[0-9]*/saved_model.pb"):
        shutil.rmtree(earlier.parent)
    folder = serving.export(task, base)
    files = serving.write_deployment_files(base.parent, [base.name])

    print("checking the exported model as TensorFlow Serving would run it ...", flush=True)
    report = serving.check(base)
    if not report.ok:
        print(report.format())
        return 1
    ask = {"max_new_tokens": 40, "temperature": 0.8, "top_p": 0.95, "seed": 1}
    with serving.ModelServer(base.parent, rest_port=0, grpc_port=0) as server:
        answers = {}
        for protocol, address in (("rest", server.rest_address), ("grpc", server.grpc_address)):
            client = serving.Client(address, model=base.name, protocol=protocol)
            answers[protocol] = client.generate(PROMPT, **ask)
            client.close()
    if len(set(answers.values())) != 1:
        print(f"REST and gRPC gave different texts: {answers}")
        return 1

    tfllm_command = os.path.relpath(Path(sys.executable).parent / "tfllm")
    sample = " ".join((PROMPT + answers["rest"]).split())
    rows = {
        "text": f"{TEXT.name}, {data.train.num_tokens + data.validation.num_tokens:,} tokens",
        "parameters": f"{run.num_parameters:,}",
        "trained in": f"{run.precision}, {run.step} steps",
        "tokens/s": f"{run.tokens_per_second:,.0f} ({run.flops_utilization:.0%} of the measured "
        "matmul peak)",
        "validation perplexity": f"{run.validation_perplexity:.1f}",
        "of a unigram model": f"{data.unigram_perplexity():.1f}",
        "sample, by REST and gRPC": sample if len(sample) < 300 else sample[:300] + "...",
        "model folder": str(run.model_folder),
        "exported model": f"{folder} (checked: {len(report.findings)} findings)",
        "deployment files": ", ".join(path.name for path in sorted(base.parent.iterdir())
                                      if path in files.written or path in files.unchanged),
        "time": f"{time.perf_counter() - start:.0f} s",
        "go on with": f"{tfllm_command} generate {run.model_folder} {PROMPT!r}",
        "": f"{tfllm_command} serve {base.parent}",
        " ": f"{tfllm_command} query {base.name} {PROMPT!r} --stream",
        "  ": f"{tfllm_command} prepare YOUR_TEXT --out data && {tfllm_command} train --data data "
        "--out run",
    }  # fmt: skip
    print("\n" + table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
