"""Record the results of beam search in `transformers` with a tiny random model.

    /tmp/transformers/bin/python -m tests.generation.record_beam_search

in an environment with `transformers` and `torch`, from the repository's top. It writes
`beam_search_reference.npz`: for each of CASES, the new tokens `[rows, width, T]`, padded with -1,
and the scores `[rows, width]`. The model is one of `tests/pretrained/references`, with some of its
likely tokens declared as end tokens.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

MODEL = Path(__file__).parents[1] / "pretrained" / "references" / "llama_tied"
RECORDED = Path(__file__).parent / "beam_search_reference.npz"
RECORDED_PROMPTS = [[5, 9, 61, 30, 7], [44], [12, 80, 3], [17, 17, 50, 21, 66, 38, 90]]
NUM_NEW_TOKENS = 12
END_TOKEN_IDS = [2, 64, 45, 19]
# width, length penalty, no-repeat n-gram size, whether to stop early
CASES = [
    (4, 1.0, 0, False),
    (3, 0.0, 2, False),
    (5, 2.0, 3, False),
    (2, -0.5, 0, False),
    (4, 1.0, 2, True),
]


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    longest = max(map(len, RECORDED_PROMPTS))
    arrays = {"end_token_ids": np.array(END_TOKEN_IDS, np.int32)}
    for case, (width, penalty, ngram, early) in enumerate(CASES):
        # A row at a time: padding before a prompt would count among its n-grams.
        rows_ids, rows_scores = [], []
        for prompt in RECORDED_PROMPTS:
            found = model.generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones([1, len(prompt)], dtype=torch.long),
                do_sample=False,
                num_beams=width,
                num_return_sequences=width,
                length_penalty=penalty,
                no_repeat_ngram_size=ngram,
                early_stopping=True if early else "never",
                max_new_tokens=NUM_NEW_TOKENS,
                eos_token_id=END_TOKEN_IDS,
                pad_token_id=END_TOKEN_IDS[0],
                return_dict_in_generate=True,
                output_scores=True,
            )
            ids = np.full((width, NUM_NEW_TOKENS), -1, np.int32)
            new = found.sequences[:, len(prompt) :].numpy()
            ids[:, : new.shape[1]] = new
            rows_ids.append(ids)
            rows_scores.append(found.sequences_scores.numpy())
        arrays[f"ids_{case}"] = np.stack(rows_ids)
        arrays[f"scores_{case}"] = np.stack(rows_scores)
        print(case, (arrays[f"ids_{case}"] >= 0).sum(-1).tolist())
    np.savez_compressed(RECORDED, **arrays)
    print(f"written: {RECORDED}, {RECORDED.stat().st_size:,} bytes; prompts of up to {longest}")


if __name__ == "__main__":
    main()
