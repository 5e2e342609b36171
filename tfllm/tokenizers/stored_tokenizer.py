"""Base class of all tokenizers: the tokens that end a text, and the files of a model folder."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tfllm.files import read_json_object, write_file
from tfllm.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.tokenizer_graph import TokenizerGraph

GENERIC_CLASS = "PreTrainedTokenizerFast"
MADE_FROM = "made_from"
"""Key in tokenizer_config.json: the file that the tokenizer.json was made from, which is read."""
_CONFIG = "tokenizer_config.json"
_SPECIAL_TOKENS = "special_tokens_map.json"
# The names of the token that ends a document, for tokenizers that do not say which one does.
_END_TOKENS = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|im_end|>",
)
_BEGINS_OF_CLASSES = {
    "CodeGenTokenizer": "<|endoftext|>",
    "CohereTokenizer": "<BOS_TOKEN>",
    "GPT2Tokenizer": "<|endoftext|>",
    "GPTNeoXTokenizer": "<|endoftext|>",
    "GemmaTokenizer": "<bos>",
    "LlamaTokenizer": "<s>",
}
"""The bos_token of a tokenizer class whose files name none."""
_CLASSES_OF_MODELS: dict[Any, str] = {"bert": "BertTokenizer", "gpt2": "GPT2Tokenizer"}
"""The tokenizer class for a model_type whose files name none, if that class has rules of its own.
In version 5.24 no other class that is read here has such rules. (Version 4 uses LlamaTokenizer for
llama, which puts <s> before all texts, whatever tokenizer.json says.)"""


class StoredTokenizer(Tokenizer):
    """A tokenizer that is stored in a model folder.

    A subclass provides `token_id`, `token`, `save`, `encode_batch`, `encode_unbroken`,
    `_make_graph`, and either `_bytes` and `_text` or its own `decode`.
    Its `settings` are kept from loading to saving.
    """

    _generic_class: ClassVar[bool] = False
    """Whether a saved folder names the class of `transformers` that does what the files say, rather
    than one that has its own rules, as GPT2Tokenizer and LlamaTokenizer of version 5 have."""

    _inputs: ClassVar[list[str]] = ["input_ids", "attention_mask"]
    """The inputs that a model of `transformers` gets for a text."""

    def __init__(
        self, special_tokens: dict[str, int], vocab_size: int, end_token: str | None
    ) -> None:
        self.special_tokens = special_tokens
        self.vocab_size = vocab_size
        self.settings: dict[str, Any] = {}
        if end_token is not None and self.token_id(end_token) is None:
            raise ValueError(
                "end_token must be a token of the tokenizer; received "
                f"{end_token!r}, but its special tokens are {list(special_tokens)}"
            )
        self._end_token = end_token
        self._other_ends: tuple[int, ...] = ()

    def token(self, id_: int) -> str | None:
        """The token of an id; None if there is no such id."""
        raise NotImplementedError

    @property
    def target(self) -> Tokenizer:
        """See `Tokenizer`."""
        return self

    def special_id(self, name: str) -> int:
        """See `Tokenizer`."""
        token = self._special_token(name)
        id_ = None if token is None else self.token_id(token)
        if id_ is None:
            why = "" if token is None else f": {token!r} is not one of its tokens"
            raise ValueError(f"the tokenizer has no {name}{why}. Name it in tokenizer_config.json")
        return id_

    def _special_token(self, name: str) -> str | None:
        return token_content(self.settings.get(name))

    @property
    def end_token(self) -> str:
        """The token that ends a document.

        Raises:
                ValueError: If the tokenizer does not say which of its tokens that is.
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
        id_ = self.token_id(self.end_token)
        assert id_ is not None
        return id_

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The ids at which generation stops: `end_token_id`, and any others that
        generation_config.json or config.json named when the tokenizer was loaded."""
        return (self.end_token_id, *self._other_ends)

    def set_end_token_ids(self, ids: tuple[int, ...] | list[int]) -> None:
        """Set the ids at which texts end; the first of them ends documents."""
        self._end_token = self.token(ids[0])
        assert self._end_token is not None
        self._other_ends = tuple(ids[1:])

    def encode(
        self, text: str | bytes, *, parse_special: bool = True, add_special: bool = True
    ) -> list[int]:
        """See `Tokenizer`."""
        return self.encode_batch([text], parse_special=parse_special, add_special=add_special)[0]

    def encode_with_offsets(
        self, text: str | bytes, *, parse_special: bool = True, add_special: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """See `Tokenizer`."""
        raise ValueError(f"a {type(self).__name__} does not support offsets of its tokens")

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Convert ids to text; broken UTF-8 becomes U+FFFD, and unknown ids are skipped."""
        special = {} if skip_special else {i: t.encode() for t, i in self.special_tokens.items()}
        known = [i for i in map(int, ids) if 0 <= i < self.vocab_size]
        return self._text([special.get(i, self._bytes[i]) for i in known])

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
        """The bytes that each id stands for within a text."""
        raise NotImplementedError

    def _text(self, parts: Sequence[bytes]) -> str:
        """Join the bytes of tokens to a text."""
        raise NotImplementedError

    def graph(self) -> TokenizerGraph:
        """See `Tokenizer`."""
        return self._graph

    @functools.cached_property
    def _graph(self) -> TokenizerGraph:
        return self._make_graph()

    def _make_graph(self) -> TokenizerGraph:
        raise NotImplementedError

    def _read_beside(self, folder: Path) -> None:
        """Read the settings and the end tokens from the files of a model folder."""
        self.settings = read_settings(folder)
        if self.settings.get("model_input_names") == self._inputs:
            del self.settings["model_input_names"]
        begin = _begin_of_class(folder, self.settings)
        if begin is not None and self.token_id(begin) is not None:
            self.settings["bos_token"] = begin
        if self._generic_class and "tokenizer_class" in self.settings:
            self.settings["tokenizer_class"] = GENERIC_CLASS
        named = self.settings.pop("eos_token", None)
        content = token_content(named)
        first = None if content is None else self.token_id(content)
        ends = [] if first is None else [first]
        for name in ("generation_config.json", "config.json"):
            ids = read_json_object(folder / name).get("eos_token_id")
            ids = ids if isinstance(ids, list) else [ids]
            ids = [i for i in ids if isinstance(i, int) and i >= 0 and self.token(i) is not None]
            if ids:
                ends += ids
                break
        if ends:
            self.set_end_token_ids(list(dict.fromkeys(ends)))

    def written_settings(self) -> dict[str, Any]:
        """The settings to write to tokenizer_config.json, without the end token: `settings`, in a
        form that every version of `transformers` reads in the same way."""
        settings = dict(self.settings)
        extra = settings.get("extra_special_tokens")
        if isinstance(extra, list):  # as in version 5; version 4 expects an object
            del settings["extra_special_tokens"]
            if extra:
                settings["additional_special_tokens"] = extra
        # With the class that is written, version 4 would also give models token types.
        settings.setdefault("model_input_names", self._inputs)
        return settings

    def _write_beside(self, folder: Path) -> None:
        """Write tokenizer_config.json, and keep its other entries."""
        settings = read_json_object(folder / _CONFIG) or {"tokenizer_class": GENERIC_CLASS}
        settings |= self.written_settings()
        with contextlib.suppress(ValueError):  # a tokenizer without an end token can be saved too
            settings["eos_token"] = self.end_token
        write_file(folder / _CONFIG, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size})"


