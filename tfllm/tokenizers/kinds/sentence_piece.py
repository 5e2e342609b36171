"""The SentencePiece tokenizer, stored as SentencePiece's own `tokenizer.model`."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfllm.files import read_json_object, write_file
from tfllm.tokenizers.added_tokens import AddedToken, check_added_tokens, cut_at
from tfllm.tokenizers.kinds.piece_tokenizer import PieceTokenizer, pieces_of
from tfllm.tokenizers.kinds.sentence_piece_json import sentence_piece_json
from tfllm.tokenizers.leading_space import SPACE, LeadingSpace, joined
from tfllm.tokenizers.specification.sentence_piece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    read_model,
)
from tfllm.tokenizers.specification.split_pattern import UnsupportedTokenizer
from tfllm.tokenizers.stored_tokenizer import (
    MADE_FROM,
    read_settings,
    token_content,
)
from tfllm.tokenizers.token_bytes import valid_text

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.sentence_piece_graph import SentencePieceGraph

FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
"""The file names that it may have in a model folder."""
_T5_FILE, _T5_CLASS = "spiece.model", "T5Tokenizer"
_FLAGS = ("special", "lstrip", "rstrip", "single_word")


class SentencePieceTokenizer(PieceTokenizer):
    """SentencePiece tokenizer, with the same ids as in the library `sentencepiece`.

    A text is cut at special tokens (the model's control pieces and the added tokens), and each
    stretch between them is encoded separately; with `parse_special=False` the text is encoded as a
    whole. A model that adds a space before a text adds one before each stretch. If
    tokenizer_config.json says `"legacy": false`, it is added only before the first stretch, and
    only if that does not begin with a space.

    Args:
        model: Content of a tokenizer.model.
        added_tokens: Additional tokens, or other names for tokens of the model. Defaults to none.
        begin, end: Ids that are put before and after a text. Defaults to none.
        end_token: Token that ends a document. Defaults to the end token of the model.
        legacy: Whether a space is added before each stretch rather than only before the first.
            Defaults to True.

    Raises:
        ValueError: If the content is not a SentencePiece model, end_token is not one of its tokens,
            or legacy is False for a model that drops spaces.

    Examples:

    >>> import io
    >>> import sentencepiece
    >>> from tfllm.tokenizers import SentencePieceTokenizer
    >>> model = io.BytesIO()
    >>> sentencepiece.SentencePieceTrainer.train(
    ...     sentence_iterator=iter(["the cat sat", "on the mat"] * 9), model_writer=model,
    ...     vocab_size=14, minloglevel=2)
    >>> tokenizer = SentencePieceTokenizer(model.getvalue())
    >>> tokenizer.decode(tokenizer.encode("the mat"))
    'the mat'
    """

    _generic_class = True
    _file = FILES[0]

    def __init__(
        self,
        model: bytes,
        *,
        added_tokens: Iterable[AddedToken] = (),
        begin: Sequence[int] = (),
        end: Sequence[int] = (),
        end_token: str | None = None,
        legacy: bool = True,
    ) -> None:
        from sentencepiece import SentencePieceProcessor

        self._model = self._encoder = model
        proto = read_model(model)
        rules = proto.normalizer_spec
        self._leading = _leading_space(rules)
        self._escapes_spaces = rules.escape_whitespaces
        self._spaces_first = rules.add_dummy_prefix and not legacy
        if self._spaces_first:
            if rules.remove_extra_whitespaces:
                raise _refuse("legacy false with a model that drops spaces")
            rules.add_dummy_prefix = False
            self._encoder = proto.SerializeToString(deterministic=True)
        try:
            self._processor = SentencePieceProcessor(model_proto=self._encoder)
        except RuntimeError as error:
            raise ValueError(f"not a file that `sentencepiece` can read: {error}") from None
        self._pieces = [piece.piece for piece in proto.pieces]
        self._types = [piece.type for piece in proto.pieces]
        self._given_added = tuple(added_tokens)
        self._added = _all_added(self._pieces, self._types, self._given_added)
        self._ids = {piece: id_ for id_, piece in enumerate(self._pieces)}
        self._ids |= {t.content: t.id for t in self._added}
        special = {t.content: t.id for t in sorted(self._added, key=lambda t: t.id) if t.special}
        self._tokens = {id_: token for token, id_ in self._ids.items()}
        self._begin, self._end = tuple(begin), tuple(end)
        eos = proto.trainer_spec.eos_id
        if end_token is None and 0 <= eos < len(self._pieces) and self._types[eos] == CONTROL:
            end_token = self._tokens[eos]
        super().__init__(special, max(self._tokens) + 1, end_token)
        bos = begin[0] if begin else proto.trainer_spec.bos_id
        if begin or end:
            self.settings |= {"add_bos_token": bool(begin), "add_eos_token": bool(end)}
        if 0 <= bos < len(self._pieces) and self._types[bos] == CONTROL:
            self.settings["bos_token"] = self._tokens[bos]
        if not legacy:
            self.settings["legacy"] = False

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SentencePieceTokenizer:
        """Read a tokenizer.model, or the folder that contains one.

        tokenizer_config.json in the same folder defines the added tokens, and whether a text gets
        the begin and the end token (by default it gets neither). The end token is read from it,
        from generation_config.json or from config.json. T5's texts get the end token, and its
        vocabulary has 100 additional tokens (`<extra_id_0>` is the last), or as many as `extra_ids`
        says.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a SentencePiece model.
        """
        file = Path(path)
        if file.is_dir():
            file = next((file / n for n in FILES if (file / n).is_file()), file / FILES[0])
        if not file.is_file():
            raise FileNotFoundError(
                f"there is no tokenizer at {path}: a tokenizer.model or a folder that contains one "
                "is needed"
            )
        data = file.read_bytes()
        settings = read_settings(file.parent)
        is_t5 = _is_t5(settings, file)
        try:
            added = _added_in(settings, read_json_object(file.with_name("added_tokens.json")))
            if is_t5:
                added = _with_sentinels(added, settings, len(read_model(data).pieces))
            model = cls(data, added_tokens=added, legacy=settings.get("legacy") is not False)
            own = model.settings
            model._read_beside(file.parent)
            model.settings.pop(MADE_FROM, None)
            model.settings = {**own, **model.settings}
            around = []
            for flag, name, default in (
                ("add_bos_token", "bos_token", model.settings.get("bos_token")),
                ("add_eos_token", "eos_token", settings.get("eos_token")),
            ):
                id_ = model._ids.get(token_content(settings.get(name, default)) or "")
                if name == "eos_token" and id_ is None:
                    with contextlib.suppress(ValueError):
                        id_ = model.end_token_id
                wanted = settings.get(flag, is_t5 and flag == "add_eos_token")
                around.append((id_,) if wanted and id_ is not None else ())
            model._begin, model._end = around
            if is_t5:
                model._keep_as_t5()
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        return model

    def _keep_as_t5(self) -> None:
        """Make `save` write the files that `transformers` writes for T5's tokenizers."""
        self._file = _T5_FILE
        self.settings = {"pad_token": "<pad>", "unk_token": "<unk>", **self.settings}
        self.settings["tokenizer_class"] = _T5_CLASS
        sentinels = sum(t.content.startswith(_SENTINEL) for t in self._added)
        self.settings["extra_ids"] = sentinels

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write tokenizer.model (spiece.model for T5), and a tokenizer.json next to it.

        Args:
            path: Name that ends in .model, or a folder, which is created if needed. In a folder,
                the end token and `settings` are written to tokenizer_config.json, whose other
                entries are kept.
        """
        target = Path(path)
        if target.suffix == ".model":
            write_file(target, self._model)
            return
        write_file(target / self._file, self._model)
        if self._same_json is not None:
            write_file(target / "tokenizer.json", self._same_json)
        self._write_beside(target)

    def written_settings(self) -> dict[str, Any]:
        """See `StoredTokenizer`; they also name the file that this library reads."""
        settings = super().written_settings()
        return {**settings, MADE_FROM: self._file} if self._same_json is not None else settings

    @functools.cached_property
    def _same_json(self) -> str | None:
        """The equivalent tokenizer.json, for libraries that do not read the model; None for T5,
        whose model they do read."""
        if self._file == _T5_FILE:
            return None
        return sentence_piece_json(
            read_model(self._model),
            self._added,
            spaces_first=self._spaces_first,
            begin=self._begin,
            end=self._end,
        )

    def encode_batch(
        self,
        texts: Iterable[str | bytes],
        *,
        parse_special: bool = True,
        add_special: bool = True,
    ) -> list[list[int]]:
        """Convert each text to ids; see `Tokenizer`."""
        tokens = self._cut(parse_special)
        rows = [cut_at(valid_text(text), tokens) for text in texts]
        stretches = [
            self._with_space(s.text, s.begin == 0) for row in rows for s in row if s.id < 0
        ]
        encoded = iter(self._processor.encode(stretches))
        begin, end = (self._begin, self._end) if add_special else ((), ())
        return [
            [*begin, *(i for s in row for i in (next(encoded) if s.id < 0 else (s.id,))), *end]
            for row in rows
        ]

    def _with_places(self, text: str, begin: int) -> Iterator[tuple[int, int]]:
        for part in cut_at(text, self._cut(False)):
            if part.id >= 0:
                yield part.id, part.begin
                continue
            shown = self._with_space(part.text, begin + part.begin == 0)
            at = len(part.text) - len(shown)
            for piece in pieces_of(self._processor, shown):
                yield piece.id, part.begin + min(max(at, 0), len(part.text) - 1)
                at += len(piece.surface)

    def _with_space(self, text: str, is_first: bool) -> str:
        """A stretch as the model receives it."""
        bare = self._spaces_first and is_first and not text.startswith((" ", SPACE))
        return " " + text if bare else text

    def _text(self, parts: Sequence[bytes]) -> str:
        return joined(parts, self._leading).decode("utf-8", "replace")

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
        result = [b""] * self.vocab_size
        for id_, (piece, kind) in enumerate(zip(self._pieces, self._types, strict=True)):
            if kind == BYTE:
                result[id_] = bytes([int(piece[3:-1], 16)])
            elif kind in (NORMAL, USER_DEFINED, UNUSED):
                spaced = piece.replace(SPACE, " ") if self._escapes_spaces else piece
                result[id_] = spaced.encode()
        for token in self._added:
            result[token.id] = b"" if token.special else token.content.encode()
        return result

    def _cut(self, parse_special: bool) -> list[AddedToken]:
        return [t for t in self._added if parse_special or not t.special]

    def _make_graph(self) -> SentencePieceGraph:
        from tfllm.tokenizers.graph.sentence_piece_graph import SentencePieceGraph

        return SentencePieceGraph(
            self._encoder,
            self._bytes,
            self._added,
            self._begin,
            self._end,
            self._leading,
            spaces_first=self._spaces_first,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        make = functools.partial(
            SentencePieceTokenizer,
            added_tokens=self._given_added,
            begin=self._begin,
            end=self._end,
            end_token=self._end_token,
            legacy=self.settings.get("legacy") is not False,
        )
        state = {"_other_ends": self._other_ends, "settings": self.settings, "_file": self._file}
        return make, (self._model,), state


def _all_added(
    pieces: Sequence[str], types: Sequence[int], given: Iterable[AddedToken]
) -> list[AddedToken]:
    """The tokens at which text is cut: the model's own that stand for no text, and added ones."""
    added = {
        id_: AddedToken(id_, piece, special=True, normalized=False)
        for id_, (piece, kind) in enumerate(zip(pieces, types, strict=True))
        if kind in (CONTROL, UNKNOWN) and piece
    }
    ids = {piece: id_ for id_, piece in enumerate(pieces)}
    for token in given:
        if ids.get(token.content, token.id) != token.id:
            raise ValueError(
                f"an added token must have the id of the piece with its content; received "
                f"{token.id} for {token.content!r}, which is {ids[token.content]}"
            )
        # SentencePiece itself keeps a user-defined piece whole among the pieces around it.
        if token.id < len(types) and types[token.id] == USER_DEFINED and not token.special:
            continue
        added[token.id] = token
    return list(added.values())


def _added_in(settings: dict[str, Any], older: dict[str, Any]) -> list[AddedToken]:
    """The added tokens in tokenizer_config.json, or in the older added_tokens.json."""
    decoder = settings.get("added_tokens_decoder") or {}
    try:
        found = [
            AddedToken(
                int(id_),
                str(token["content"]),
                normalized=False,
                **{name: bool(token.get(name)) for name in _FLAGS},
            )
            for id_, token in decoder.items()
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "added_tokens_decoder of tokenizer_config.json must give each id an object with "
            f"content; {error!r}"
        ) from None
    check_added_tokens(found, _refuse)
    known = {t.content for t in found}
    named = {token_content(v) for k, v in settings.items() if k.endswith("_token")}
    found += [
        AddedToken(id_, content, content in named, normalized=False)
        for content, id_ in older.items()
        if content not in known
    ]
    return found


_SENTINEL = "<extra_id_"


def _is_t5(settings: dict[str, Any], file: Path) -> bool:
    name = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    if name:
        return name == _T5_CLASS
    return read_json_object(file.with_name("config.json")).get("model_type") == "t5"


def _with_sentinels(
    added: list[AddedToken], settings: dict[str, Any], num_pieces: int
) -> list[AddedToken]:
    """Add the tokens that mark the gaps for T5 to fill, which the files need not list."""
    if any(token.content.startswith(_SENTINEL) for token in added):
        return added
    number = settings.get("extra_ids", 100)
    if type(number) is not int or not 0 <= number <= 100_000:
        raise ValueError(
            f"extra_ids of tokenizer_config.json must be a number of tokens; received {number!r}"
        )
    return added + [
        AddedToken(num_pieces + i, f"{_SENTINEL}{number - 1 - i}>", True, False)
        for i in range(number)
    ]


def _refuse(what: str) -> UnsupportedTokenizer:
    return UnsupportedTokenizer(f"a SentencePiece tokenizer here cannot do {what}")


def _leading_space(normalizer: Any) -> LeadingSpace:
    if normalizer.remove_extra_whitespaces:
        return "each"
    return "one" if normalizer.add_dummy_prefix else "keep"
