"""Text and tokenizers that several tests of this folder share."""

import functools
import json

from tfllm.tokenizers import DEFAULT_SPLIT_PATTERN, BytePairTokenizer

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPLIT_PATTERNS = {
    "ours": DEFAULT_SPLIT_PATTERN,
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen": CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt4": CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "gpt4o": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    + CONTRACTIONS
    + r"?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    + CONTRACTIONS
    + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}

_PROSE = """The quick brown fox jumps over the lazy dog; it didn't stop, and they'd seen it before.
Tokenizers cut words into pieces that come again and again: the, then, there, other, another.
    def encode(self, text):
        return [self.vocab[piece] for piece in self.split(text) if piece != '']
In 1984 there were 12345 of 3.14159 and 007.  I'LL SAY it'S fine, we've   spaces\t\ttabs\r\n\r\n
你好，世界。今天天气很好，我们去公园。 Καλημέρα κόσμε. Привет, мир! مرحبا بالعالم ١٢٣ नमस्ते दुनिया
안녕하세요 세계 cafe\u0301 café nai\u0308ve 👩‍👩‍👧 🎉🎉 ½ ² Ⅷ ﬁnd ſtill ===== ----- ......
aaaa aaaaaaaa ababababab abcabcabcabc hahahaha the the the the nothing something everything
"""


def texts() -> list[str]:
    return [_PROSE, _PROSE[::-1], *_PROSE.split("\n"), *_PROSE.split()] * 2


@functools.lru_cache
def trained(name: str, vocab_size: int = 700) -> BytePairTokenizer:
    """A small tokenizer with the split pattern of that name."""
    return BytePairTokenizer.train(
        texts(),
        vocab_size,
        special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        split_pattern=SPLIT_PATTERNS[name],
    )


def changed(tokenizer: BytePairTokenizer, **settings) -> BytePairTokenizer:
    """The same tokenizer with other top-level settings in its tokenizer.json."""
    return BytePairTokenizer(json.dumps({**json.loads(tokenizer.to_json()), **settings}))


def with_pre_tokenizer(*steps: dict) -> BytePairTokenizer:
    return changed(
        trained("ours"), pre_tokenizer={"type": "Sequence", "pretokenizers": list(steps)}
    )


def split(pattern: str, behavior: str = "Isolated", invert: bool = False) -> dict:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": behavior,
        "invert": invert,
    }


def byte_level(use_regex: bool = False, add_prefix_space: bool = False) -> dict:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def assert_same_ids(tokenizer, batch: list[str | bytes], **options: bool) -> None:
    """The graph gives each text the ids that the library gives it, and the same text back."""
    import tensorflow as tf

    raw = [t if isinstance(t, bytes) else t.encode("utf-8", "surrogatepass") for t in batch]
    ids = tokenizer.graph().tokenize(tf.constant(raw, tf.string), **options)
    expected = tokenizer.encode_batch(batch, **options)
    for text, ours, theirs in zip(batch, ids.to_list(), expected, strict=True):
        assert ours == theirs, text
    decoded = tokenizer.graph().detokenize(ids).numpy()
    assert [d.decode("utf-8") for d in decoded] == [tokenizer.decode(i) for i in expected]
