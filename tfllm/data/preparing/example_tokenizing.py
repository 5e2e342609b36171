"""Examples to token ids, with a mark on each that is learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tfllm.data.preparing.document_tokenizing import check_ids
from tfllm.data.preparing.splitting import document_hash
from tfllm.data.reading.conversation_strings import Message
from tfllm.data.reading.example import Example
from tfllm.data.reading.json_records import BadRecord
from tfllm.data.reading.record_keys import MESSAGE_REASONING
from tfllm.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from tfllm.tokenizers.chat.chat_template import ChatTemplate
    from tfllm.tokenizers.chat.template_coverage import TemplateCoverage

Sequence = tuple[np.ndarray, np.ndarray]
"""int64 [tokens]: ids; bool [tokens]: which of them are learned"""


@dataclass(frozen=True)
class TokenizedExamples:
    """Some examples: each one sequence of tokens, or (preferences) two, the chosen one first."""

    hashes: np.ndarray
    """uint64 [examples]: `document_hash` of each"""
    num_bytes: np.ndarray
    """int64 [examples]: UTF-8 bytes of what is learned of each"""
    index: np.ndarray
    """uint32 [sequences, 2]: tokens of each, and which of them is the first that is learned"""
    tokens: np.ndarray
    """[sum of tokens]: the ids, in the shards' type"""
    learned: np.ndarray
    """uint8 [sum of tokens]: 1 where the token is learned"""
    nothing: list[str] = field(default_factory=list)
    """where examples stand that have nothing to learn, and that were left out"""
    bad: list[BadRecord] = field(default_factory=list)
    """what was wrong with others"""
    num_read: int = 0
    """characters of all"""


@dataclass(frozen=True)
class ExampleJob:
    """What a process has to know to tokenize examples."""

    tokenizer: Tokenizer
    has_template: bool
    """prompts and responses are put into the tokenizer's chat template"""
    dtype: str
    """of the ids"""
    seed: int
    """of `document_hash`"""

    def size(self, item: Example) -> int:
        """Characters of an example."""
        return item.size()

    def start(self) -> ExampleTokenizer:
        """What makes `TokenizedExamples` of examples."""
        return ExampleTokenizer(self)


