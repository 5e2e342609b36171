"""A small chat tokenizer, records for it, and the expected results, worked out by hand."""

import json

import numpy as np

from tests.data.documents import make_documents
from tfllm.tokenizers import BytePairTokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_tokenizer(template=CHATML):
    tokenizer = BytePairTokenizer.train(
        [*make_documents(60), "system\nuser\nassistant\n" * 20],
        320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )
    tokenizer.settings["chat_template"] = template
    if not template:
        del tokenizer.settings["chat_template"]
    return tokenizer


def by_hand(tokenizer, messages):
    """(ids, which are learned) of a conversation: what CHATML says, token by token.

    The first token is never learned, and what stands behind the last that is is left out.
    """
    start, end = tokenizer.token_id("<|im_start|>"), tokenizer.token_id("<|im_end|>")
    ids, learned = [], []
    for message in messages:
        own = message["role"] == "assistant"
        head = words(tokenizer, message["role"] + "\n")
        turn = words(tokenizer, message["role"] + "\n" + message["content"])
        assert turn[: len(head)] == head  # no token of this tokenizer crosses a line end
        ids += [start, *turn, end, *words(tokenizer, "\n")]
        learned += [False] * (1 + len(head)) + [own] * (len(turn) - len(head) + 1)
        learned += [False] * len(words(tokenizer, "\n"))
    return trimmed(ids, learned)


def trimmed(ids, learned):
    learned = [False, *learned[1:]]
    stop = max((i + 1 for i, own in enumerate(learned) if own), default=0)
    return ids[:stop], learned[:stop]


def words(tokenizer, text):
    return tokenizer.encode(text, parse_special=False)


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def conversations(count, seed=0, longest=12):
    """Records of messages, of one to three turns, a third with a system message."""
    texts = iter(make_documents(8 * count, seed, longest))
    records = []
    for i in range(count):
        messages = [system(next(texts))] if i % 3 == 0 else []
        for _ in range(1 + i % 3):
            messages += [user(next(texts)), assistant(next(texts))]
        records.append({"messages": messages})
    return records


def preferences(count, seed=0, longest=12):
    texts = iter(make_documents(3 * count, seed, longest))
    return [
        {"prompt": next(texts), "chosen": next(texts), "rejected": next(texts)}
        for _ in range(count)
    ]


def write_lines(path, records):
    lines = (r if isinstance(r, str) else json.dumps(r) for r in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def sequences(data, split):
    """(ids, learned) of each sequence, from the files, without the code under test."""
    tokens, learned, index = (
        np.concatenate([np.fromfile(f, dtype) for f in sorted(data.folder.glob(pattern))] or [[]])
        for pattern, dtype in (
            (f"{split}-0*.bin", "<u2"),
            (f"{split}-learned-*.bin", "u1"),
            (f"{split}-index-*.bin", "<u4"),
        )
    )
    start = 0
    for count, first in index.reshape(-1, 2).astype(int).tolist():
        ids, marks = tokens[start : start + count], learned[start : start + count] == 1
        assert marks.argmax() == first and marks[first]
        yield ids.tolist(), marks.tolist()
        start += count
    assert start == len(tokens) == len(learned)
