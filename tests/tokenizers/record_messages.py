"""Record what `transformers` makes of messages in the forms that data sets use.

`chat_templates/messages.json` holds, for some templates, conversations with keys that are null,
text parts, reasoning under several names, tools, and tool calls: their text, their ids, and which
of these are the assistant's. `test_chat_template.py` compares. It was made with Python 3.11 and
transformers 5.24.0, which the tests do not need:

    python -m venv /tmp/transformers
    /tmp/transformers/bin/pip install transformers==5.24.0 jinja2
    /tmp/transformers/bin/python tests/tokenizers/record_messages.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from conversations import BEGIN_AND_END, MESSAGES, TOOLS, without_generation_tags

FOLDER = Path(__file__).parent / "chat_templates"


def record(name: str, messages: list[dict[str, Any]], tools: Any) -> dict[str, Any]:
    from transformers import PreTrainedTokenizerFast

    begin, end = BEGIN_AND_END[name]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(FOLDER / "tokenizer.json"), bos_token=begin, eos_token=end
    )
    marked = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    plain = without_generation_tags(marked)
    text = tokenizer.apply_chat_template(messages, tools=tools, chat_template=plain, tokenize=False)
    known = tokenizer.apply_chat_template(
        messages,
        tools=tools,
        chat_template=marked,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    learned = [i for i, is_learned in enumerate(known["assistant_masks"]) if is_learned]
    return {"text": text, "ids": known["input_ids"], "learned": learned}


def main() -> None:
    recorded = {
        f"{name}: {case}": record(name, messages, TOOLS if has_tools else None)
        for case, (names, messages, has_tools) in MESSAGES.items()
        for name in names
    }
    lines = json.dumps(recorded, ensure_ascii=True, separators=(",", ":"))
    (FOLDER / "messages.json").write_text(lines + "\n", encoding="utf-8")
    for case, entry in recorded.items():
        print(case, repr(entry["text"]))


if __name__ == "__main__":
    main()
