"""A BERT encoder of `transformers` on PyTorch, in a separate environment.

`encoder.py --torch PYTHON` starts it. It reads a line of JSON for each run, `[rows, tokens]`, and
answers with a line: the number of states that it computed. The weights are random; the speed does
not depend on them.
"""

from __future__ import annotations

import json
import sys

import torch
from transformers import BertConfig, BertModel


def main() -> None:
    settings, dtype = json.loads(sys.argv[1]), sys.argv[2]
    torch.manual_seed(0)
    model = BertModel(BertConfig(**settings)).to(getattr(torch, dtype)).eval()
    print("ready", flush=True)
    for line in sys.stdin:
        rows, tokens = json.loads(line)
        ids = torch.randint(0, settings["vocab_size"], (rows, tokens))
        mask = torch.arange(tokens) < torch.linspace(tokens // 2, tokens, rows)[:, None]
        with torch.inference_mode():
            states = model(ids, attention_mask=mask.long()).last_hidden_state
        print(states.shape[0] * states.shape[1], flush=True)


if __name__ == "__main__":
    main()
