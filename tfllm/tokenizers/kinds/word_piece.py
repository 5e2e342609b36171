"""BERT's WordPiece: words are cut into the longest pieces in the vocabulary."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tfllm.files import read_json_object
from tfllm.tokenizers.kinds.json_tokenizer import JsonTokenizer
from tfllm.tokenizers.kinds.word_piece_words import counted_words, frequent_letters, repeated
from tfllm.tokenizers.specification.bert_characters import changing_places
from tfllm.tokenizers.specification.byte_pair_specification import ids_around
from tfllm.tokenizers.specification.class_rules import CASING
from tfllm.tokenizers.specification.split_pattern import UnsupportedTokenizer
from tfllm.tokenizers.stored_tokenizer import GENERIC_CLASS, token_content
from tfllm.tokenizers.token_bytes import valid_text

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.word_piece_graph import WordPieceGraph

_log = logging.getLogger("tfllm")

VOCABULARY = "vocab.txt"
"""One token per line, whose id is the line number; older BERT folders have only this file."""
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
"""The special tokens by their names in tokenizer_config.json, and their default values."""
_CLASS = "BertTokenizer"
_MAX_CHARACTERS = 100
_PREFIX = "##"

Self = TypeVar("Self", bound="WordPiece")


class WordPiece(JsonTokenizer):
    """WordPiece tokenizer with BERT's normalization and word splitting.

    `encode` puts [CLS] before a text and [SEP] after it, unless `add_special` is False.

    Args:
        tokenizer_json: Text of a tokenizer.json.
        end_token: Token that ends a text. Defaults to [SEP].

    Raises:
        ValueError: If the text is not a tokenizer.json of a WordPiece model, or end_token is not
            one of its tokens.

    Examples:

    >>> import tfllm
    >>> tokenizer = tfllm.WordPiece.train(["The cat sat on the mat"] * 9, vocab_size=26)
    >>> tokenizer.decode(tokenizer.encode("The mat"))
    'the mat'
    """

    _generic_class = False
    _inputs = ["input_ids", "token_type_ids", "attention_mask"]  # noqa: RUF012
    _models = (models.WordPiece,)

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str]) -> Self:
        """Read a tokenizer.json or a vocab.txt, or the folder that contains one.

        For a vocab.txt, tokenizer_config.json in the same folder provides `do_lower_case` (true by
        default, as in transformers), `strip_accents`, `tokenize_chinese_chars` and the special
        tokens.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it does not hold a WordPiece model.
        """
        file = Path(path)
        if file.is_dir() and not (file / "tokenizer.json").is_file():
            file = file / VOCABULARY
        if file.name != VOCABULARY:
            return super().load(path)
        tokenizer = cls(_json_of_vocabulary(file))
        tokenizer._read_beside(file.parent)
        return tokenizer

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        show_progress: bool = False,
    ) -> WordPiece:
        """Learn a vocabulary from texts. The same texts always give the same tokenizer.

        Args:
            texts: Iterable of texts, which is read once and not kept.
            vocab_size: Number of ids, including the five special tokens.
            lowercase: Whether to convert text to lower case. Defaults to True.
            strip_accents: Whether to remove accents from letters. Defaults to the value of
                `lowercase`.
            show_progress: Whether to draw a progress bar on standard error. Defaults to False.

        Returns:
            The tokenizer. It has fewer than vocab_size tokens if the texts have too few different
            pieces; a log message says so.

        Raises:
            ValueError: If vocab_size is too small, or texts is a single text.
        """
        if isinstance(texts, str | bytes):
            raise ValueError("texts must be an iterable of texts; received one text, put it in []")
        least = len(SPECIAL_TOKENS) + 1
        if vocab_size < least:
            raise ValueError(
                f"vocab_size must be at least {least} ({len(SPECIAL_TOKENS)} special tokens and a "
                f"character); received {vocab_size}"
            )
        tokenizer = _bert({}, lowercase=lowercase, strip_accents=strip_accents)
        words = counted_words(tokenizer, texts)
        letters = frequent_letters(words, (vocab_size - len(SPECIAL_TOKENS)) // 2, _PREFIX)
        normalizer = json.dumps(json.loads(tokenizer.to_str())["normalizer"])
        while pair := changing_places(normalizer, "".join(letters)):  # no graph knows both
            letters = [t for t in letters if t.removeprefix(_PREFIX) != pair[0]]
        # Given in this order; otherwise the library numbers them in the order of a hash table, and
        # joins different pairs each time where several are equally frequent.
        first = [*SPECIAL_TOKENS.values(), *letters]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size, special_tokens=first, show_progress=show_progress
        )
        tokenizer.train_from_iterator(repeated(words, set(letters), _PREFIX), trainer)
        tokenizer.post_processor = _template(tokenizer, SPECIAL_TOKENS)
        content = json.loads(tokenizer.to_str())
        content["added_tokens"] = content["added_tokens"][: len(SPECIAL_TOKENS)]
        result = cls(json.dumps(content, ensure_ascii=False))
        result.settings = {
            "tokenizer_class": _CLASS,
            **SPECIAL_TOKENS,
            "do_lower_case": lowercase,
            "strip_accents": strip_accents,
            "tokenize_chinese_chars": True,
        }
        if result.vocab_size < vocab_size:
            _log.warning(
                "The text is too small for a vocabulary of %d tokens: there is nothing left to "
                "merge. The tokenizer has %d tokens.",
                vocab_size,
                result.vocab_size,
            )
        return result

    def lowercased(self) -> WordPiece:
        """This tokenizer, but converting text to lower case; itself if it already does.

        If it keeps accents now, it still does: only BERT's own normalizer lets accents follow the
        case.

        Raises:
            ValueError: If tokenizer.json has a normalizer other than BERT's.
        """
        content = json.loads(self._json)
        normalizer = content.get("normalizer") or {}
        if normalizer.get("type") == "Lowercase" or normalizer.get("lowercase"):
            return self
        if normalizer.get("type") != "BertNormalizer":
            raise ValueError(
                "do_lower_case of sentence-transformers is only supported if tokenizer.json has "
                f"the normalizer BertNormalizer; received {normalizer.get('type')!r}"
            )
        keeps_accents = normalizer.get("strip_accents") is None
        changed = {"lowercase": True} | ({"strip_accents": False} if keeps_accents else {})
        content["normalizer"] = normalizer | changed
        result = type(self)(json.dumps(content, ensure_ascii=False), end_token=self._end_token)
        result.settings = {**self.settings, "do_lower_case": True}
        if keeps_accents:
            result.settings["strip_accents"] = False
        result._other_ends = self._other_ends
        return result

    def written_settings(self) -> dict[str, Any]:
        """See `StoredTokenizer`; the casing is that of tokenizer.json's normalizer, since the
        classes of `transformers` for BERT follow tokenizer_config.json."""
        settings = super().written_settings()
        for name in ("add_bos_token", "add_eos_token", *CASING.values()):
            settings.pop(name, None)
        content = json.loads(self._json)
        normalizer = content.get("normalizer") or {}
        if normalizer.get("type") == "BertNormalizer":
            settings |= {name: normalizer[key] for key, name in CASING.items()}
        settings["tokenizer_class"] = _CLASS if self._is_berts(content) else GENERIC_CLASS
        return settings

    def _is_berts(self, content: dict[str, Any]) -> bool:
        """Whether BertTokenizer, which only reads the vocabulary, is equal to this tokenizer."""
        names = {name: self._special_token(name) for name in SPECIAL_TOKENS}
        if any(self.token_id(names[name]) is None for name in ("cls_token", "sep_token")):
            return False
        normalizer = content.get("normalizer") or {}
        casing = {
            "lowercase": normalizer.get("lowercase", True),
            "strip_accents": normalizer.get("strip_accents"),
            "chinese": normalizer.get("handle_chinese_chars", True),
        }
        unknown = content["model"]["unk_token"]
        usual = _bert(content["model"]["vocab"], **casing, unknown=unknown)
        usual.post_processor = _template(usual, names)
        own = json.loads(usual.to_str())
        parts = ("normalizer", "pre_tokenizer", "decoder", "model")
        try:
            same_special = ids_around(content.get("post_processor")) == ids_around(
                own["post_processor"]
            )
        except UnsupportedTokenizer:
            return False
        as_usual = all(content.get(part) == own[part] for part in parts)
        return same_special and as_usual and names["unk_token"] == unknown

    @property
    def end_token(self) -> str:
        """The token that ends a text: [SEP], unless the folder names another."""
        return self._end_token or self._special_token("sep_token")

    @property
    def pad_token_id(self) -> int:
        """The id that fills up the rows of a batch."""
        return self.special_id("pad_token")

    @property
    def cls_token_id(self) -> int:
        """The id of the token before each text."""
        return self.special_id("cls_token")

    @property
    def sep_token_id(self) -> int:
        """The id of the token after each text."""
        return self.special_id("sep_token")

    @property
    def mask_token_id(self) -> int:
        """The id of the token that replaces a hidden one."""
        return self.special_id("mask_token")

    @property
    def unk_token_id(self) -> int:
        """The id of a word that cannot be made of pieces."""
        return self.special_id("unk_token")

    @functools.cached_property
    def continuing_ids(self) -> frozenset[int]:
        """The ids of tokens that continue a word."""
        prefix = json.loads(self._json)["model"]["continuing_subword_prefix"]
        vocab = self._tokenizer.get_vocab(with_added_tokens=False)
        return frozenset(id_ for token, id_ in vocab.items() if token.startswith(prefix))

    def _special_token(self, name: str) -> str:
        return token_content(self.settings.get(name)) or SPECIAL_TOKENS[name]

    def encode_with_offsets(
        self, text: str | bytes, *, parse_special: bool = True, add_special: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """See `Tokenizer`."""
        tokenizer = self._which(parse_special)
        encoding = tokenizer.encode(valid_text(text), add_special_tokens=add_special)
        return encoding.ids, encoding.offsets

    def encode_pair(
        self, text: str | bytes, second_text: str | bytes, *, parse_special: bool = True
    ) -> tuple[list[int], list[int]]:
        """Encode two texts as [CLS] text [SEP] second_text [SEP].

        Returns:
            The ids, and their token types: 0 up to the first [SEP] and 1 after it.
        """
        encoding = self._which(parse_special).encode(valid_text(text), valid_text(second_text))
        return encoding.ids, encoding.type_ids

    @functools.cached_property
    def _forms(self) -> tuple[list[bytes], list[bytes]]:
        """The bytes that each id stands for within a text, including the space before it, and at
        the start of a text. Empty for special tokens."""
        later, first = [b""] * self.vocab_size, [b""] * self.vocab_size
        special = set(self.special_tokens.values())
        decode = (self._tokenizer.decoder or _Joined()).decode
        for token, id_ in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if id_ not in special:
                # "x" has the same form whatever token follows it.
                later[id_] = decode(["x", token]).encode()[1:]
                first[id_] = decode([token]).encode()
        return later, first

    def _make_graph(self) -> WordPieceGraph:
        from tfllm.tokenizers.graph.word_piece_graph import WordPieceGraph
        from tfllm.tokenizers.specification.word_piece_specification import (
            read_word_piece_specification,
        )

        specification = read_word_piece_specification(self._json, self._added_tokens)
        return WordPieceGraph(specification, *self._forms)


class _Joined:
    """The library's behaviour without a decoder."""

    def decode(self, tokens: list[str]) -> str:
        return " ".join(tokens)


