"""Base class of the tokenizers that are stored as a tokenizer.json of the `tokenizers` library."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from tokenizers import Tokenizer, models

from tfllm.files import write_file
from tfllm.tokenizers.chat.conversation import BREAK
from tfllm.tokenizers.specification.byte_pair_specification import ids_around
from tfllm.tokenizers.specification.class_rules import with_class_rules
from tfllm.tokenizers.specification.split_pattern import UnsupportedTokenizer
from tfllm.tokenizers.stored_tokenizer import (
    MADE_FROM,
    StoredTokenizer,
    token_content,
)
from tfllm.tokenizers.token_bytes import valid_text

Self = TypeVar("Self", bound="JsonTokenizer")


class JsonTokenizer(StoredTokenizer):
    """Text to ids and back, as defined by a tokenizer.json.

    Args:
        tokenizer_json: Text of a tokenizer.json.
        end_token: Token that ends a document. Defaults to whichever of the usual names the
            tokenizer has, or else its only special token.

    Raises:
        ValueError: If the text is not a tokenizer.json of a supported model, or end_token is not
            one of its tokens.
    """

    _generic_class = True
    _models: ClassVar[tuple[type, ...]] = (models.BPE,)

    def __init__(self, tokenizer_json: str, *, end_token: str | None = None) -> None:
        self._json = tokenizer_json
        self._tokenizer = self._parse(tokenizer_json)
        self._added_tokens = self._tokenizer.get_added_tokens_decoder()
        # The library treats a token that the file lists twice as special if one of the two is.
        listed = json.loads(tokenizer_json).get("added_tokens") or ()
        specials = {token["content"] for token in listed if token["special"]}
        for token in self._added_tokens.values():
            token.special = token.special or token.content in specials
        self._own: dict[int, int] = {}
        self._encoding = self._encoding_json()
        self._encoder = self._tokenizer
        if self._encoding != tokenizer_json:
            self._encoder = self._parse(self._encoding)
        self._plain = self._parse(self._encoding)
        self._plain.encode_special_tokens = True
        added = self._added_tokens
        special = {token.content: id_ for id_, token in sorted(added.items()) if token.special}
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        super().__init__(special, max(ids, default=-1) + 1, end_token)

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str]) -> Self:
        """Read a tokenizer.json, or the folder that contains one.

        The end token is read from tokenizer_config.json, generation_config.json or config.json in
        the same folder; if they name several, `end_token_ids` has the others, too.

        If tokenizer_config.json names a class of `transformers` that has rules of its own (see
        `class_rules`), these apply.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a tokenizer.json of a supported model.
        """
        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        text = with_class_rules(read_tokenizer_json(file), file.parent)
        try:
            tokenizer = cls(text)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        tokenizer._read_beside(file.parent)
        tokenizer.settings.pop(MADE_FROM, None)
        return tokenizer

    def to_json(self) -> str:
        """The text of its tokenizer.json, as `save` writes it."""
        return self._json

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write tokenizer.json.

        Args:
            path: Name that ends in .json, or a folder, which is created if needed. In a folder, the
                end token and `settings` are written to tokenizer_config.json, whose other entries
                are kept.
        """
        target = Path(path)
        if target.suffix == ".json":
            write_file(target, self._json)
            return
        write_file(target / "tokenizer.json", self._json)
        self._write_beside(target)

    def written_settings(self) -> dict[str, Any]:
        """See `StoredTokenizer`; the tokens around a text are those of tokenizer.json."""
        settings = super().written_settings()
        flags = ("add_bos_token", "add_eos_token")
        if not any(flag in settings for flag in flags):
            return settings
        for flag in flags:
            settings.pop(flag, None)
        with contextlib.suppress(UnsupportedTokenizer, ValueError):
            around = ids_around(json.loads(self._json).get("post_processor"))
            tokens = (token_content(settings.get("bos_token")), self.end_token)
            ids = [[] if token is None else [self.token_id(token)] for token in tokens]
            if all(given in ([], own) for given, own in zip(around, ids, strict=True)):
                settings |= {f: bool(given) for f, given in zip(flags, around, strict=True)}
        return settings

    def token_id(self, token: str) -> int | None:
        """The id of a token as written in tokenizer.json; None if there is no such token."""
        return self._tokenizer.token_to_id(token)

    def token(self, id_: int) -> str | None:
        """The token of an id as written in tokenizer.json; None if there is no such id."""
        # From 0.22 on, the library returns the normalized form of a `normalized` added token.
        written = self._added_tokens.get(id_)
        return self._tokenizer.id_to_token(id_) if written is None else written.content

    def encode(
        self, text: str | bytes, *, parse_special: bool = True, add_special: bool = True
    ) -> list[int]:
        """See `Tokenizer`; `add_special` adds the tokens of tokenizer.json's template."""
        tokenizer = self._which(parse_special)
        return self._own_ids(tokenizer.encode(valid_text(text), add_special_tokens=add_special).ids)

    def encode_batch(
        self,
        texts: Iterable[str | bytes],
        *,
        parse_special: bool = True,
        add_special: bool = True,
    ) -> list[list[int]]:
        """Convert each text to ids, using all cores."""
        batch = [valid_text(text) for text in texts]
        tokenizer = self._which(parse_special)
        encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=add_special)
        return [self._own_ids(e.ids) for e in encodings]

    def encode_unbroken(self, text: str) -> tuple[list[int], list[int]]:
        """See `Tokenizer`."""
        encoding = self._unbroken.encode(valid_text(text), add_special_tokens=False)
        return self._own_ids(encoding.ids), [begin for begin, _ in encoding.offsets]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Convert ids to text; broken UTF-8 becomes U+FFFD, and unknown ids are skipped."""
        skipped = self._special_ids if skip_special else ()
        known = [i for i in map(int, ids) if 0 <= i < self.vocab_size and i not in skipped]
        if not self._any_rewritten:
            return self._tokenizer.decode(known, skip_special_tokens=False)
        tokens = [token for i in known if (token := self.token(i)) is not None]
        decoder = self._tokenizer.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(tokens)

    def _which(self, parse_special: bool) -> Tokenizer:
        return self._encoder if parse_special else self._plain

    def _encoding_json(self) -> str:
        """The tokenizer.json that encodes text. A subclass may return another one than the file,
        and set `_own` to map its ids to those of the file."""
        return self._json

    def _own_ids(self, ids: list[int]) -> list[int]:
        return ids

    @functools.cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.special_tokens.values())

    @functools.cached_property
    def _any_rewritten(self) -> bool:
        """Whether the library has changed the content of an added token of tokenizer.json."""
        tokens = self._added_tokens.items()
        return any(self._tokenizer.id_to_token(id_) != token.content for id_, token in tokens)

    @functools.cached_property
    def _unbroken(self) -> Tokenizer:
        values = json.loads(self._encoding)
        # The library cuts out special tokens before it normalizes the text between them.
        take_out = {"type": "Replace", "pattern": {"String": BREAK}, "content": ""}
        steps = [take_out, values["normalizer"]] if values.get("normalizer") else [take_out]
        values["normalizer"] = {"type": "Sequence", "normalizers": steps}
        values["post_processor"] = None  # it may change the offsets of tokens
        for token in values.get("added_tokens", ()):
            token["normalized"] = token["normalized"] and not token["special"]
        return self._parse(json.dumps(values))

    def _parse(self, tokenizer_json: str) -> Tokenizer:
        try:
            tokenizer = Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises a bare Exception
            raise ValueError(f"not a tokenizer.json that `tokenizers` can read: {error}") from None
        if not isinstance(tokenizer.model, self._models):
            raise ValueError(
                f"the tokenizer's model must be {' or '.join(m.__name__ for m in self._models)}; "
                f"received {type(tokenizer.model).__name__}"
            )
        tokenizer.no_truncation()  # otherwise encode() would cut or pad its result
        tokenizer.no_padding()
        return tokenizer

    def __reduce__(self) -> tuple[Any, ...]:
        make = functools.partial(type(self), end_token=self._end_token)
        return make, (self._json,), {"_other_ends": self._other_ends, "settings": self.settings}


def read_tokenizer_json(file: Path) -> str:
    """Read the text of a tokenizer.json.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not UTF-8.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no tokenizer at {file}: a tokenizer.json or a folder that contains one is "
            "needed"
        )
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a tokenizer.json: {error}") from None
