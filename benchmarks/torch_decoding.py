"""Greedy decoding by `transformers` on PyTorch, in a separate environment.

`decoding.py --torch PYTHON` starts it. It reads a line of JSON for each run, `[sequences, prompt
tokens, new tokens]`, and answers with a line: the number of new tokens of each sequence. The
weights are random; the speed does not depend on them.
"""

from __future__ import annotations

import json
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def main() -> None:
    settings, dtype = json.loads(sys.argv[1]), sys.argv[2]
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings)).to(getattr(torch, dtype)).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    print("ready", flush=True)
    for line in sys.stdin:
        batch, prompt, new = json.loads(line)
        ids = torch.full((batch, prompt), 7)
        with torch.inference_mode():
            made = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new
            )
        print(made.shape[1] - prompt, flush=True)


if __name__ == "__main__":
    main()
