"""Beam search by `transformers` on PyTorch, in a separate environment.

`translation.py --torch PYTHON` starts it with a Marian folder and a dtype. It reads a line of JSON
for each run, `[source ids of each row, beams, new tokens]`, and answers with a line: the tokens of
each row's best text.
"""

from __future__ import annotations

import json
import sys

import torch
from transformers import MarianMTModel


def main() -> None:
    model = MarianMTModel.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2])).eval()
    model.generation_config.eos_token_id = None  # so that every text has all its tokens
    model.generation_config.forced_eos_token_id = None
    print("ready", flush=True)
    for line in sys.stdin:
        rows, beams, new_tokens = json.loads(line)
        source = torch.tensor(rows)
        with torch.inference_mode():
            made = model.generate(
                input_ids=source,
                attention_mask=torch.ones_like(source),
                num_beams=beams,
                do_sample=False,
                max_new_tokens=new_tokens,
                length_penalty=1.0,
            )
        print(json.dumps(made[:, 1:].tolist()), flush=True)


if __name__ == "__main__":
    main()
