"""Small SentencePiece models, trained when needed, and texts that are difficult for them."""

import functools
import io
import random

import sentencepiece

from tests.tokenizers.samples import texts

_KEPT = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
MODELS = {
    # As Llama 2 and Mistral.
    "bytes": {
        "model_type": "bpe",
        "vocab_size": 600,
        "byte_fallback": True,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        **_KEPT,
    },
    # What the trainer does by itself: NFKC, no spaces in a row, unknown characters.
    "default": {"model_type": "bpe", "vocab_size": 500},
    # As Gemma: no space before a text, and pieces that are never cut.
    "user_defined": {
        "model_type": "bpe",
        "vocab_size": 600,
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "user_defined_symbols": ["<tool>", "the fox", "\n"],
        **_KEPT,
    },
    "unigram": {"model_type": "unigram", "vocab_size": 400},
    "unigram_bytes": {"model_type": "unigram", "vocab_size": 500, "byte_fallback": True, **_KEPT},
}


@functools.lru_cache
def trained_model(name: str) -> bytes:
    """The content of a tokenizer.model."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts() * 2),
        model_writer=written,
        minloglevel=2,
        hard_vocab_limit=False,
        character_coverage=0.98,
        **MODELS[name],
    )
    return written.getvalue()


PARTS = [
    *(" ", "  ", "\n", "\r", "\t", "\0", "\1", "\x85", "\u00a0", "\u3000", "\u2581"),
    *("\u2581\u2581", "ｆｕｌｌ", "①", "\u200b", "123", "==", "</", "<s", ">"),
    *("a", "b", "the", " the", "fox", "é", "e\u0301", "ﬁ", "½", "²", "中", "文", "🎉", "नि"),
    *("👩\u200d👩", "\ufffd", "\ufeff", "\U0010ffff"),
    *("<s>", "</s>", "<unk>", "<tool>", "the fox", "<0x41>", "\ufdd0"),
]  # fmt: skip


def hard_texts(number: int, seed: int = 0) -> list[str]:
    """Random rows of the parts, and what is empty, long or all spaces."""
    chance = random.Random(seed)
    rows = ["".join(chance.choices(PARTS, k=chance.randint(1, 10))) for _ in range(number)]
    fixed = ["", " ", "  ", "\u2581", "\n", "\0", "a" * 3000, "the fox " * 300, " " * 50]
    return [*fixed, *texts()[:40], *rows]
