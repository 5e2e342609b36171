"""Record what `transformers` computes from SmolLM2-135M-Instruct, for test_smollm2.py.

    python -m venv /tmp/transformers
    /tmp/transformers/bin/pip install torch==2.13.0 transformers==5.24.0 gguf==0.19.0
    /tmp/transformers/bin/python tests/pretrained/record_smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf

The recorded file was made with those versions, tokenizers 0.23.3 and Python 3.11. The weights are
dequantized by the `gguf` package, put in the order of a Hugging Face folder and saved as one. For
each prompt the script records its ids, 32 tokens that `transformers` chooses greedily in float32
with its cache, and for each step the logits of some ids, the logarithm of the sum of all
exponentials, and the margin of the best logit over the second.

A prompt that is only the token <|endoftext|> is not among them: for it float32 and float64 of
`transformers` itself differ by 4e-3, and elsewhere by less than 1e-4.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers

OUT = Path(__file__).parent / "smollm2_reference.npz"
STEPS = 32
IDS = np.array([0, 1, 2, 9, 17, 28, 30, 33, 198, 216, 253, 260, 282, 284, 288, 314,
                335, 506, 732, 1000, 2050, 4093, 7042, 9531, 15000, 20001, 28007, 33333, 40404,
                45678, 49000, 49151], np.int32)  # fmt: skip
_STORY = (
    "The lighthouse keeper had lived alone on the rock for eleven years, and in all that time he "
    "had never once missed the lighting of the lamp. Every evening he climbed the hundred and "
    "forty steps, trimmed the wick, wound the clockwork that turned the lens, and wrote the hour "
    "in the book. Storms came from the west in autumn and broke over the gallery; in spring the "
    "birds, confused by the light, struck the panes and fell, and he gathered them in the morning. "
)
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived",
    "A",
    " ",
    "\n\n\n",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "import numpy as np\n\nx = np.arange(10)\nprint(x[",
    "SELECT name, COUNT(*) FROM users WHERE",
    "1, 2, 3, 4, 5, 6, 7,",
    "12345 + 67890 = ",
    "3.14159265358979",
    "你好，世界！今天天气",
    "Привет, как дела?",
    "مرحبا بالعالم",
    "naïve café 👩‍🚀 e\u0301 ½ \u00a0x",
    "    four spaces\tand a tab   then   gaps  ",
    "<|im_start|>system\nYou are a pirate.<|im_end|>\n"
    "<|im_start|>user\nWhat is the sun?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite a haiku about autumn.<|im_end|>\n<|im_start|>assistant\n",
    '{"name": "Ada Lovelace", "born": 1815, "died":',
    _STORY * 3 + "One night",
]


def convert(path: Path, folder: Path) -> None:
    """Write a Hugging Face folder of the file's weights."""
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    heads = fields["llama.attention.head_count"]
    kv_heads = fields["llama.attention.head_count_kv"]
    config = transformers.LlamaConfig(
        vocab_size=fields["llama.vocab_size"],
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    model = transformers.LlamaForCausalLM(config)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            new = names.get_name(name, try_suffixes=(".weight",))
            tensor = stored.pop(new)
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            for part, number in (("q_proj", heads), ("k_proj", kv_heads)):
                if part in name:  # pairs of rows, one of each half of a head
                    pairs = values.reshape(number, -1, 2, values.shape[1])
                    values = pairs.transpose(0, 2, 1, 3).reshape(values.shape)
            parameter.copy_(torch.from_numpy(np.array(values)))
    assert not stored, stored.keys()
    model.save_pretrained(folder)
    tokenizer(fields).save_pretrained(folder)


def tokenizer(fields: dict) -> transformers.PreTrainedTokenizerFast:
    """SmolLM2's: digits one by one, then GPT-2's pattern."""
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    model = tokenizers.models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges)
    result = tokenizers.Tokenizer(model)
    result.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    result.decoder = tokenizers.decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"]
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == 3]
    result.add_special_tokens(special)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=result, eos_token="<|im_end|>", bos_token="<|im_start|>"
    )


@torch.no_grad()
def greedy(model: torch.nn.Module, ids: list[int]) -> dict[str, np.ndarray]:
    """One prompt, step by step with the cache."""
    found: dict[str, list] = {"tokens": [], "logits": [], "log_sums": [], "margins": []}
    given, cache = torch.tensor([ids]), None
    for _ in range(STEPS):
        output = model(given, past_key_values=cache, use_cache=True)
        cache, logits = output.past_key_values, output.logits[0, -1].double()
        best = torch.topk(logits, 2)
        found["tokens"].append(int(best.indices[0]))
        found["margins"].append(float(best.values[0] - best.values[1]))
        found["logits"].append(logits[torch.from_numpy(IDS).long()].numpy())
        found["log_sums"].append(float(torch.logsumexp(logits, 0)))
        given = best.indices[:1][None]
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        convert(options.file, Path(folder))
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        loaded = transformers.AutoTokenizer.from_pretrained(folder)
        prompts = [loaded(prompt)["input_ids"] for prompt in PROMPTS]
        rows = [greedy(model.eval(), ids) for ids in prompts]
        for prompt, ids, row in zip(PROMPTS, prompts, rows, strict=True):
            print(len(ids), repr(prompt[:40]), "->", repr(loaded.decode(row["tokens"]))[:70])
    np.savez_compressed(
        OUT,
        prompts=np.array(json.dumps(PROMPTS)),
        prompt_ids=np.array(json.dumps(prompts)),
        ids=IDS,
        tokens=np.stack([row["tokens"] for row in rows]).astype(np.int32),
        margins=np.stack([row["margins"] for row in rows]).astype(np.float32),
        logits=np.stack([row["logits"] for row in rows]).astype(np.float32),
        log_sums=np.stack([row["log_sums"] for row in rows]).astype(np.float32),
    )
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
