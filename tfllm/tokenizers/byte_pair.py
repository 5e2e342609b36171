"""Byte-level byte-pair encoding, stored as the tokenizer.json of the `tokenizers` library."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tfllm.tokenizers.token_bytes import valid_text

if TYPE_CHECKING:
    from tfllm.tokenizers.byte_pair_graph import BytePairGraph

_log = logging.getLogger("tfllm")

# From left to right: an English contraction; a word with at most one other character before it
# (mostly the space); a digit by itself; punctuation with the line ends after it; line ends; the
# spaces before a word, but for the last; other spaces.
DEFAULT_SPLIT_PATTERN = (
    r"(?i:'(?:s|t|d|m|re|ve|ll))"
    r"|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)

_END_TOKENS = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|im_end|>",
)


class BytePairTokenizer:
    """Text to ids and back: byte-level BPE, so any text has ids and none is unknown.

    Args:
        tokenizer_json: the text of a tokenizer.json.
        end_token: the token that ends a document; default: the one of the usual names that the
            tokenizer has, or its only special token.

    Raises:
        ValueError: the text is not a tokenizer.json of a BPE model, or end_token is none of its
            tokens.
    """

    def __init__(self, tokenizer_json: str, *, end_token: str | None = None) -> None:
        self._json = tokenizer_json
        self._tokenizer = _parse(tokenizer_json)
        self._plain = _parse(tokenizer_json)
        self._plain.encode_special_tokens = True
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_tokens: dict[str, int] = {
            token.content: id_ for id_, token in sorted(added.items()) if token.special
        }
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocab_size: int = max(ids, default=-1) + 1
        if end_token is not None and self._tokenizer.token_to_id(end_token) is None:
            raise ValueError(
                "end_token must be a token of the tokenizer; received "
                f"{end_token!r}, and its special tokens are {list(self.special_tokens)}"
            )
        self._end_token = end_token

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        special_tokens: Sequence[str] = ("<|endoftext|>",),
        split_pattern: str = DEFAULT_SPLIT_PATTERN,
        show_progress: bool = False,
    ) -> BytePairTokenizer:
        """Learn merges from texts. The same texts give the same tokenizer.

        Args:
            texts: any iterable of texts; read once, not kept.
            vocab_size: number of ids, the 256 bytes and the special tokens included.
            special_tokens: get the first ids; the first of them ends documents.
            split_pattern: a regular expression (Oniguruma's syntax) that cuts text into the pieces
                that no token reaches across.
            show_progress: draw a progress bar on standard error.

        Returns:
            The tokenizer. It is smaller than vocab_size where the text has too few different
            pieces; a log message says so.

        Raises:
            ValueError: vocab_size is too small, there is no special token, or split_pattern is no
                regular expression.
        """
        special_tokens = list(special_tokens)
        if not special_tokens or len(set(special_tokens)) < len(special_tokens):
            raise ValueError(
                "special_tokens must name at least one token (the first ends documents), each "
                f"once; received {special_tokens}"
            )
        least = 256 + len(special_tokens)
        if vocab_size < least:
            raise ValueError(
                f"vocab_size must be at least {least} (256 bytes and {len(special_tokens)} special "
                f"token{'s' * (len(special_tokens) > 1)}); received {vocab_size}"
            )
        if isinstance(texts, str | bytes):
            raise ValueError("texts must be an iterable of texts; received one text, put it in []")
        try:
            splitter = pre_tokenizers.Split(Regex(split_pattern), "isolated")
        except Exception as error:  # the library raises a bare Exception
            raise ValueError(
                f"split_pattern must be a regular expression; received {split_pattern!r}: {error}"
            ) from None
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
            [splitter, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(t, special=True, normalized=False) for t in special_tokens],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=show_progress,
        )
        tokenizer.train_from_iterator(map(valid_text, texts), trainer)
        result = cls(tokenizer.to_str(), end_token=special_tokens[0])
        if result.vocab_size < vocab_size:
            _log.warning(
                "The text is too small for a vocabulary of %d tokens: there is nothing left to "
                "merge. The tokenizer has %d tokens.",
                vocab_size,
                result.vocab_size,
            )
        return result

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BytePairTokenizer:
        """Read a tokenizer.json, or the folder that holds one.

        The end token is what tokenizer_config.json, generation_config.json or config.json beside
        it says.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a tokenizer.json of a BPE model.
        """
        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"there is no tokenizer at {path}: a tokenizer.json or a folder that holds one is "
                "needed"
            )
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not a tokenizer.json: {error}") from None
        try:
            tokenizer = cls(text)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        tokenizer._end_token = _end_token_beside(file, tokenizer._tokenizer)
        return tokenizer

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write tokenizer.json.

        Args:
            path: a name that ends in .json, or a folder (made if need be). In a folder,
                tokenizer_config.json names the end token; what else it says is kept.
        """
        target = Path(path)
        if target.suffix == ".json":
            _write(target, self._json)
            return
        _write(target / "tokenizer.json", self._json)
        beside = target / "tokenizer_config.json"
        settings = _read_json(beside) or {"tokenizer_class": "PreTrainedTokenizerFast"}
        with contextlib.suppress(ValueError):  # a tokenizer without an end token can be saved too
            settings["eos_token"] = self.end_token
        _write(beside, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

    @property
    def end_token(self) -> str:
        """The token that ends a document.

        Raises:
            ValueError: the tokenizer does not say which of its tokens that is.
        """
        if self._end_token is None:
            known = [t for t in _END_TOKENS if t in self.special_tokens]
            known = known or (list(self.special_tokens) if len(self.special_tokens) == 1 else [])
            if not known:
                raise ValueError(
                    "the tokenizer does not say which token ends a document; its special tokens "
                    f"are {list(self.special_tokens)}. Name it as eos_token in "
                    "tokenizer_config.json"
                )
            self._end_token = known[0]
        return self._end_token

    @property
    def end_token_id(self) -> int:
        """The id of `end_token`."""
        id_ = self._tokenizer.token_to_id(self.end_token)
        assert id_ is not None
        return id_

    def encode(self, text: str | bytes, *, parse_special: bool = True) -> list[int]:
        """The ids of a text.

        Args:
            text: bytes that are not UTF-8 count as U+FFFD, as in the graph.
            parse_special: whether "<|endoftext|>" in the text is the special token or thirteen
                characters like any others.

        Returns:
            Ids, with those that the tokenizer.json's template puts around every text.
        """
        return self._which(parse_special).encode(valid_text(text)).ids

    def encode_batch(
        self, texts: Iterable[str | bytes], *, parse_special: bool = True
    ) -> list[list[int]]:
        """The ids of each text, on all cores."""
        batch = [valid_text(text) for text in texts]
        return [e.ids for e in self._which(parse_special).encode_batch_fast(batch)]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of ids; broken UTF-8 becomes U+FFFD, ids that are no token's are skipped."""
        known = [i for i in map(int, ids) if 0 <= i < self.vocab_size]
        return self._tokenizer.decode(known, skip_special_tokens=skip_special)

    def graph(self) -> BytePairGraph:
        """The same tokenizer out of TensorFlow kernels, to be saved with a model.

        Raises:
            ValueError: the tokenizer.json asks for what the graph does not do; the error names it.
        """
        return self._graph

    def _which(self, parse_special: bool) -> Tokenizer:
        return self._tokenizer if parse_special else self._plain

    @functools.cached_property
    def _graph(self) -> BytePairGraph:
        from tfllm.tokenizers.byte_pair_graph import BytePairGraph
        from tfllm.tokenizers.specification import read_specification

        added = self._tokenizer.get_added_tokens_decoder()
        return BytePairGraph(read_specification(self._json, added))

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(BytePairTokenizer, end_token=self._end_token), (self._json,)

    def __repr__(self) -> str:
        return f"BytePairTokenizer(vocab_size={self.vocab_size})"


def _parse(tokenizer_json: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # the library raises a bare Exception
        raise ValueError(f"not a tokenizer.json that `tokenizers` reads: {error}") from None
    if not isinstance(tokenizer.model, models.BPE):
        raise ValueError(
            f"the tokenizer's model must be BPE; received {type(tokenizer.model).__name__}"
        )
    tokenizer.no_truncation()  # these would cut or lengthen what encode() gives
    tokenizer.no_padding()
    return tokenizer


def _end_token_beside(file: Path, tokenizer: Tokenizer) -> str | None:
    """The end token that a configuration file beside tokenizer.json names."""
    named = _read_json(file.with_name("tokenizer_config.json")).get("eos_token")
    if isinstance(named, dict):
        named = named.get("content")
    if isinstance(named, str) and tokenizer.token_to_id(named) is not None:
        return named
    for name in ("generation_config.json", "config.json"):
        ids = _read_json(file.with_name(name)).get("eos_token_id")
        for id_ in ids if isinstance(ids, list) else [ids]:
            if isinstance(id_, int) and tokenizer.id_to_token(id_) is not None:
                return tokenizer.id_to_token(id_)
    return None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from None
    return settings if isinstance(settings, dict) else {}


def _write(file: Path, text: str) -> None:
    """Write beside and rename, so that a failure leaves the file as it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, file)
    except BaseException:
        os.unlink(beside)
        raise
