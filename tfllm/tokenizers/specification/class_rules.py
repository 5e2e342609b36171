"""Rules of a tokenizer.json that classes of `transformers` take from tokenizer_config.json instead.

BertTokenizer makes its normalizer, and GPT2Tokenizer its pre-tokenizer, of keys of
tokenizer_config.json (or of defaults, where there is no such key), whatever tokenizer.json says;
versions 4.57 and 5.24 alike. Where the two files differ, the model was trained with the former.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfllm.files import read_json_object
from tfllm.tokenizers.stored_tokenizer import class_of

CASING = {
    "lowercase": "do_lower_case",
    "strip_accents": "strip_accents",
    "handle_chinese_chars": "tokenize_chinese_chars",
}
"""what the normalizer of tokenizer.json calls a setting, and what tokenizer_config.json does"""
_CASING_DEFAULTS = {"lowercase": True, "strip_accents": None, "handle_chinese_chars": True}
_BERTS = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
_GPT2S = ("GPT2Tokenizer",)


def with_class_rules(tokenizer_json: str, folder: Path) -> str:
    """A tokenizer.json with what the class that is named beside it has otherwise.

    Args:
        tokenizer_json: its text.
        folder: where it lies, with tokenizer_config.json.

    Raises:
        ValueError: that class puts no space before a text, and tokenizer.json does.
    """
    settings = read_json_object(folder / "tokenizer_config.json")
    name = class_of(folder, settings)
    if name not in (*_BERTS, *_GPT2S, "LlamaTokenizer"):
        return tokenizer_json
    try:
        content = json.loads(tokenizer_json)
        changed = _changed(content, name, settings, folder)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError):
        return tokenizer_json  # who reads it says what is wrong
    return json.dumps(content, ensure_ascii=False) if changed else tokenizer_json


def _changed(content: dict[str, Any], name: str, settings: dict[str, Any], folder: Path) -> bool:
    """Give a tokenizer.json the rules of a class; whether it had others."""
    part, rules = "normalizer", {}
    if name in _BERTS:
        kind = "BertNormalizer"
        rules = {k: settings.get(CASING[k], default) for k, default in _CASING_DEFAULTS.items()}
    elif name in _GPT2S:
        part, kind = "pre_tokenizer", "ByteLevel"
        rules = {"add_prefix_space": bool(settings.get("add_prefix_space", False))}
    elif settings.get("add_prefix_space") is False and _puts_a_space(content):
        raise ValueError(
            f"{folder / 'tokenizer_config.json'}: add_prefix_space is false, and the "
            "tokenizer.json beside it puts a space before every text; make the two agree: have "
            "transformers write both, with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    step = content.get(part) or {}
    if not rules or step.get("type") != kind or all(step.get(k) == v for k, v in rules.items()):
        return False
    step.update(rules)
    return True


def _puts_a_space(content: dict[str, Any]) -> bool:
    """Whether a text of SentencePiece's kind gets a space before it."""
    steps = [content.get("normalizer"), content.get("pre_tokenizer")]
    while steps:
        step = steps.pop() or {}
        steps += [*step.get("normalizers", ()), *step.get("pretokenizers", ())]
        if step.get("type") == "Prepend" or step.get("prepend_scheme") in ("always", "first"):
            return True
    return False
