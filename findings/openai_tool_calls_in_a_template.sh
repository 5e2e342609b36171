#!/usr/bin/env bash
# OpenAI's messages with tool_calls, rendered by the chat template that transformers ships for Llama 4.
#
# One would expect apply_chat_template to take the messages that OpenAI's API gives and that data sets
# of calls of tools hold: `arguments` is a string of JSON there, and `tool_calls` may be an empty list.
#
# What happens, with transformers 5.24.0, jinja2 3.1.6 and Python 3.11:
# - The arguments come out as JSON inside JSON, "parameters": "{\"town\": \"Bern\"}", since the template
#   writes them with tojson; as an object, which OpenAI's format does not have, they come out right.
#   There is no error and no warning, and a model that learns from it answers with strings.
# - An assistant's message with `"tool_calls": []` is left out, words and all. With
#   `"tool_calls": null` it is there: apply_chat_template takes keys that are null away, but not lists
#   that are empty.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0 jinja2==3.1.6

"$folder/venv/bin/python" - <<'PYTHON'
import ast
import importlib.util
import json
import sys
from pathlib import Path

import jinja2
import tokenizers
import transformers

print("transformers", transformers.__version__, "jinja2", jinja2.__version__)
package = Path(importlib.util.find_spec("transformers").origin).parent
source = (package / "models/llama4/processing_llama4.py").read_text(encoding="utf-8")
template = next(
    ast.literal_eval(node.value)
    for node in ast.parse(source).body
    if isinstance(node, ast.Assign) and node.targets[0].id == "chat_template"
)
words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="?")


def rendered(**of_the_assistant):
    messages = [
        {"role": "user", "content": "Is it warm?"},
        {"role": "assistant", "content": "", **of_the_assistant},
        {"role": "user", "content": "And now?"},
    ]
    text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    print(of_the_assistant, "->", repr(text.partition("Is it warm?")[2]))
    return text


def call(arguments):
    function = {"name": "weather", "arguments": arguments}
    return [{"id": "call_1", "type": "function", "function": function}]


ok = True


def expect(what, holds):
    global ok
    print(("as described: " if holds else "CHANGED: ") + what)
    ok = ok and holds


arguments = {"town": "Bern"}
as_object = rendered(tool_calls=call(arguments))
as_text = rendered(tool_calls=call(json.dumps(arguments)))
expect("an object is written as an object", '"parameters": {"town": "Bern"}' in as_object)
expect("a string is written as JSON in JSON", r'"parameters": "{\"town\": \"Bern\"}"' in as_text)
said = "It is."
expect("null is as if the key was missing", said in rendered(content=said, tool_calls=None))
expect("with an empty list the words are gone", said not in rendered(content=said, tool_calls=[]))
sys.exit(not ok)
PYTHON
