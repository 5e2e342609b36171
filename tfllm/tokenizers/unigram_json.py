"""A tokenizer.json that was made from a SentencePiece model of kind Unigram, as T5's.

What such a file says is what a SentencePiece model says in other words. It is made one again: the
library `sentencepiece` and its kernel in TF-Text then give the ids that `tokenizers` gives, and a
special token that is spelt in a text (also by other characters that are normalized to it) stays
text where it is to.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfllm.tokenizers.added_tokens import AddedToken, check_added_tokens
from tfllm.tokenizers.json_tokenizer import read_tokenizer_json
from tfllm.tokenizers.leading_space import SPACE
from tfllm.tokenizers.sentence_piece import SentencePieceTokenizer
from tfllm.tokenizers.sentence_piece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    sentence_piece_model,
)
from tfllm.tokenizers.specification import ids_around
from tfllm.tokenizers.split_pattern import UnsupportedTokenizer
from tfllm.tokenizers.stored_tokenizer import write_file

if TYPE_CHECKING:
    from tfllm.tokenizers.sentence_piece_graph import SentencePieceGraph

# White space that SentencePiece's normalization leaves, and text is split at.
_OTHER_SPACE = "\x85"


class UnigramTokenizer(SentencePieceTokenizer):
    """Text to ids and back as such a tokenizer.json says.

    Args:
        tokenizer_json: the text of the file.
        end_token: the token that ends a document; default: `</s>`, if there is one.

    Raises:
        UnsupportedTokenizer: the file says what no SentencePiece model does.
        ValueError: it is damaged; or end_token is none of its tokens.
    """

    def __init__(self, tokenizer_json: str, *, end_token: str | None = None) -> None:
        try:
            content = json.loads(tokenizer_json)
            made = _as_model(content)
            begin, end = ids_around(content.get("post_processor"))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"not a tokenizer.json: {error!r}") from None
        model, added, eos, self._splits_at_space = made
        self._json = tokenizer_json
        super().__init__(
            model, added_tokens=added, begin=begin, end=end, end_token=end_token or eos
        )
        self._leading = "token"
        self.settings.pop("add_bos_token", None)  # the file says it
        self.settings.pop("add_eos_token", None)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> UnigramTokenizer:
        """Read a tokenizer.json, or the folder that holds one.

        The end token is what tokenizer_config.json, generation_config.json or config.json beside
        it says.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: as the constructor.
        """
        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        text = read_tokenizer_json(file)
        try:
            tokenizer = cls(text)
        except UnsupportedTokenizer as error:
            raise UnsupportedTokenizer(f"{file}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        tokenizer._read_beside(file.parent)
        return tokenizer

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write tokenizer.json, as `JsonTokenizer.save` does."""
        target = Path(path)
        if target.suffix == ".json":
            write_file(target, self._json)
            return
        write_file(target / "tokenizer.json", self._json)
        self._write_beside(target)

    def _with_space(self, text: str, is_first: bool) -> str:
        """A stretch as the model is to see it."""
        return re.sub(f"[{_OTHER_SPACE}]", " ", text) if self._splits_at_space else text

    def _make_graph(self) -> SentencePieceGraph:
        from tfllm.tokenizers.sentence_piece_graph import SentencePieceGraph

        return SentencePieceGraph(
            self._encoder,
            self._bytes,
            self._added,
            self._begin,
            self._end,
            self._leading,
            other_space=_OTHER_SPACE if self._splits_at_space else "",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        make = functools.partial(UnigramTokenizer, end_token=self._end_token)
        return make, (self._json,), {"_other_ends": self._other_ends, "settings": self.settings}


def _as_model(content: dict[str, Any]) -> tuple[bytes, list[AddedToken], str | None, bool]:
    """The content of a tokenizer.model, the added tokens, the name of `</s>`, and whether text is
    split at all white space."""
    model = content["model"]
    vocab: list[list[Any]] = model["vocab"]
    added = [
        AddedToken(
            t["id"], t["content"], t["special"], False, t["lstrip"], t["rstrip"], t["single_word"]
        )
        for t in content.get("added_tokens") or ()
    ]
    check_added_tokens(added, _refuse)
    if model.get("unk_id") is None:
        raise _refuse("a Unigram model without an unknown token")
    charsmap, drops = _normalizer(content.get("normalizer"))
    splits = _spaces(content.get("pre_tokenizer"))
    _check_decoder(content.get("decoder"))
    special = {t.content for t in added if t.special}
    falls_back = bool(model.get("byte_fallback"))
    bytes_ = {f"<0x{b:02X}>" for b in range(256)} if falls_back else set()
    types = []
    for id_, (piece, _) in enumerate(vocab):
        if id_ == model["unk_id"]:
            types.append(UNKNOWN)
        elif piece in special:
            types.append(CONTROL)
        else:
            types.append(BYTE if piece in bytes_ else NORMAL)
    pieces = [piece for piece, _ in vocab]
    eos = "</s>" if "</s>" in special else None
    return (
        sentence_piece_model(
            pieces,
            [score for _, score in vocab],
            types,
            model_type="unigram",
            remove_extra_whitespaces=drops or splits,
            precompiled_charsmap=charsmap,
            eos_id=pieces.index(eos) if eos in pieces else -1,
        ),
        added,
        eos,
        splits,
    )


def _steps(settings: dict[str, Any] | None, inside: str) -> list[dict[str, Any]]:
    if settings is None:
        return []
    if settings["type"] == "Sequence":
        return [step for inner in settings[inside] for step in _steps(inner, inside)]
    return [settings]


def _normalizer(settings: dict[str, Any] | None) -> tuple[bytes, bool]:
    """SentencePiece's table, and whether spaces are dropped."""
    charsmap, drops = b"", False
    for step in _steps(settings, "normalizers"):
        if step["type"] == "Precompiled" and not charsmap:
            charsmap = base64.b64decode(step["precompiled_charsmap"] or "")
        elif step["type"] == "Replace" and step["pattern"] == {"Regex": " {2,}"}:
            if step["content"] not in (" ", SPACE):
                raise _refuse(f"spaces that become {step['content']!r}")
            drops = True
        elif step["type"] == "Strip" and step["strip_right"]:
            drops = True
        else:
            raise _refuse(f"the normalizer {step['type']!r}")
    return charsmap, drops


def _spaces(settings: dict[str, Any] | None) -> bool:
    """Whether text is split at white space; the rest must be Metaspace's."""
    steps = _steps(settings, "pretokenizers")
    kinds = [step["type"] for step in steps]
    if kinds not in (["WhitespaceSplit", "Metaspace"], ["Metaspace"]):
        raise _refuse(f"the pre-tokenizer {' and '.join(kinds) or None}")
    step = steps[-1]
    default = "always" if step.get("add_prefix_space", True) else "never"
    if step["replacement"] != SPACE or step.get("prepend_scheme", default) != "always":
        raise _refuse("Metaspace that does not put U+2581 before every text")
    return len(kinds) == 2


def _check_decoder(settings: dict[str, Any] | None) -> None:
    kinds = [step["type"] for step in _steps(settings, "decoders")]
    if kinds != ["Metaspace"]:
        raise _refuse(f"the decoder {' and '.join(kinds) or None}")


def _refuse(what: str) -> UnsupportedTokenizer:
    return UnsupportedTokenizer(
        f"a SentencePiece model cannot do {what}, which this tokenizer.json asks for; use the "
        "model that it was made from (spiece.model)"
    )
