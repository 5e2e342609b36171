"""Record translation_tokenizers/: T5's and Marian's tokenizers of tiny models, and their ids.

    /tmp/transformers/bin/python -m tests.tokenizers.record_translation_tokenizers

in a separate environment with `torch transformers sentencepiece tokenizers`, from the root. The
SentencePiece models (Unigram) are trained on the tests' own texts; `recorded.json` has what
`transformers` makes of texts and ids.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import sentencepiece

from tests.tokenizers.samples import texts
from tests.tokenizers.sentence_pieces import hard_texts

FOLDER = Path(__file__).with_name("translation_tokenizers")
TEXTS = [t for t in hard_texts(150, seed=11) if len(t) < 300 and "\ufdd0" not in t]
T5_TEXTS = [*TEXTS, "a <extra_id_0> b<extra_id_7>, <extra_id_99>", "the</s> fox<pad>"]
MARIAN_TEXTS = [
    *TEXTS,
    *(">>fr<< the fox", ">>de<<the fox", ">>xx<< the fox", ">>", ">>fr", ">><<a", "a >>fr<< b"),
    *("the</s> fox", "<unk>中", "<pad>"),
]


def trained(rows: list[str], **options: object) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(rows),
        model_writer=written,
        minloglevel=2,
        hard_vocab_limit=False,
        model_type="unigram",
        character_coverage=0.99,
        **options,
    )
    return written.getvalue()


def t5() -> dict[str, object]:
    import transformers

    folder = FOLDER / "t5"
    folder.mkdir(parents=True)
    model = trained(texts() * 2, vocab_size=400, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (folder / "spiece.model").write_bytes(model)
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    tokenizer = transformers.T5Tokenizer.from_pretrained(folder, extra_ids=100)
    tokenizer.save_pretrained(folder)
    return recorded(tokenizer, T5_TEXTS)


def marian() -> dict[str, object]:
    import transformers

    folder = FOLDER / "marian"
    folder.mkdir(parents=True)
    rows = texts()
    half = len(rows) // 2
    for name, part, size in (("source", rows[:half], 250), ("target", rows[half:], 300)):
        model = trained(part * 3, vocab_size=size)
        (folder / f"{name}.spm").write_bytes(model)
    pieces = ["</s>", "<unk>", ">>fr<<", ">>de<<"]
    for name in ("source", "target"):
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.spm"))
        for id_ in range(processor.get_piece_size()):
            piece = processor.id_to_piece(id_)
            if not (processor.is_control(id_) or processor.is_unknown(id_)):
                pieces.append(piece)
    vocab = {piece: id_ for id_, piece in enumerate(dict.fromkeys([*pieces, "<pad>"]))}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "config.json").write_text(json.dumps({"model_type": "marian"}))
    tokenizer = transformers.MarianTokenizer.from_pretrained(folder, source_lang="en")
    tokenizer.save_pretrained(folder)
    result = recorded(tokenizer, MARIAN_TEXTS)
    result["target_ids"] = [tokenizer(text_target=text)["input_ids"] for text in MARIAN_TEXTS]
    result["target_decoded"] = [
        tokenizer.decode(row, skip_special_tokens=True) for row in result["target_ids"]
    ]
    return result


def recorded(tokenizer, rows: list[str]) -> dict[str, object]:
    ids = [tokenizer(text)["input_ids"] for text in rows]
    return {
        "class": type(tokenizer).__name__,
        "texts": rows,
        "ids": ids,
        "decoded": [tokenizer.decode(row, skip_special_tokens=True) for row in ids],
    }


def main() -> None:
    import transformers

    shutil.rmtree(FOLDER, ignore_errors=True)
    values = {"transformers": transformers.__version__, "t5": t5(), "marian": marian()}
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    (FOLDER / "recorded.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
