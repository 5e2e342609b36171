"""Record what `transformers` makes of conversations with the templates in `chat_templates/`.

`recorded.json` holds each conversation as text, its ids by `tokenizer.json` (a small byte-level
tokenizer), and which of these are the assistant's: `transformers` reports them for templates that
mark the assistant's words, as those here do. The last part is the template in SmolLM2's GGUF file.
It was made with Python 3.11, transformers 5.24.0, jinja2 3.1.6, tokenizers 0.23.3 and gguf 0.19.0,
which the tests do not need:

    python -m venv /tmp/transformers
    /tmp/transformers/bin/pip install transformers==5.24.0 jinja2 gguf
    /tmp/transformers/bin/python tests/tokenizers/record_chat_templates.py SmolLM2.gguf
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from conversations import (
    BEGIN_AND_END,
    CONVERSATIONS,
    OTHER_ADDED_TOKENS,
    SPECIAL_TOKENS,
    TOOL_CONVERSATION,
    TOOLS,
    VARIABLES,
    WORDS,
    without_generation_tags,
)

FOLDER = Path(__file__).parent / "chat_templates"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PROSE = " ".join([*WORDS, "system user assistant tool You help with short answers. Be kind."])


def train(file: Path) -> None:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PROSE, PROSE.lower()] * 3, trainer)
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in OTHER_ADDED_TOKENS])
    tokenizer.save(str(file))


def record(name: str) -> dict[str, Any]:
    from transformers import PreTrainedTokenizerFast

    begin, end = BEGIN_AND_END[name]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(FOLDER / "tokenizer.json"), bos_token=begin, eos_token=end
    )
    marked = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer.chat_template = without_generation_tags(marked)
    variables = VARIABLES.get(name, {})
    found: dict[str, Any] = {}
    cases = {key: (messages, {}) for key, messages in CONVERSATIONS.items()}
    if name == "qwen2_5":
        cases["tools"] = (TOOL_CONVERSATION, {"tools": TOOLS})
    if name == "qwen3":
        cases["no thoughts"] = (CONVERSATIONS["1 turns"], {"enable_thinking": False})
    for key, (messages, more) in cases.items():
        options = {**variables, **more}

        def rendered(prompt: bool, messages: Any = messages, options: Any = options) -> str:
            return tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompt, **options
            )

        try:
            text = rendered(False)
        except Exception as error:
            found[key] = {"error": f"{type(error).__name__}: {error}"}
            continue
        entry = {"text": text, "prompt": rendered(True)}
        entry["ids"] = tokenizer.apply_chat_template(messages, return_dict=True, **options)[
            "input_ids"
        ]
        known = tokenizer.apply_chat_template(
            messages,
            chat_template=marked,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **options,
        )
        assert known["input_ids"] == entry["ids"], (name, key)
        mask = known["assistant_masks"]
        entry["learned"] = [i for i, is_learned in enumerate(mask) if is_learned]
        found[key] = entry
    return found


def record_smollm2(file: str) -> dict[str, Any]:
    import gguf
    from transformers.utils.chat_template_utils import render_jinja_template

    field = gguf.GGUFReader(file).fields["tokenizer.chat_template"]
    template = bytes(field.parts[field.data[0]]).decode()
    texts = {
        key: [
            render_jinja_template([messages], chat_template=template, add_generation_prompt=prompt)[
                0
            ][0]
            for prompt in (False, True)
        ]
        for key, messages in CONVERSATIONS.items()
    }
    return {"sha256": hashlib.sha256(template.encode()).hexdigest(), "texts": texts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("smollm2", help="the GGUF file of SmolLM2-135M-Instruct")
    options = parser.parse_args()
    train(FOLDER / "tokenizer.json")
    recorded = {name: record(name) for name in BEGIN_AND_END}
    recorded["SmolLM2"] = record_smollm2(options.smollm2)
    lines = json.dumps(recorded, ensure_ascii=True, separators=(",", ":"))
    (FOLDER / "recorded.json").write_text(lines + "\n", encoding="utf-8")
    for name, entries in recorded.items():
        errors = {k: e["error"] for k, e in entries.items() if "error" in e}
        print(name, len(entries), errors)


if __name__ == "__main__":
    main()
