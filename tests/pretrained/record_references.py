"""Record tiny random models with the logits of `transformers`; check the way back.

The recorded folders in `references/` were made with Python 3.11, transformers 5.24.0, torch
2.13.0 (CPU), safetensors 0.8.0 and numpy 2.4.6. Neither torch nor transformers is needed to run the
tests; to make the folders again, or to check the way back, install them in a separate environment:

    python -m venv /tmp/transformers
    /tmp/transformers/bin/pip install torch==2.13.0 transformers==5.24.0

Make the folders again (the seeds are fixed), all or some by name:

    /tmp/transformers/bin/python tests/pretrained/record_references.py [NAME ...]

`reference.npz` holds token ids `[2, T]` and their logits, each row run separately, and the greedy
continuations of two prompts of other lengths (the rows cut to `prompt_lengths`), with the logits of
each step, by the library's own cached decoding. A row should give the same logits in a padded
batch, packed with another row or from a cache, so that one set of logits serves for all cases; the
script prints how closely transformers itself keeps to that.

To check the way back, that `transformers` computes the same as tfllm from a folder that tfllm
saved: the first command, with tfllm's Python, writes tfllm's results to `FOLDER.expected.npz`; the
third opens the folder with `transformers` and compares. `--resave` reads and saves every recorded
model and writes the results of each.

    python tests/pretrained/record_references.py --expect FOLDER ...
    python tests/pretrained/record_references.py --resave FOLDER
    /tmp/transformers/bin/python tests/pretrained/record_references.py --check FOLDER ...
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
TIME = 30
PROMPT_LENGTHS = (21, 13)
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
# Sizes that divide nothing: a vocabulary and a width of no power of two, three key/value heads, and
# heads whose size is not width / number.
ODD = {
    "vocab_size": 97,
    "hidden_size": 18,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "intermediate_size": 44,
    "max_position_embeddings": 56,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 14,
}
MODELS = {
    "llama_tied": ("Llama", {**LLAMA, "tie_word_embeddings": True}, {}),
    "llama_untied": (
        "Llama",
        {**LLAMA, "tie_word_embeddings": False, "num_key_value_heads": 1, "head_dim": 6},
        {},
    ),
    # Biases everywhere, another activation, bfloat16 on disk, several files.
    "llama_sharded": (
        "Llama",
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
    "gpt2": ("GPT2", GPT2, {}),
    # Positions beyond the first context, and frequencies of all three kinds.
    "llama3": ("Llama", {**ODD, "rope_parameters": LLAMA3_ROPE}, {}),
    "llama_linear": (
        "Llama",
        {
            **ODD,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.5},
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
        {},
    ),
    # A window shorter than the rows and the prompts.
    "mistral": ("Mistral", {**ODD, "hidden_size": 20, "sliding_window": 7}, {}),
    "qwen2": (
        "Qwen2",
        {
            **ODD,
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
        {},
    ),
    "qwen2_full": (
        "Qwen2",
        {**ODD, "hidden_size": 24, "head_dim": 4, "tie_word_embeddings": False},
        {},
    ),
    "qwen3": ("Qwen3", {**ODD, "tie_word_embeddings": True}, {}),
    "qwen3_windows": (
        "Qwen3",
        {
            **ODD,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": LLAMA3_ROPE,
        },
        {},
    ),
    "smollm3": (
        "SmolLM3",
        {**ODD, "hidden_size": 24, "head_dim": 4, "num_hidden_layers": 4, "intermediate_size": 22},
        {},
    ),
    "smollm3_windows": (
        "SmolLM3",
        {
            **ODD,
            "num_hidden_layers": 3,
            "no_rope_layers": [1, 0, 1],
            "use_sliding_window": True,
            "sliding_window": 9,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
        },
        {},
    ),
}

LARGEST_DIFFERENCE = 1e-4
"""of two float32 logits: what `tests.rounding`, which needs TensorFlow, gives for 400 additions of
values up to 8, of which these models have about so many"""


def record(names: list[str]) -> None:
    import torch
    import transformers

    for seed, (name, (family, settings, storage)) in enumerate(MODELS.items()):
        if names and name not in names:
            continue
        torch.manual_seed(seed)
        config_class = getattr(transformers, f"{family}Config")
        heads = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
        model_class = getattr(transformers, f"{family}{heads}")
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
        token_ids = torch.randint(0, settings["vocab_size"], (2, TIME))
        # What is looked up as padding must not be seen, so that any token stands there.
        with torch.no_grad():
            logits = torch.cat([model(row[None]).logits for row in token_ids])
            prompts, mask = _left_padded(token_ids)
            given = model.generate(
                prompts,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=NUM_NEW_TOKENS,
                output_logits=True,
                return_dict_in_generate=True,
            )
            apart = _differences(model, token_ids, logits)
        np.savez_compressed(
            folder / "reference.npz",
            token_ids=token_ids.numpy().astype(np.int32),
            logits=logits.numpy(),
            prompt_lengths=np.array(PROMPT_LENGTHS, np.int32),
            generated=given.sequences[:, max(PROMPT_LENGTHS) :].numpy().astype(np.int32),
            generated_logits=torch.stack(given.logits, 1).numpy(),
        )
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{name}: {size:,} bytes, logits' standard deviation {logits.std():.2f}; {apart}")


def _left_padded(token_ids):
    import torch

    width = max(PROMPT_LENGTHS)
    prompts = torch.full((2, width), 5)
    mask = torch.zeros(2, width, dtype=torch.long)
    for row, length in enumerate(PROMPT_LENGTHS):
        prompts[row, width - length :] = token_ids[row, :length]
        mask[row, width - length :] = 1
    return prompts, mask


def _differences(model, token_ids, logits) -> str:
    """How far padded and packed rows are from rows run alone, in transformers itself."""
    import torch

    prompts, mask = _left_padded(token_ids)
    padded = model(
        prompts, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)
    ).logits
    rows = list(zip(PROMPT_LENGTHS, logits, strict=True))
    left = [(padded[i, -n:] - row[:n]).abs().max() for i, (n, row) in enumerate(rows)]
    pieces = [token_ids[i, :n] for i, n in enumerate(PROMPT_LENGTHS)]
    places = torch.cat([torch.arange(n) for n in PROMPT_LENGTHS])
    packed = model(torch.cat(pieces)[None], position_ids=places[None], use_cache=False).logits[0]
    alone = torch.cat([row[:n] for n, row in rows])
    return f"left padding {max(left):.1e}, packed {(packed - alone).abs().max():.1e}"


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
    return not problems and difference < LARGEST_DIFFERENCE and same_tokens and same_ids


def resave(folder: Path) -> None:
    """Read every recorded model, save it with tfllm, and expect."""
    import tfllm.pretrained

    for name in MODELS:
        model = tfllm.pretrained.load(REFERENCES / name).model
        expect(tfllm.pretrained.save(model, folder / name))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the models to record")
    parser.add_argument("--expect", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--resave", type=Path, metavar="FOLDER")
    parser.add_argument("--check", type=Path, nargs="+", metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.expect:
        for folder in arguments.expect:
            expect(folder)
    elif arguments.resave:
        resave(arguments.resave)
    elif arguments.check:
        return 0 if all([check(folder) for folder in arguments.check]) else 1
    else:
        record(arguments.names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