class ExampleTokenizer:
    """Tokenizes batches of examples in this process.

    With a chat template, a conversation is written as the template has it, and the assistant's
    tokens are learned, the end of each turn included (`ChatTemplate.encode_for_training`). What the
    template would leave out makes an example a bad one (`TemplateCoverage`). Without a template, a
    prompt and its response become the prompt's ids, the response's, and the end token, and the last
    two are learned. A text is its ids and the end token, all learned. Words that spell a special
    token are words.

    An example whose learned messages are all empty has nothing to learn.

    The first token of a sequence is never learned, as there is none before it; tokens behind the
    last that is learned are dropped, as nothing follows from them.
    """

    def __init__(self, job: ExampleJob) -> None:
        self._job = job
        self._tokenizer = job.tokenizer
        self._template: ChatTemplate | None = None
        self._coverage: TemplateCoverage | None = None
        if job.has_template:
            from tfllm.tokenizers.chat.chat_template import ChatTemplate
            from tfllm.tokenizers.chat.template_coverage import TemplateCoverage

            self._template = ChatTemplate.of(job.tokenizer)
            self._coverage = TemplateCoverage(self._template)

    def __call__(self, examples: list[Example]) -> TokenizedExamples:
        """The ids of some examples; what is wrong with one is told and not raised.

        Raises:
            ValueError: the tokenizer gives ids that are not its own.
        """
        hashes, num_bytes, sequences = [], [], []
        nothing: list[str] = []
        bad: list[BadRecord] = []
        for example in examples:
            try:
                made = self._sequences(example)
            except ValueError as error:
                bad.append(BadRecord(example.where, f": {error}"))
                continue
            if not all(learned.any() for _, learned in made):
                nothing.append(example.where)
                continue
            if len(made) == 2 and np.array_equal(made[0][0], made[1][0]):
                nothing.append(example.where)  # neither reply is better
                continue
            hashes.append(document_hash(example.key(), self._job.seed))
            num_bytes.append(sum(self._num_bytes(*sequence) for sequence in made))
            sequences += made
        tokens = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in sequences)])
        check_ids(tokens, self._tokenizer)
        return TokenizedExamples(
            np.asarray(hashes, np.uint64),
            np.asarray(num_bytes, np.int64),
            np.asarray(
                [[len(ids), int(learned.argmax())] for ids, learned in sequences], np.uint32
            ).reshape(-1, 2),
            tokens.astype(self._job.dtype),
            np.concatenate([np.zeros(0, np.uint8), *(learned for _, learned in sequences)]),
            nothing,
            bad,
            sum(example.size() for example in examples),
        )

    def _sequences(self, example: Example) -> list[Sequence]:
        if example.text is not None:
            if not example.text or example.text.isspace():
                return [(np.zeros(0, np.int64), np.zeros(0, bool))]
            ids = [*self._before(example.text), self._tokenizer.end_token_id]
            return [_trimmed(ids, [True] * len(ids))]
        if not example.num_prompt and not any(map(_says_something, example.conversations[0])):
            return [(np.zeros(0, np.int64), np.zeros(0, bool))]
        if self._template is None or self._coverage is None:
            return [self._plain(messages) for messages in example.conversations]
        variables = example.variables
        made = [self._coverage.fitted(messages, variables) for messages in example.conversations]
        encoded = [self._template.encode_for_training(m, **variables) for m in made]
        if not example.num_prompt:
            return [_trimmed(*sequence) for sequence in encoded]
        shared = made[0][: example.num_prompt]
        prompt = self._template.encode(shared, add_generation_prompt=True, **variables)
        return [self._reply(*sequence, prompt) for sequence in encoded]

    def _reply(self, ids: list[int], learned: list[bool], prompt: list[int]) -> Sequence:
        """A conversation of which nothing is learned that stands in the prompt."""
        pairs = zip(ids, prompt, strict=False)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(prompt)))
        return _trimmed(ids, [False] * same + list(learned[same:]))

    def _plain(self, messages: list[Message]) -> Sequence:
        """Without a template: a system message, the prompt, the response and the end token."""
        *before, response = (message["content"] for message in messages)
        prompt = self._before("\n\n".join(before))
        answer = self._tokenizer.encode(response, parse_special=False, add_special=False)
        answer = [*answer, self._tokenizer.end_token_id]
        return _trimmed(prompt + answer, [False] * len(prompt) + [True] * len(answer))

    def _before(self, text: str) -> list[int]:
        """The ids of a text that goes on: with the tokens that begin one, without the end token."""
        ids = self._tokenizer.encode(text, parse_special=False)
        return ids[:-1] if ids[-1:] == [self._tokenizer.end_token_id] else ids

    def _num_bytes(self, ids: np.ndarray, learned: np.ndarray) -> int:
        return len(self._tokenizer.decode(ids[learned].tolist()).encode())


def _says_something(message: Message) -> bool:
    """Whether a message is of the assistant, learned, and not empty: of an empty one only the end
    would be learned, and an empty cell of a table is an answer that is missing."""
    if message["role"] != "assistant" or not message.get("weight", 1):
        return False
    words = (message.get(key) or "" for key in ("content", *MESSAGE_REASONING))
    return bool(message.get("tool_calls")) or any(not word.isspace() for word in words if word)


def _trimmed(ids: list[int], learned: list[bool]) -> Sequence:
    marks = np.asarray(learned, bool)
    marks[:1] = False
    (places,) = np.nonzero(marks)
    end = int(places[-1]) + 1 if len(places) else 0
    return np.asarray(ids[:end], np.int64), marks[:end]
