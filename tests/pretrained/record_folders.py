"""Record folders that current libraries write, with the results that they compute from them.

The recorded folders in `library_folders/` were made with Python 3.11, safetensors 0.8.0,
sentence-transformers 6.2.0, transformers 5.24.0 and torch 2.13.0 (CPU). None of them is needed to
run the tests. To make the folders again (the seeds are fixed), use the environment that
`record_references.py` describes, with sentence-transformers:

    /tmp/transformers/bin/pip install sentence-transformers==6.2.0
    /tmp/transformers/bin/python tests/pretrained/record_folders.py

`save_model/NAME.safetensors` is what `safetensors.torch.save_model` writes for a recorded model
(see `TIED`), whose values it has. `sentence` is a model of sentence-transformers, `sentence_NAME`
the files that differ in the folder of another pooling; `vectors.npz` has the vectors of `SENTENCES`
by each. `generation` is a language model with its tokenizer, and `generated.json` the output of
`generate` for `PROMPTS` with each generation_config.json of `GENERATION`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
FOLDERS = HERE / "library_folders"
TIED = {
    "llama": ("references/llama_tied", "LlamaForCausalLM"),
    "gpt2": ("references/gpt2", "GPT2LMHeadModel"),
    "t5": ("encoder_decoder_references/t5", "T5ForConditionalGeneration"),
    "marian": ("encoder_decoder_references/marian", "MarianMTModel"),
    "masked": ("encoder_references/masked", "BertForMaskedLM"),
}
LETTERS = "abcdefghij"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]
SENTENCES = ["ab cd", "a", "Abc déf, gh", "abcdefghij " * 5, "h i j"]
PROMPTS = {"query": "ab: ", "document": "cd e"}
"""of the model of sentence vectors"""
POOLINGS = {
    "cls": ("cls", False),
    "max": ("max", False),
    "mean": ("mean", False),
    "sqrt": ("mean_sqrt_len_tokens", True),
    "weighted": ("weightedmean", False),
    "last": ("lasttoken", True),
    "joined": (["mean", "cls"], True),
}
"""name to the pooling, and whether vectors are normalized"""

TEXTS = ["a b c", "the d e", "j i h g f e"]
"""that the language model continues"""
GENERATION = {
    "greedy": {"max_new_tokens": 12},
    "greedy, with settings of sampling": {
        "do_sample": False,
        "temperature": 0.6,
        "top_p": 0.9,
        "max_new_tokens": 12,
    },
    "beams": {"num_beams": 3, "length_penalty": 0.5, "max_new_tokens": 10},
    "one beam that does not repeat": {"no_repeat_ngram_size": 2, "max_new_tokens": 12},
    "max_length": {"max_length": 15},
    "two limits": {"max_length": 12, "max_new_tokens": 12},
    "stop_strings": {"stop_strings": ["d d", "dc"], "max_new_tokens": 12},
    "suppress_tokens": {"suppress_tokens": [4, 5, 6, 7, 8], "max_new_tokens": 12},
    "begin_suppress_tokens": {"begin_suppress_tokens": [6, 9, 12, 13, 14], "max_new_tokens": 12},
    "bad_words_ids": {"bad_words_ids": [[4], [7], [9], [1]], "max_new_tokens": 12},
    "min_new_tokens": {"min_new_tokens": 6, "max_new_tokens": 12},
    "min_length": {"min_length": 14, "max_new_tokens": 12},
    "repetition_penalty": {"repetition_penalty": 1.3, "max_new_tokens": 12},
    "several end tokens": {"eos_token_id": [1, 7, 10], "max_new_tokens": 12},
    "beams and forbidden tokens": {
        "num_beams": 2,
        "min_new_tokens": 5,
        "suppress_tokens": [6, 8],
        "max_new_tokens": 9,
    },
    "a forced end": {"forced_eos_token_id": 1, "max_new_tokens": 6},
    "a forced token": {"forced_eos_token_id": [7], "max_new_tokens": 6},
    "beams and a forced end": {
        "num_beams": 3,
        "forced_eos_token_id": 1,
        "length_penalty": 2.0,
        "max_new_tokens": 5,
    },
}


def record_tied() -> None:
    import torch
    import transformers
    from safetensors.torch import save_model

    (FOLDERS / "save_model").mkdir(parents=True, exist_ok=True)
    for name, (folder, class_name) in TIED.items():
        model = getattr(transformers, class_name).from_pretrained(
            HERE / folder, dtype=torch.float32
        )
        save_model(model, str(FOLDERS / "save_model" / f"{name}.safetensors"))


def record_sentences() -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    base = Path(tempfile.mkdtemp())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=24,
    )
    model = BertModel(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            is_scale = "LayerNorm" in key and key.endswith("weight")
            parameter.normal_(1.0 if is_scale else 0.0, 0.3)
    model.save_pretrained(base)
    (base / "vocab.txt").write_text("\n".join(VOCABULARY))
    BertTokenizer(str(base / "vocab.txt"), do_lower_case=False).save_pretrained(base)
    vectors = {}

    def made(name: str, pooling: object, normalize: bool, **options: object) -> SentenceTransformer:
        encoder = Transformer(str(base), **options.pop("encoder", {}))
        modules = [encoder, Pooling(12, pooling), *([Normalize()] if normalize else [])]
        made = SentenceTransformer(modules=modules, device="cpu", **options)
        folder = FOLDERS / name
        shutil.rmtree(folder, ignore_errors=True)
        made.save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)
        vectors[name] = SentenceTransformer(str(folder), device="cpu").encode(SENTENCES)
        return made

    whole = made(
        "sentence",
        "mean",
        True,
        prompts=PROMPTS,
        default_prompt_name="query",
        encoder={"max_seq_length": 9},
    )
    vectors["sentence, document"] = whole.encode(SENTENCES, prompt_name="document")
    vectors["sentence, none"] = whole.encode(SENTENCES, prompt="")
    for name, (pooling, normalize) in POOLINGS.items():
        made(f"sentence_{name}", pooling, normalize)
        keep_what_differs(FOLDERS / f"sentence_{name}")
    # As older versions wrote it: capital letters are made small although the tokenizer keeps them.
    old = FOLDERS / "sentence_lowercase"
    shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(FOLDERS / "sentence", old)
    settings = {"max_seq_length": 7, "do_lower_case": True}
    (old / "sentence_bert_config.json").write_text(json.dumps(settings))
    vectors[old.name] = SentenceTransformer(str(old), device="cpu").encode(SENTENCES)
    keep_what_differs(old)
    np.savez_compressed(FOLDERS / "vectors.npz", **vectors)


def keep_what_differs(folder: Path) -> None:
    """Without the files that `sentence` has alike."""
    for path in sorted(folder.rglob("*")):
        same = FOLDERS / "sentence" / path.relative_to(folder)
        if path.is_file() and same.is_file() and path.read_bytes() == same.read_bytes():
            path.unlink()


def record_generation() -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    folder = FOLDERS / "generation"
    shutil.rmtree(folder, ignore_errors=True)
    vocabulary = {word: i for i, word in enumerate(["<unk>", "</s>", "<s>", "<turn>"])}
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary.setdefault(symbol, len(vocabulary))
    plain = Tokenizer(models.BPE(vocabulary, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        unk_token="<unk>",
        eos_token="</s>",
        bos_token="<s>",
        extra_special_tokens=["<turn>"],
        chat_template="{{ bos_token }}{% for m in messages %}<turn>{{ m.content }}{% endfor %}",
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        eos_token_id=1,
        bos_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in key else 0.0, 0.4)
        # The few tokens that texts are to be made of, and ends that come now and then.
        likely = [1, *(vocabulary[c] for c in "abcdeĠfg")]
        rows = torch.full((len(vocabulary), 1), 0.2)
        rows[likely] = 1.0
        model.lm_head.weight.mul_(rows)
    model.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers: dict[str, object] = {"likely": likely}
    for name, written in GENERATION.items():
        settings = with_ids(written, likely)
        texts = []
        generation = GenerationConfig(**{"eos_token_id": 1, "pad_token_id": 0, **settings})
        for text in TEXTS:
            given = tokenizer(text, return_tensors="pt", add_special_tokens=False)
            result = model.generate(
                given["input_ids"], generation_config=generation, tokenizer=tokenizer
            )[0][given["input_ids"].shape[1] :]
            ends = settings.get("eos_token_id", [1])
            texts.append([i for i in result.tolist() if i not in ends and i != 0])
        stored = json.loads(generation.to_json_string())
        answers[name] = {"generation_config": stored, "ids": texts}
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
    answers["chat"] = tokenizer.apply_chat_template(messages, tokenize=False)
    answers["encoded"] = [tokenizer(text)["input_ids"] for text in TEXTS]
    (FOLDERS / "generated.json").write_text(json.dumps(answers, indent=1))


def with_ids(settings: dict, likely: list[int]) -> dict:
    """With the n-th of the likely tokens instead of each number from 4 on; 1 is the end token."""

    def of(value: object) -> object:
        if isinstance(value, list):
            return [of(v) for v in value]
        return (
            likely[1 + value % (len(likely) - 1)] if isinstance(value, int) and value > 3 else value
        )

    ids = (
        *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "eos_token_id"),
        "forced_eos_token_id",
    )
    return {key: of(value) if key in ids else value for key, value in settings.items()}


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["tied", "sentences", "generation"]
    for part in chosen:
        {"tied": record_tied, "sentences": record_sentences, "generation": record_generation}[
            part
        ]()
