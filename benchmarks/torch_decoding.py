"""Greedy decoding by `transformers` on PyTorch, in an environment of its own, on request.

Started by `decoding.py --torch PYTHON`. Reads a line of JSON for each run, `[sequences, prompt
tokens, new tokens]`, and answers each with a line: how many tokens every sequence got. Weights are
random: the speed does not depend on them.
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
