"""Rules that classes of `transformers` take from tokenizer_config.json instead of tokenizer.json.

BertTokenizer builds its normalizer, and GPT2Tokenizer its pre-tokenizer, from keys of
tokenizer_config.json (or from defaults if a key is missing), whatever tokenizer.json says, both in
version 4.57 and in 5.24. If the two files differ, the model was trained with the former.
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
"""Name of a setting in the normalizer of tokenizer.json, and in tokenizer_config.json."""
_CASING_DEFAULTS = {"lowercase": True, "strip_accents": None, "handle_chinese_chars": True}
_BERTS = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
_GPT2S = ("GPT2Tokenizer",)


def with_class_rules(tokenizer_json: str, folder: Path) -> str:
    """Change a tokenizer.json to the rules of the class that tokenizer_config.json names.

    Args:
        tokenizer_json: Text of the file.
        folder: Folder of the file, with tokenizer_config.json.

    Raises:
        ValueError: If that class puts no space before a text, but tokenizer.json does.
    """
    settings = read_json_object(folder / "tokenizer_config.json")
    name = class_of(folder, settings)
    if name not in (*_BERTS, *_GPT2S, "LlamaTokenizer"):
        return tokenizer_json
    try:
        content = json.loads(tokenizer_json)
        changed = _changed(content, name, settings, folder)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError):
        return tokenizer_json  # whoever reads it reports what is wrong
    return json.dumps(content, ensure_ascii=False) if changed else tokenizer_json


def _changed(content: dict[str, Any], name: str, settings: dict[str, Any], folder: Path) -> bool:
    """Change a tokenizer.json to the rules of a class; returns whether it had other ones."""
    part, rules = "normalizer", {}
    if name in _BERTS:
        kind = "BertNormalizer"
        rules = {k: settings.get(CASING[k], default) for k, default in _CASING_DEFAULTS.items()}
    elif name in _GPT2S:
        part, kind = "pre_tokenizer", "ByteLevel"
        rules = {"add_prefix_space": bool(settings.get("add_prefix_space", False))}
    elif settings.get("add_prefix_space") is False and _puts_a_space(content):
        raise ValueError(
            f"{folder / 'tokenizer_config.json'}: add_prefix_space is false, but the "
            "tokenizer.json in that folder puts a space before every text; make them agree: have "
            "transformers write both, with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    step = content.get(part) or {}
    if not rules or step.get("type") != kind or all(step.get(k) == v for k, v in rules.items()):
        return False
    step.update(rules)
    return True


def _puts_a_space(content: dict[str, Any]) -> bool:
    """Whether a text of a SentencePiece tokenizer gets a space before it."""
    steps = [content.get("normalizer"), content.get("pre_tokenizer")]
    while steps:
        step = steps.pop() or {}
        steps += [*step.get("normalizers", ()), *step.get("pretokenizers", ())]
        if step.get("type") == "Prepend" or step.get("prepend_scheme") in ("always", "first"):
            return True
    return False
