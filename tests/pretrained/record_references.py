"""Tiny random models with the logits that `transformers` computes from them, and the way back.

The recorded folders in `references/` were made with Python 3.11, transformers 5.23.0, torch
2.13.0 (CPU), safetensors 0.8.0 and numpy 2.4.6. Neither torch nor transformers is needed to run the
tests; to make the folders anew, or to check the way back, install them in an environment of their
own:

    python -m venv /tmp/transformers
    /tmp/transformers/bin/pip install torch==2.13.0 transformers==5.23.0

Make the folders anew (the seeds are fixed):

    /tmp/transformers/bin/python tests/pretrained/record_references.py

The way back, whether `transformers` computes from a folder that tfllm saved what tfllm computes:
the first command, with tfllm's Python, writes tfllm's answers to `FOLDER.expected.npz`; the second
opens the folder with `transformers` and compares.

    python tests/pretrained/record_references.py --expect FOLDER
    /tmp/transformers/bin/python tests/pretrained/record_references.py --check FOLDER
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

REFERENCES = Path(__file__).parent / "references"
NUM_NEW_TOKENS = 8
TEXTS = [
    "The cat sat on the mat.",
    "def f(x):\n    return x ** 2  # 1234567",
    "  spaces   and\n\n\nnewlines\t, punctuation , too !",
    "naïve café, 你好，世界, 👩‍🚀, e\u0301, Ünïcödé",
    "one document<|endoftext|>another",
    "",
]

LLAMA = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 64,
    "n_positions": 48,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {
    "llama_tied": ("llama", {**LLAMA, "tie_word_embeddings": True}, {}),
    "llama_untied": (
        "llama",
        {**LLAMA, "tie_word_embeddings": False, "num_key_value_heads": 1, "head_dim": 6},
        {},
    ),
    # Biases everywhere, another activation, bfloat16 on disk, several files.
    "llama_sharded": (
        "llama",
        {
            **LLAMA,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
            "hidden_act": "gelu_pytorch_tanh",
            "num_key_value_heads": 4,
        },
        {"dtype": "bfloat16", "max_shard_size": "20KB"},
    ),
    "gpt2": ("gpt2", GPT2, {}),
}


def record() -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    classes = {"llama": (LlamaConfig, LlamaForCausalLM), "gpt2": (GPT2Config, GPT2LMHeadModel)}
    for seed, (name, (family, settings, storage)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        config_class, model_class = classes[family]
        model = model_class(config_class(**settings)).eval()
        with torch.no_grad():
            # Unlike fresh weights: no two norms or biases are alike, and the logits are not flat.
            for key, parameter in model.named_parameters():
                parameter.normal_(1.0 if "norm" in key or "ln_" in key else 0.0, 0.2)
                if key.endswith("bias"):
                    parameter.normal_(0.0, 0.2)
        folder = REFERENCES / name
        shutil.rmtree(folder, ignore_errors=True)
        dtype = getattr(torch, storage.get("dtype", "float32"))
        options = {key: value for key, value in storage.items() if key != "dtype"}
        model.to(dtype).save_pretrained(folder, **options)
        model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        token_ids = torch.randint(0, settings["vocab_size"], (2, 12))
        with torch.no_grad():
            logits = model(token_ids).logits
            continued = model.generate(
                token_ids,
                attention_mask=torch.ones_like(token_ids),
                do_sample=False,
                max_new_tokens=NUM_NEW_TOKENS,
            )
        np.savez_compressed(
            folder / "reference.npz",
            token_ids=token_ids.numpy().astype(np.int32),
            logits=logits.numpy(),
            continued=continued.numpy().astype(np.int32),
        )
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{name}: {size:,} bytes, logits' standard deviation {logits.std():.2f}")


def expected_path(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.expected.npz"


def expect(folder: Path) -> None:
    """Write what tfllm computes from a folder."""
    import tensorflow as tf

    import tfllm.pretrained

    model, tokenizer, _ = tfllm.pretrained.load(folder)
    generator = np.random.default_rng(0)
    token_ids = generator.integers(0, model.config.vocab_size, (3, 24)).astype(np.int32)
    continued = token_ids
    for _ in range(NUM_NEW_TOKENS):  # by the full forward pass, without a cache
        logits = model(tf.constant(continued)).numpy()
        continued = np.concatenate([continued, logits[:, -1:].argmax(-1).astype(np.int32)], 1)
    texts = json.dumps([] if tokenizer is None else [tokenizer.encode(text) for text in TEXTS])
    np.savez_compressed(
        expected_path(folder),
        token_ids=token_ids,
        logits=model(tf.constant(token_ids)).numpy(),
        continued=continued,
        texts=texts,
    )
    print(f"written: {expected_path(folder)}")


def check(folder: Path) -> bool:
    """Whether transformers computes from a folder what tfllm does; prints the differences."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expected = np.load(expected_path(folder))
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    model = model.eval()
    problems = {key: value for key, value in report.items() if value}
    token_ids = torch.from_numpy(expected["token_ids"].astype(np.int64))
    with torch.no_grad():
        logits = model(token_ids).logits.numpy()
        model.generation_config.eos_token_id = None
        continued = model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            do_sample=False,
            max_new_tokens=NUM_NEW_TOKENS,
        ).numpy()
    difference = np.abs(logits - expected["logits"]).max()
    same_tokens = np.array_equal(continued, expected["continued"])
    print(f"{folder}: {type(model).__name__}, {model.num_parameters():,} parameters")
    print(f"  keys missing, unexpected or misshapen: {problems or 'none'}")
    print(f"  largest difference of a logit: {difference:.2e} (largest {np.abs(logits).max():.2f})")
    print(f"  greedy continuation of {NUM_NEW_TOKENS} tokens the same: {same_tokens}")
    same_ids = True
    ids = json.loads(str(expected["texts"]))
    if ids:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        theirs = [tokenizer(text)["input_ids"] for text in TEXTS]
        same_ids = theirs == ids
        decoded = [tokenizer.decode(row) for row in theirs]
        print(
            f"  {type(tokenizer).__name__}: token ids the same: {same_ids}; text comes back: "
            f"{decoded == TEXTS}; end token {tokenizer.eos_token!r} = {tokenizer.eos_token_id}, "
            f"model's {model.config.eos_token_id}; longest {tokenizer.model_max_length}"
        )
    return not problems and difference < 1e-4 and same_tokens and same_ids


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--expect", type=Path, metavar="FOLDER")
    parser.add_argument("--check", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.expect:
        expect(arguments.expect)
    elif arguments.check:
        return 0 if check(arguments.check) else 1
    else:
        record()
    return 0


if __name__ == "__main__":
    sys.exit(main())
