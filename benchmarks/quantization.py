"""What 8-bit weights cost and save: perplexity and size of SmolLM2 in each precision.

The model is read from its GGUF file, whose weights have 4 and 8 bits themselves; float32 represents
them exactly. The text is that of the last State of the Union addresses, and the perplexity is that
of each token given up to 511 preceding tokens of its address.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
from pathlib import Path

from side_by_side import print_table
from smollm2 import smollm2

TEXT = Path(__file__).parents[1] / "examples" / "data" / "state_of_the_union.jsonl.gz"
DTYPES = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "int8, used in float32": "int8_float32",
    "int8, used in bfloat16": "int8_bfloat16",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--addresses", type=int, default=4, help="number of last addresses used")
    parser.add_argument("--length", type=int, default=512, help="tokens in a row")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tfllm
    from tfllm.serving import export
    from tfllm.tasks import evaluate

    path = smollm2()
    rows: list[tuple[str, ...]] = []
    exact, size = None, None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with gzip.open(TEXT, "rt", encoding="utf-8") as file:
            lines = file.readlines()[-options.addresses :]
        (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")
        prepared = tfllm.PrepareConfig(tokenizer=str(path), validation_fraction=0.0)
        data = tfllm.prepare([folder / "text.jsonl"], folder / "data", prepared)
        for name, dtype in DTYPES.items():
            task = tfllm.TextGeneration.load(path, dtype=dtype)
            result = evaluate(
                task.model, data, split="train", sequence_length=options.length, batch_size=4
            )
            served = export(task, folder / dtype, warmup_prompts=())
            stored = sum(file.stat().st_size for file in served.rglob("variables/*"))
            exact, size = exact or result, size or stored
            rows.append(
                (
                    name,
                    f"{result.perplexity:.4f}",
                    f"{100 * (result.perplexity / exact.perplexity - 1):+.3f} %",
                    f"{stored / 1e6:.1f} MB",
                    f"{stored / size:.3f}x",
                )
            )
            print(json.dumps({"dtype": dtype, "perplexity": result.perplexity}), flush=True)
    model = f"SmolLM2-135M-Instruct exported, {result.num_tokens:,} tokens of addresses"
    compared = "compared with float32"
    head = (model, "perplexity", compared, "weights", compared)
    print_table("Weights of 8 bits", [head, *rows])


if __name__ == "__main__":
    main()
