"""Read the tokenizer in a folder or a file, whatever its kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfllm.files import read_json_object
from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.kinds.byte_pair import BytePairTokenizer
from tfllm.tokenizers.kinds.json_tokenizer import JsonTokenizer, read_tokenizer_json
from tfllm.tokenizers.kinds.marian import SOURCE, TARGET, MarianTokenizer
from tfllm.tokenizers.kinds.marian import VOCABULARY as VOCABULARY_JSON
from tfllm.tokenizers.kinds.metaspace import MetaspaceTokenizer
from tfllm.tokenizers.kinds.sentence_piece import FILES, SentencePieceTokenizer
from tfllm.tokenizers.kinds.unigram_json import UnigramTokenizer
from tfllm.tokenizers.kinds.word_piece import VOCABULARY, WordPiece
from tfllm.tokenizers.stored_tokenizer import MADE_FROM

TOKENIZER_FILES = ("tokenizer.json", *FILES, SOURCE, VOCABULARY)
"""Files from which a model folder's tokenizer is read; the first one that exists is used."""

BESIDE_TOKENIZERS = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "additional_chat_templates/*.jinja", TARGET, VOCABULARY_JSON),
    "merges.txt",
)
"""Other files that are read for a tokenizer, or that show which file is missing."""

# Unpickling runs any code that is in the file.
_PICKLES = ("tokenizer.pkl", "tokenizer.pickle", "tokenizer.bin", "tokenizer.pt")


# Files of other libraries' tokenizers, or of parts of a tokenizer.
_PARTS = (
    *("vocab.json", "merges.txt", "target.spm", "spm.model"),
    *("tokenizer.tiktoken", "vocab.tiktoken", "tekken.json", "added_tokens.json"),
)


def find_tokenizer(folder: Path) -> Tokenizer | None:
    """Read the tokenizer in a folder; None if there is none.

    Raises:
        FileNotFoundError: If other files show that there is one, but its own files are missing.
        ValueError: If it is damaged, a pickle, or of a kind that is not supported.
    """
    made_from = read_json_object(folder / "tokenizer_config.json").get(MADE_FROM)
    first = (made_from,) if made_from in FILES else ()
    for name in (*first, *TOKENIZER_FILES):
        if (folder / name).is_file():
            return read_tokenizer(folder / name)
    for name in _PICKLES:
        if (folder / name).exists():
            raise ValueError(
                f"{folder / name} is not opened, since loading a pickle runs any code in it. "
                "Have the library that wrote it write a tokenizer.json or a tokenizer.model"
            )
    named = read_json_object(folder / "tokenizer_config.json").get("tokenizer_class")
    found = [name for name in _PARTS if (folder / name).exists()]
    if named or found:
        raise FileNotFoundError(
            f"{folder} has {f'a tokenizer_config.json for a {named}' if named else found[0]}, but "
            f"none of the files that a tokenizer is read from: {', '.join(TOKENIZER_FILES)}"
            + (f" (there is {', '.join(found)})" if named and found else "")
            + ". Have transformers write a tokenizer.json into it, with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    return None


def read_tokenizer(file: Path) -> Tokenizer:
    """Read the tokenizer in a tokenizer.json, SentencePiece model, vocab.txt or source.spm.

    The other tokenizer files in the same folder are read, too.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or of a kind that is not supported.
    """
    if file.name == VOCABULARY:
        return WordPiece.load(file)
    if file.name == SOURCE:
        return MarianTokenizer.load(file)
    if file.suffix != ".json":
        return SentencePieceTokenizer.load(file)
    return _json_class(file).load(file)


def _json_class(file: Path) -> type[JsonTokenizer]:
    try:
        content = json.loads(read_tokenizer_json(file))
        model = content["model"]
        kind = model.get("type", "BPE" if "merges" in model else None)
        steps = [*_kinds(content.get("pre_tokenizer")), *_kinds(content.get("decoder"))]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not a tokenizer.json: {error!r}") from None
    if kind == "WordPiece":
        return WordPiece
    if kind not in ("BPE", "Unigram"):
        raise ValueError(
            f"{file}: the tokenizer's model must be BPE, Unigram or WordPiece; received {kind}"
        )
    if kind == "Unigram":
        return UnigramTokenizer
    return BytePairTokenizer if kind == "BPE" and "ByteLevel" in steps else MetaspaceTokenizer


def _kinds(step: dict[str, Any] | None) -> list[str]:
    """The types of a component of tokenizer.json and of the components inside it."""
    if step is None:
        return []
    inner = step.get("pretokenizers") or step.get("decoders") or []
    return [step["type"], *(kind for s in inner for kind in _kinds(s))]
