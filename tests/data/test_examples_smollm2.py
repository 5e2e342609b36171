"""Examples for SmolLM2-135M-Instruct, with the tokenizer and the template in its GGUF file."""

import pytest

from tests.data.chat_examples import assistant, system, user, write_lines
from tfllm.config import PrepareConfig
from tfllm.tasks import prepare

pytestmark = pytest.mark.slow

DEFAULT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
EXAMPLES = [
    {"prompt": "Name 12 cats.", "response": "1. Tom\n\n2. <|im_end|>\n\n3. 猫 🙂"},
    {"messages": [system("Be brief."), user("Hi"), assistant("Hello."), user("Why?")]},
    {"messages": [user(" a "), assistant(" b "), user("c"), assistant("d\n")]},
    {"instruction": "Add.", "input": "2 + 2", "output": "4"},
]
# What the template writes, with what is learned between guillemets.
WRITTEN = [
    f"[S]system\n{DEFAULT}[E]\n[S]user\nName 12 cats.[E]\n"
    "[S]assistant\n«1. Tom\n\n2. <|im_end|>\n\n3. 猫 🙂[E]»",
    "[S]system\nBe brief.[E]\n[S]user\nHi[E]\n[S]assistant\n«Hello.[E]»",
    f"[S]system\n{DEFAULT}[E]\n[S]user\n a [E]\n[S]assistant\n« b [E]»\n"
    "[S]user\nc[E]\n[S]assistant\n«d\n[E]»",
    f"[S]system\n{DEFAULT}[E]\n[S]user\nAdd.\n\n2 + 2[E]\n[S]assistant\n«4[E]»",
]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_replies_alone_are_learned_whatever_they_spell(tmp_path, smollm2_file, processes):
    config = PrepareConfig(
        tokenizer=str(smollm2_file), num_processes=processes, validation_fraction=0
    )
    source = write_lines(tmp_path / "a.jsonl", EXAMPLES)
    data = prepare(source, tmp_path / "out", config, show_progress=False)
    start, end = (data.tokenizer.token_id(token) for token in ("<|im_start|>", "<|im_end|>"))
    names = {start: "[S]", end: "[E]"}
    inputs, labels, weights = data.train.batch(range(data.train.num_rows(400)), 400)
    written = []
    for tokens, segments, following, learned in zip(
        inputs["token_ids"], inputs["segment_ids"], labels, weights, strict=True
    ):
        for number in range(1, segments.max() + 1):
            (places,) = (segments == number).nonzero()
            stretches = [[[int(tokens[places[0]])], False]]
            for label, own in zip(following[places].tolist(), learned[places] == 1, strict=True):
                if own != stretches[-1][1]:
                    stretches.append([[], own])
                stretches[-1][0].append(label)
            text = ""
            for ids, own in stretches:
                told = said(data.tokenizer, ids, names)
                text += f"«{told}»" if own else told
            written.append(text)
    assert sorted(written) == sorted(WRITTEN)


def said(tokenizer, ids, names):
    """The text of ids, special tokens by their names: those that are words stay words."""
    text, held = "", []
    for id_ in [*ids, None]:
        if id_ is None or id_ in names:
            text += tokenizer.decode(held, skip_special=False) + names.get(id_, "")
            held = []
        else:
            held.append(id_)
    return text
