"""Writes transformers_ids.json: what `transformers` reads from folders that tfllm has written.

    python -m tests.tokenizers.record_transformers write DIR     # where tfllm is installed
    python tests/tokenizers/record_transformers.py read DIR      # where transformers 5 is

The first writes a folder for each kind of tokenizer, the second has AutoTokenizer read them.
"""

import base64
import json
import sys
import zlib
from pathlib import Path

RECORDED = Path(__file__).with_name("transformers_ids.json")
FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")


def write(place: Path) -> None:
    from tests.tokenizers import test_metaspace
    from tests.tokenizers.sentence_pieces import hard_texts, trained_model
    from tfllm.tokenizers import SentencePieceTokenizer

    texts = [t for t in hard_texts(60, seed=7) if len(t) < 200 and "\ufdd0" not in t]
    tokenizers = {
        name: SentencePieceTokenizer(trained_model(name), begin=begin, end=end)
        for name, begin, end in (
            ("bytes", [1], []),
            ("user_defined", [1], [2]),
        )
    }
    tokenizers["first"] = SentencePieceTokenizer(trained_model("bytes"), legacy=False)
    for rules in ("legacy", "first"):
        tokenizers[f"metaspace_{rules}"] = test_metaspace.named(rules)
    for name, tokenizer in tokenizers.items():
        tokenizer.save(place / name)
        (place / name / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (place / "texts.json").write_text(json.dumps(texts))


def read(place: Path) -> None:
    import transformers

    texts = json.loads((place / "texts.json").read_text())
    recorded = {"transformers": transformers.__version__, "texts": texts, "folders": {}}
    for folder in sorted(p for p in place.iterdir() if p.is_dir()):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        ids = [tokenizer(text)["input_ids"] for text in texts]
        recorded["folders"][folder.name] = {
            "files": {
                name: base64.b64encode(zlib.compress((folder / name).read_bytes(), 9)).decode()
                for name in FILES
                if (folder / name).exists()
            },
            "ids": ids,
            "decoded": [tokenizer.decode(i, skip_special_tokens=True) for i in ids],
        }
    RECORDED.write_text(json.dumps(recorded, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
