"""Parts of texts in which rules of splitting and normalizing meet, and texts of them."""

from hypothesis import strategies as st

PARTS = [
    *(" ", "  ", "\n", "\r", "\r\n", "\t", "\0", "\1", "\x85", "\u00a0", "\u2028", "\u3000"),
    *("a", "b", "ab", "A", "s", "S", "ſ", "K", "'", "'S", "'ll", "'RE", "é", "e\u0301", "ß", "ﬁ"),
    *("1", "23", "٣", "½", "²", "Ⅷ", "中", "文", "नि", "\u0301", "ǅ", "ʰ", "_", "-", "!", "/", "="),
    *("🎉", "👩\u200d👩\u200d👧", "\ufffd", "\ufeff", "\U0010ffff", "\U000e0001", "the", " the"),
    *("====", "\u200b", "    ", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im", "|>", "<"),
]  # fmt: skip
TEXTS_OF_PARTS = st.lists(st.sampled_from(PARTS), max_size=14).map("".join)
