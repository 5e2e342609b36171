"""Marian's tokenizers: a SentencePiece model for each language, and one shared vocabulary."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tfllm.files import read_json_object, write_file
from tfllm.tokenizers.added_tokens import AddedToken, cut_at
from tfllm.tokenizers.kinds.piece_tokenizer import PieceTokenizer, pieces_of
from tfllm.tokenizers.leading_space import SPACE
from tfllm.tokenizers.specification.sentence_piece_model import read_model
from tfllm.tokenizers.stored_tokenizer import (
    read_settings,
    token_content,
)
from tfllm.tokenizers.token_bytes import valid_text

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.marian_graph import MarianGraph

SOURCE, TARGET, VOCABULARY = "source.spm", "target.spm", "vocab.json"
"""The names of the tokenizer's files."""
_CLASS = "MarianTokenizer"
_NAMES = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
# A text may begin with the code of the language to translate it into.
CODE = r"(?s)>>.*?<<"
STRIPPED = " \t\n\v\f\r"


class MarianTokenizer(PieceTokenizer):
    """Marian's tokenizer, with the same ids as in `transformers`.

    A text is cut into pieces by the SentencePiece model of its side, and the pieces get ids from a
    vocabulary that both sides share; a piece that is not in it becomes the unknown token. The end
    token is added after the text. A text may begin with a language code such as `>>fr<<`.

    This object tokenizes sources; its `target` tokenizes translations. Both decode ids to the same
    text.

    Args:
        source: Content of source.spm.
        target: Content of target.spm.
        vocabulary: Id of each piece.
        special: The tokens `unk_token`, `eos_token` and `pad_token`. Defaults to `<unk>`, `</s>`
            and `<pad>`.
        side: Side whose SentencePiece model cuts texts. Defaults to "source".

    Raises:
        ValueError: If a file is not a SentencePiece model, or the vocabulary is not valid.

    Examples:

    >>> import io
    >>> import sentencepiece
    >>> from tfllm.tokenizers import MarianTokenizer
    >>> model = io.BytesIO()
    >>> sentencepiece.SentencePieceTrainer.train(
    ...     sentence_iterator=iter(["the cat sat", "on the mat"] * 9), model_writer=model,
    ...     vocab_size=14, minloglevel=2)
    >>> processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    >>> pieces = [processor.id_to_piece(i) for i in range(14)] + ["<pad>"]
    >>> vocabulary = {piece: i for i, piece in enumerate(pieces)}
    >>> tokenizer = MarianTokenizer(model.getvalue(), model.getvalue(), vocabulary)
    >>> tokenizer.decode(tokenizer.encode("the mat"))
    'the mat'
    """

    def __init__(
        self,
        source: bytes,
        target: bytes,
        vocabulary: Mapping[str, int],
        *,
        special: Mapping[str, str] | None = None,
        side: Literal["source", "target"] = "source",
    ) -> None:
        from sentencepiece import SentencePieceProcessor

        self._files = {"source": source, "target": target}
        self._side: Literal["source", "target"] = side
        ids = sorted(vocabulary.values()) if isinstance(vocabulary, Mapping) else []
        if not ids or any(type(i) is not int for i in ids) or ids != list(range(len(ids))):
            raise ValueError(
                f"{VOCABULARY} must number different pieces from 0 on; received {len(ids)} of them"
            )
        self._ids = dict(vocabulary)
        self._names = {**_NAMES, **(special or {})}
        missing = [name for name in self._names.values() if name not in self._ids]
        if missing:
            raise ValueError(f"{VOCABULARY} must hold {', '.join(missing)}")
        for name, data in self._files.items():
            try:
                read_model(data)
            except ValueError as error:
                raise ValueError(f"{name}.spm: {error}") from None
        self._processor = SentencePieceProcessor(model_proto=self._files[side])
        self._tokens = {id_: token for token, id_ in self._ids.items()}
        tokens = {token: self._ids[token] for token in self._names.values()}
        self._added = [AddedToken(id_, token, True, False) for token, id_ in tokens.items()]
        self._unknown = self._ids[self._names["unk_token"]]
        super().__init__(tokens, len(ids), self._names["eos_token"])
        named = {name: token for name, token in self._names.items() if name != "eos_token"}
        self.settings = {"tokenizer_class": _CLASS, "separate_vocabs": False, **named}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MarianTokenizer:
        """Read the folder that contains source.spm, target.spm and vocab.json, given it or
        source.spm.

        Raises:
            FileNotFoundError: If one of them is missing.
            ValueError: If a file is damaged, or the sides have separate vocabularies.
        """
        folder = Path(path)
        if folder.name == SOURCE:
            folder = folder.parent
        for name in (SOURCE, TARGET, VOCABULARY):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} has no {name}, which a Marian tokenizer is made of"
                )
        settings = read_settings(folder)
        if settings.get("separate_vocabs"):
            raise ValueError(
                f"{folder}: separate_vocabs is only supported as False: source and target "
                "share an embedding, and so a vocabulary"
            )
        special = {name: token_content(settings.get(name)) for name in _NAMES}
        try:
            tokenizer = cls(
                (folder / SOURCE).read_bytes(),
                (folder / TARGET).read_bytes(),
                read_json_object(folder / VOCABULARY),
                special={name: token for name, token in special.items() if token is not None},
            )
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        own = tokenizer.settings
        tokenizer._read_beside(folder)
        tokenizer.settings = {**own, **tokenizer.settings}
        return tokenizer

    @functools.cached_property
    def target(self) -> MarianTokenizer:
        """The tokenizer of translations."""
        if self._side == "target":
            return self
        other = MarianTokenizer(
            self._files["source"],
            self._files["target"],
            self._ids,
            special=self._names,
            side="target",
        )
        other.settings, other._other_ends = self.settings, self._other_ends
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write source.spm, target.spm, vocab.json and tokenizer_config.json.

        Args:
            path: A folder, which is created if needed.
        """
        folder = Path(path)
        write_file(folder / SOURCE, self._files["source"])
        write_file(folder / TARGET, self._files["target"])
        content = json.dumps(self._ids, ensure_ascii=False, indent=2)
        write_file(folder / VOCABULARY, content + "\n")
        self._write_beside(folder)

    def encode_batch(
        self,
        texts: Iterable[str | bytes],
        *,
        parse_special: bool = True,
        add_special: bool = True,
    ) -> list[list[int]]:
        """Convert each text to ids; see `Tokenizer`."""
        added = self._added if parse_special else []
        end = [self.end_token_id] if add_special else []
        return [[*self._ids_of(valid_text(text), added), *end] for text in texts]

    def _ids_of(self, text: str, added: Sequence[AddedToken]) -> Iterator[int]:
        for segment in cut_at(text, added):
            if segment.id >= 0:
                yield segment.id
                continue
            code, rest = self._without_code(segment.text)
            for piece in (*code, *self._processor.encode(rest, out_type=str)):
                yield self._id(piece)

    def _with_places(self, text: str, begin: int) -> Iterator[tuple[int, int]]:
        code, rest = self._without_code(text)
        yield from ((self._id(piece), 0) for piece in code)
        at = len(text) - len(rest)
        for piece in pieces_of(self._processor, rest):
            yield self._id(piece.piece), at
            at += len(piece.surface)

    def _without_code(self, text: str) -> tuple[Sequence[str], str]:
        match = re.match(CODE, text)
        return ((match.group(),), text[match.end() :]) if match else ((), text)

    def _id(self, piece: str) -> int:
        id_ = self._ids.get(piece, self._unknown)
        # Special tokens are recognized only where the text is cut at them.
        return self._unknown if self._tokens[id_] in self.special_tokens else id_

    def _text(self, parts: Sequence[bytes]) -> str:
        return b"".join(parts).decode("utf-8", "replace").strip(STRIPPED)

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
        result = [b""] * self.vocab_size
        for piece, id_ in self._ids.items():
            if piece not in self.special_tokens:
                result[id_] = piece.replace(SPACE, " ").encode()
        return result

    def _make_graph(self) -> MarianGraph:
        from tfllm.tokenizers.graph.marian_graph import MarianGraph

        return MarianGraph(
            self._files[self._side],
            self._ids,
            self._bytes,
            self._added,
            end_token_id=self.end_token_id,
            unknown_id=self._unknown,
            language_code=CODE,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        make = functools.partial(MarianTokenizer, special=self._names, side=self._side)
        files = (self._files["source"], self._files["target"], self._ids)
        return make, files, {"_other_ends": self._other_ends, "settings": self.settings}
