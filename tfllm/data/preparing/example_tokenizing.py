"""Convert examples to token ids with a mask of the learned ones."""

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
"""ids, int64 [tokens], and the mask of learned ones, bool [tokens]"""


@dataclass(frozen=True)
class TokenizedExamples:
    """Examples as ids: one sequence each, or two for preferences, the chosen one first."""

    hashes: np.ndarray
    """`document_hash` of each example, uint64 [examples]"""
    num_bytes: np.ndarray
    """UTF-8 bytes of the learned text of each example, int64 [examples]"""
    index: np.ndarray
    """number of tokens and index of the first learned one, uint32 [sequences, 2]"""
    tokens: np.ndarray
    """the ids in the dtype of the shards, [sum of tokens]"""
    learned: np.ndarray
    """1 where the token is learned, uint8 [sum of tokens]"""
    nothing: list[str] = field(default_factory=list)
    """places of the examples that have nothing to learn and were left out"""
    bad: list[BadRecord] = field(default_factory=list)
    """errors of examples that cannot be used"""
    num_read: int = 0
    """number of characters of all examples"""


@dataclass(frozen=True)
class ExampleJob:
    """The tokenizing of examples, as a job for worker processes."""

    tokenizer: Tokenizer
    has_template: bool
    """whether prompts and responses are formatted with the tokenizer's chat template"""
    dtype: str
    """dtype of the ids"""
    seed: int
    """seed of `document_hash`"""

    def size(self, item: Example) -> int:
        """Number of characters of an example."""
        return item.size()

    def start(self) -> ExampleTokenizer:
        """Create the tokenizer that converts examples to `TokenizedExamples`."""
        return ExampleTokenizer(self)


class ExampleTokenizer:
    """Tokenizes batches of examples in this process.

    With a chat template, the template formats a conversation, and the assistant's tokens are
    learned, including the end of each turn (`ChatTemplate.encode_for_training`). An example of
    which the template would leave out something is refused (`TemplateCoverage`). Without a
    template, a prompt and its response become the prompt's ids, the response's and the end token,
    the last two of which are learned. A text becomes its ids and the end token, which are all
    learned. Text that looks like a special token is treated as text.

    An example whose learned messages are all empty has nothing to learn.

    The first token of a sequence is never learned, since no token precedes it; tokens after the
    last learned one are dropped, since they have no effect.
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
        """Tokenize examples; the errors of single examples are returned instead of raised.

        Raises:
            ValueError: the tokenizer gives ids outside its vocabulary.
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
        """A conversation in which no token of the prompt is learned."""
        pairs = zip(ids, prompt, strict=False)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(prompt)))
        return _trimmed(ids, [False] * same + list(learned[same:]))

    def _plain(self, messages: list[Message]) -> Sequence:
        """A sequence without a template: system message, prompt, response and end token."""
        *before, response = (message["content"] for message in messages)
        prompt = self._before("\n\n".join(before))
        answer = self._tokenizer.encode(response, parse_special=False, add_special=False)
        answer = [*answer, self._tokenizer.end_token_id]
        return _trimmed(prompt + answer, [False] * len(prompt) + [True] * len(answer))

    def _before(self, text: str) -> list[int]:
        """The ids of a text to be continued: with tokens that begin a text, without end token."""
        ids = self._tokenizer.encode(text, parse_special=False)
        return ids[:-1] if ids[-1:] == [self._tokenizer.end_token_id] else ids

    def _num_bytes(self, ids: np.ndarray, learned: np.ndarray) -> int:
        return len(self._tokenizer.decode(ids[learned].tolist()).encode())


def _says_something(message: Message) -> bool:
    """Whether a message is a learned one of the assistant that is not empty.

    Of an empty message only its end would be learned; an empty cell of a table means that the
    answer is missing.
    """
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
