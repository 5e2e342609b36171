"""A tokenizer.json with a Unigram model, as in T5, mBART and XLM-R."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models

from tfllm.tokenizers.kinds.metaspace import MetaspaceTokenizer

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.unigram_graph import UnigramGraph

# Prefix that hides special tokens in the vocabulary that text is cut into.
_HIDDEN = "\ufdd0 \ufdd0"


class UnigramTokenizer(MetaspaceTokenizer):
    """Unigram tokenizer, with the same ids as in the library `tokenizers`.

    There is one difference. The library's model treats a special token as a piece like any other,
    and may find it where it should stay text, or where other characters are normalized to it. Here
    it is text in these cases.

    For arguments and errors see `JsonTokenizer`.

    Examples:

    >>> from tokenizers import SentencePieceUnigramTokenizer
    >>> from tfllm.tokenizers import UnigramTokenizer
    >>> library = SentencePieceUnigramTokenizer()
    >>> library.train_from_iterator(
    ...     ["to be or not to be"], vocab_size=20, show_progress=False, unk_token="<unk>",
    ...     special_tokens=["<unk>", "</s>"])
    >>> tokenizer = UnigramTokenizer(library.to_str())
    >>> tokenizer.decode(tokenizer.encode("to be"))
    'to be'
    """

    _models = (models.Unigram,)

    def _encoding_json(self) -> str:
        content = json.loads(self._json)
        special = {token.content: id_ for id_, token in self._added_tokens.items() if token.special}
        vocab = content["model"]["vocab"]
        hidden = [i for i, (piece, _) in enumerate(vocab) if piece in special]
        for i in hidden:
            vocab[i][0] = f"{_HIDDEN}{i}"
        if not hidden:
            return self._json
        # Without these pieces in the vocabulary the added tokens get different ids.
        bare = json.dumps({**content, "post_processor": None})
        numbers = {
            token.content: id_
            for id_, token in Tokenizer.from_str(bare).get_added_tokens_decoder().items()
        }
        unknown = content["model"].get("unk_id")
        self._own = {i: unknown for i in hidden} if unknown is not None else {}
        own = {token.content: id_ for id_, token in self._added_tokens.items()}
        self._own |= {number: own[text] for text, number in numbers.items()}
        renumbered = {own[text]: number for text, number in numbers.items()}
        content["post_processor"] = _renumbered(content.get("post_processor"), renumbered)
        return json.dumps(content)

    def _own_ids(self, ids: list[int]) -> list[int]:
        own = self._own
        return [own.get(id_, id_) for id_ in ids] if own else ids

    def _make_graph(self) -> UnigramGraph:  # type: ignore[override]
        from tfllm.tokenizers.graph.unigram_graph import UnigramGraph
        from tfllm.tokenizers.specification.unigram_specification import read_unigram_specification

        specification = read_unigram_specification(self._json, self._added_tokens)
        return UnigramGraph(specification, self._bytes, self._leading)


def _renumbered(part: Any, numbers: dict[int, int]) -> Any:
    """A post-processor of tokenizer.json with its ids replaced."""
    if isinstance(part, list):
        return [_renumbered(inner, numbers) for inner in part]
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind in ("BertProcessing", "RobertaProcessing"):
        changed = {n: [part[n][0], numbers.get(part[n][1], part[n][1])] for n in ("sep", "cls")}
        return {**part, **changed}
    if kind == "TemplateProcessing":
        tokens = {
            name: {**token, "ids": [numbers.get(id_, id_) for id_ in token["ids"]]}
            for name, token in part["special_tokens"].items()
        }
        return {**part, "special_tokens": tokens}
    return {name: _renumbered(inner, numbers) for name, inner in part.items()}
