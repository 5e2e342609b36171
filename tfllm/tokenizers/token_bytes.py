"""The alphabet in which byte-level BPE writes bytes as printable characters."""

from __future__ import annotations

import functools


@functools.cache
def byte_to_character() -> tuple[str, ...]:
    """The character that stands for each of the 256 bytes.

    Bytes that are printable in Latin-1 stand for themselves; the others are mapped, in order, to
    the code points from 256 on. (Radford et al., "Language Models are Unsupervised Multitask
    Learners", 2019, as implemented in the `tokenizers` library.)
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(256, 512))
    return tuple(chr(b if b in printable else next(moved)) for b in range(256))


@functools.cache
def character_to_byte() -> dict[str, int]:
    """The inverse of `byte_to_character`."""
    return {c: b for b, c in enumerate(byte_to_character())}


def token_to_bytes(token: str) -> bytes:
    """The bytes that a token of the vocabulary decodes to.

    A token with a character outside the alphabet (such as an added token with a space) stands for
    its own UTF-8 bytes, as in the library's byte-level decoder.
    """
    table = character_to_byte()
    try:
        return bytes([table[c] for c in token])
    except KeyError:
        return token.encode("utf-8")


def bytes_to_token(data: bytes) -> str:
    """Write bytes in the alphabet."""
    table = byte_to_character()
    return "".join(table[b] for b in data)


def valid_text(text: str | bytes) -> str:
    """Convert any input to a text that can be written as UTF-8.

    Bytes that are not UTF-8 become U+FFFD, one for each longest start of an incomplete character
    and one for each other stray byte, as with `bytes.decode(errors="replace")`. A lone surrogate
    in a `str` is treated as the three bytes that would encode it.
    """
    if isinstance(text, bytes):
        return text.decode("utf-8", "replace")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text
