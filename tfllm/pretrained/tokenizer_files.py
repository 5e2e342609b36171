"""Load the tokenizer of a model folder or file, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tfllm.pretrained.hugging_face.sentence_modules import lowercases
from tfllm.pretrained.model_folder import existing, model_folder

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load the tokenizer of a model.

    Args:
        path: See `load`.

    Raises:
        FileNotFoundError: If the model has no tokenizer.
        ValueError: If its tokenizer is damaged or of a kind that is not supported.
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
        raise FileNotFoundError(f"{path} contains no tokenizer; convert the model again with one")
    raise FileNotFoundError(
        f"{path} has no tokenizer.json and no tokenizer.model; have transformers write the "
        "tokenizer into it with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    )


def find_tokenizer(folder: Path) -> Tokenizer | None:
    """Load the tokenizer in a model folder, if there is one.

    Raises:
        FileNotFoundError: If other files show that there is one, but its own files are missing.
        ValueError: If it is damaged, of a kind that is not supported, or a pickle.
    """
    from tfllm.tokenizers import reading
    from tfllm.tokenizers.kinds.word_piece import WordPiece

    tokenizer = reading.find_tokenizer(folder)
    if isinstance(tokenizer, WordPiece) and lowercases(folder):
        return tokenizer.lowercased()
    return tokenizer
