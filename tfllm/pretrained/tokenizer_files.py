"""The tokenizer of a model folder or file, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tfllm.pretrained.hugging_face.sentence_modules import lowercases
from tfllm.pretrained.model_folder import existing, model_folder

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a model.

    Args:
        path: as of `load`.

    Raises:
        FileNotFoundError: the model has no tokenizer.
        ValueError: its tokenizer is damaged or of a kind that is not supported.
    """
    path = existing(model_folder(path, holds_model=False))
    if path.is_dir():
        tokenizer = find_tokenizer(path)
    else:
        from tfllm.pretrained.gguf.model import GGUFModel

        tokenizer = GGUFModel(path).tokenizer()
    if tokenizer is not None:
        return tokenizer
    if not path.is_dir():
        raise FileNotFoundError(f"{path} holds no tokenizer; convert the model anew with one")
    raise FileNotFoundError(
        f"{path} has no tokenizer.json and no tokenizer.model; have transformers write the "
        "tokenizer into it with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    )


def find_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in a model folder, if there is one: tokenizer.json or a file of SentencePiece.

    Raises:
        FileNotFoundError: the folder is one of a tokenizer whose files are not there.
        ValueError: it is damaged, of a kind that is not supported, or a pickle.
    """
    from tfllm.tokenizers import reading
    from tfllm.tokenizers.kinds.word_piece import WordPiece

    tokenizer = reading.find_tokenizer(folder)
    if isinstance(tokenizer, WordPiece) and lowercases(folder):
        return tokenizer.lowercased()
    return tokenizer