def _bert(
    vocab: dict[str, int],
    *,
    lowercase: bool,
    strip_accents: bool | None,
    chinese: bool = True,
    unknown: str = "[UNK]",
) -> Tokenizer:
    model = models.WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=_MAX_CHARACTERS)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(  # type: ignore[assignment]
        clean_text=True,
        handle_chinese_chars=chinese,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    tokenizer.decoder = decoders.WordPiece()  # type: ignore[assignment]
    return tokenizer


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _template(tokenizer: Tokenizer, names: dict[str, str]) -> Any:
    cls, sep = names["cls_token"], names["sep_token"]
    return processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.token_to_id(cls)), (sep, tokenizer.token_to_id(sep))],
    )


def _json_of_vocabulary(file: Path) -> str:
    """Convert a vocab.txt to a tokenizer.json."""
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no tokenizer at {file}: a tokenizer.json, a {VOCABULARY} or a folder that "
            "contains one is needed"
        )
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a vocabulary: {error}") from None
    lines = [line.rstrip("\r") for line in lines]
    if lines and not lines[-1]:
        lines.pop()
    vocab = {token: number for number, token in enumerate(lines)}
    if len(vocab) < len(lines):
        twice = next(t for number, t in enumerate(lines) if vocab[t] != number)
        raise ValueError(f"each token must occur only once in {file}; {twice!r} occurs twice")
    settings = read_json_object(file.parent / "tokenizer_config.json")
    names = {n: token_content(settings.get(n)) or t for n, t in SPECIAL_TOKENS.items()}
    missing = [t for n, t in names.items() if n != "mask_token" and t not in vocab]
    if missing:
        raise ValueError(
            f"{file} must have the tokens {', '.join(names.values())}; it lacks "
            f"{', '.join(missing)}. If they have other names, set these in tokenizer_config.json"
        )
    tokenizer = _bert(
        vocab,
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        chinese=settings.get("tokenize_chinese_chars", True),
        unknown=names["unk_token"],
    )
    tokenizer.add_special_tokens([_special(t) for t in names.values() if t in vocab])
    tokenizer.post_processor = _template(tokenizer, names)
    return tokenizer.to_str()
