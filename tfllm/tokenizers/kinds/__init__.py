"""The kinds of tokenizers: byte-pair encoding, WordPiece, SentencePiece, and what came of it."""