def read_settings(folder: Path) -> dict[str, Any]:
    """Read tokenizer_config.json, and the special tokens and chat templates of other files.

    As in `transformers`, special_tokens_map.json takes precedence over tokenizer_config.json, and
    is not read if tokenizer_config.json lists `added_tokens_decoder`.

    Raises:
        ValueError: If one of the files is damaged, a special token is not valid, or special tokens
            are to be split like other text.
    """
    settings = read_json_object(folder / _CONFIG)
    if settings.get("split_special_tokens"):
        raise ValueError(
            f"{folder / _CONFIG}: split_special_tokens must be false; received "
            f"{settings['split_special_tokens']!r}. Special tokens in a text are always "
            "recognized; to split those of one text, encode it with parse_special=False"
        )
    if "added_tokens_decoder" not in settings:
        settings |= _special_tokens(folder / _SPECIAL_TOKENS)
    template = folder / "chat_template.jinja"  # its place since transformers 4.51
    if template.is_file():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    others = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    if others:
        named = {path.stem: path.read_text(encoding="utf-8") for path in others}
        if template.is_file():
            named["default"] = settings["chat_template"]
        settings["chat_template"] = named
    return settings


def class_of(folder: Path, settings: dict[str, Any]) -> str:
    """The class of `transformers` for a folder's tokenizer, without "Fast"; "" if unknown.

    Args:
        folder: The folder.
        settings: Contents of its tokenizer_config.json.
    """
    model = read_json_object(folder / "config.json")
    names = (settings.get("tokenizer_class"), model.get("tokenizer_class"))
    named = next((name for name in names if name), _CLASSES_OF_MODELS.get(model.get("model_type")))
    return str(named or "").removesuffix("Fast")


def _begin_of_class(folder: Path, settings: dict[str, Any]) -> str | None:
    """The default bos_token of a class of `transformers`, if the files do not name one."""
    name = class_of(folder, settings)
    if "bos_token" in settings or name not in _BEGINS_OF_CLASSES:
        return None
    if name == "LlamaTokenizer":  # version 5 uses another class for byte-level tokenizers
        rules = read_json_object(folder / "tokenizer.json").get("pre_tokenizer")
        if "ByteLevel" in json.dumps(rules):
            return None
    return _BEGINS_OF_CLASSES[name]


def _special_tokens(file: Path) -> dict[str, Any]:
    """Read special_tokens_map.json: tokens, objects with `content`, or lists of them."""
    named = read_json_object(file)
    for name, value in named.items():
        every = value if isinstance(value, list) else [value]
        if isinstance(value, dict) and name == "extra_special_tokens":
            every = list(value.values())
        wrong = [token for token in every if token is not None and token_content(token) is None]
        if wrong:
            raise ValueError(
                f"{file}: {name} must be a token, or an object with its content; received "
                f"{wrong[0]!r}"
            )
    return named


def token_content(token: Any) -> str | None:
    """The content of a token in tokenizer_config.json: a string, or an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
