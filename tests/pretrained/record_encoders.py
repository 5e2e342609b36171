"""Record tiny random BERT models with the results of `transformers`; check the way back.

They are made like those of `record_references.py`, whose docstring says what to install:

    /tmp/transformers/bin/python tests/pretrained/record_encoders.py [NAME ...]

`encoder_references/NAME/reference.npz` holds token ids, token types and a padding mask `[3, T]`,
and the model's outputs for them: `states` and `pooled`, or `logits` (for question answering
`[3, T, 2]`). The script prints how much a padded row differs from the same row without padding in
transformers itself. `minilm_reference.npz` holds sentences, their ids and their vectors by
all-MiniLM-L6-v2 (mean of the states, length 1), whose folder must be given:

    /tmp/transformers/bin/python tests/pretrained/record_encoders.py --minilm FOLDER

The way back: the first command, with tfllm's Python, reads and saves every recorded model and
writes what it computes; the second opens the folders with `transformers` and compares.

    python tests/pretrained/record_encoders.py --resave FOLDER
    /tmp/transformers/bin/python tests/pretrained/record_encoders.py --check FOLDER/*/
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

REFERENCES = Path(__file__).parent / "encoder_references"
MINILM_REFERENCE = Path(__file__).parent / "minilm_reference.npz"
TIME = 23
LENGTHS = (23, 9, 1)

# Sizes that divide nothing.
SIZES = {
    "vocab_size": 97,
    "hidden_size": 18,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 44,
    "max_position_embeddings": 29,
    "type_vocab_size": 3,
}
LABELS = {0: "ham", 1: "spam", 2: "not sure"}
NAMES = {"id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}}
MODELS = {
    "model": ("BertModel", SIZES, {}),
    "masked": ("BertForMaskedLM", {**SIZES, "layer_norm_eps": 1e-6}, {}),
    "sequence": ("BertForSequenceClassification", {**SIZES, **NAMES, "hidden_act": "relu"}, {}),
    "sequence_two": ("BertForSequenceClassification", {**SIZES, "hidden_act": "gelu_new"}, {}),
    "token": ("BertForTokenClassification", {**SIZES, **NAMES}, {"dtype": "bfloat16"}),
    "question": ("BertForQuestionAnswering", SIZES, {"max_shard_size": "20KB"}),
}
SENTENCES = [
    "The cat sat on the mat.",
    "A feline rested on the rug",
    "Stock markets fell sharply today.",
    "How do I sort a list of numbers in Python?",
    "naïve café, 你好，世界, 👩‍🚀",
    "",
    "word " * 300,
]

LARGEST_DIFFERENCE = 1e-4
"""of two float32 logits: what `tests.rounding`, which needs TensorFlow, gives for 400 additions of
values up to 8, of which these models have about so many"""


def record(names: list[str]) -> None:
    import torch
    import transformers

    for seed, (name, (class_name, settings, storage)) in enumerate(MODELS.items()):
        if names and name not in names:
            continue
        torch.manual_seed(seed)
        model_class = getattr(transformers, class_name)
        model = model_class(transformers.BertConfig(**settings)).eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                is_scale = "LayerNorm" in key and key.endswith("weight")
                parameter.normal_(1.0 if is_scale else 0.0, 0.3)
        folder = REFERENCES / name
        shutil.rmtree(folder, ignore_errors=True)
        options = dict(storage)
        dtype = getattr(torch, options.pop("dtype", "float32"))
        model.to(dtype).save_pretrained(folder, **options)
        model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
        shape = (len(LENGTHS), TIME)
        token_ids = torch.randint(0, settings["vocab_size"], shape)
        types = torch.randint(0, settings["type_vocab_size"], shape)
        mask = torch.arange(TIME) < torch.tensor(LENGTHS)[:, None]
        with torch.no_grad():
            given = outputs(model, token_ids, types, mask)
            apart = 0.0
            for row, length in enumerate(LENGTHS):
                one = (t[row : row + 1, :length] for t in (token_ids, types, mask))
                for key, value in outputs(model, *one).items():
                    whole = given[key][row]
                    whole = whole[:length] if value.ndim == 3 else whole
                    apart = max(apart, float(np.abs(value[0] - whole).max()))
        np.savez_compressed(
            folder / "reference.npz",
            token_ids=token_ids.numpy().astype(np.int32),
            token_type_ids=types.numpy().astype(np.int32),
            padding_mask=mask.numpy(),
            **given,
        )
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{name}: {size:,} bytes; a padded row differs by {apart:.1e} from the row alone")


def outputs(model, token_ids, types, mask) -> dict[str, np.ndarray]:
    given = model(input_ids=token_ids, token_type_ids=types, attention_mask=mask.long())
    if "last_hidden_state" in given:
        named = {"states": given.last_hidden_state, "pooled": given.pooler_output}
    elif "start_logits" in given:
        import torch

        named = {"logits": torch.stack([given.start_logits, given.end_logits], -1)}
    else:
        named = {"logits": given.logits}
    return {name: value.detach().numpy() for name, value in named.items()}


def record_minilm(folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder).eval()
    given = tokenizer(SENTENCES, padding=True, truncation=True, max_length=256, return_tensors="pt")
    mask = given["attention_mask"][..., None]
    with torch.no_grad():
        states = model(**given).last_hidden_state
        mean = (states * mask).sum(1) / mask.sum(1)
        vectors = torch.nn.functional.normalize(mean, dim=-1)
    np.savez_compressed(
        MINILM_REFERENCE,
        sentences=np.array(json.dumps(SENTENCES)),
        token_ids=given["input_ids"].numpy().astype(np.int32),
        padding_mask=given["attention_mask"].numpy().astype(bool),
        vectors=vectors.numpy(),
    )
    print(f"{MINILM_REFERENCE}: {MINILM_REFERENCE.stat().st_size:,} bytes")


def expected_path(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.expected.npz"


def resave(folder: Path) -> None:
    """Read every recorded model, save it with tfllm, and write what tfllm computes from it.

    Besides those, a sentence encoder made of the encoder alone.
    """
    import tfllm.pretrained
    from tfllm.models.encoder import Encoder
    from tfllm.models.heads.sentence_encoder import SentenceEncoder

    models = {name: tfllm.pretrained.load(REFERENCES / name).model for name in MODELS}
    models["sentence"] = SentenceEncoder(tfllm.pretrained.load(REFERENCES / "model").model)
    models["model"] = tfllm.pretrained.load(REFERENCES / "model").model  # the other took it
    for name, model in models.items():
        saved = tfllm.pretrained.save(model, folder / name)
        source = "model" if name == "sentence" else name
        stored = np.load(REFERENCES / source / "reference.npz")
        inputs = {key: stored[key] for key in ("token_ids", "token_type_ids", "padding_mask")}
        encoder = model if isinstance(model, Encoder) else model.encoder
        if name in ("model", "sentence"):
            states = encoder(inputs)
            computed = {"states": states.numpy(), "pooled": encoder.pooled(states).numpy()}
        else:
            computed = {"logits": model(inputs).numpy()}
        np.savez_compressed(expected_path(saved), **inputs, **computed)
        print(f"written: {saved}")


def check(folder: Path) -> bool:
    """Whether transformers computes from a folder what tfllm does; prints the differences."""
    import torch
    import transformers

    expected = np.load(expected_path(folder))
    class_name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, report = getattr(transformers, class_name).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    problems = {key: value for key, value in report.items() if value}
    inputs = [torch.from_numpy(expected["token_ids"].astype(np.int64))]
    inputs.append(torch.from_numpy(expected["token_type_ids"].astype(np.int64)))
    inputs.append(torch.from_numpy(expected["padding_mask"]))
    with torch.no_grad():
        given = outputs(model.eval(), *inputs)
    mask = expected["padding_mask"]
    differences = {}
    for key, value in given.items():
        apart = np.abs(value - expected[key])
        differences[key] = float((apart[mask] if apart.shape[:2] == mask.shape else apart).max())
    names = sorted(getattr(model.config, "id2label", {}).values())
    print(f"{folder}: {class_name}, keys missing or unexpected: {problems or 'none'}")
    print(f"  largest differences: {differences}; labels {names}")
    return not problems and max(differences.values()) < LARGEST_DIFFERENCE


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the models to record")
    parser.add_argument("--minilm", type=Path, metavar="FOLDER")
    parser.add_argument("--resave", type=Path, metavar="FOLDER")
    parser.add_argument("--check", type=Path, nargs="+", metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.minilm:
        record_minilm(arguments.minilm)
    elif arguments.resave:
        resave(arguments.resave)
    elif arguments.check:
        return 0 if all([check(folder) for folder in arguments.check]) else 1
    else:
        record(arguments.names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
