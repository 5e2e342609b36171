"""Chat: from conversations to replies, with the same functions locally and served."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfllm.config import GenerationConfig
from tfllm.generation.decoding import Decoder
from tfllm.generation.option_inputs import option_specs, row_tensors
from tfllm.generation.stop_strings import StopHold
from tfllm.models.causal_lm import CausalLM
from tfllm.tasks.graph_method import graph_method, text_input
from tfllm.tasks.language_model.request_rows import (
    SampledRows,
    checked,
    row_options,
    stream_options,
)
from tfllm.tasks.language_model.text_generation import TextGeneration
from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.chat.chat_template import ChatTemplate, Messages
from tfllm.tokenizers.chat.conversation import TEMPLATE_FILE, check_last
from tfllm.tokenizers.chat.prompt_form import NoPromptForm, PromptForm, prompt_form
from tfllm.tokenizers.chat.prompt_form_graph import prompts


class Chat(TextGeneration):
    """A text generation model whose tokenizer has a chat template.

    `reply` and `stream_reply` are for Python. In addition to those of `TextGeneration`, there are
    the signatures

        chat_prompt: like `generate`, but `prompt` is a conversation formatted by
            `ChatTemplate.prompt`, which escapes text that looks like a special token.
        chat: like `generate`, but with `system` (empty: none) and `user` instead of `prompt`: the
            graph formats the prompt for a single question. It only exists if the template inserts
            the messages between fixed texts; otherwise `no_chat_reason` gives the reason.

    A reply also ends at the token that the template writes after the assistant's words.

    Args:
        model: as in `TextGeneration`.
        tokenizer: tokenizer of the model, with a chat template.
        generation: generation options that are used if none are given.

    Raises:
        ValueError: as in `TextGeneration`; or the tokenizer has no chat template, or one that
            cannot be used.

    Examples:
        >>> import tfllm
        >>> tokenizer = tfllm.BytePairTokenizer.train(["Hello! How are you?"], vocab_size=300)
        >>> tokenizer.settings["chat_template"] = (
        ...     "{% for m in messages %}{{ m.role }}: {{ m.content }}\\n{% endfor %}"
        ...     "{% if add_generation_prompt %}assistant: {% endif %}"
        ... )
        >>> config = tfllm.ModelConfig(vocab_size=300, embedding_dim=16, num_layers=1, num_heads=2)
        >>> chat = tfllm.Chat(tfllm.CausalLM(config, seed=0), tokenizer)
        >>> reply = chat.reply([{"role": "user", "content": "Hello!"}], max_new_tokens=5)
        >>> isinstance(reply, str)
        True
    """

    def __init__(
        self,
        model: CausalLM | Decoder,
        tokenizer: Tokenizer,
        generation: GenerationConfig | None = None,
        *,
        name: str = "chat",
    ) -> None:
        super().__init__(model, tokenizer, generation, name=name)
        self.template = ChatTemplate.of(tokenizer)
        ends = list(tokenizer.end_token_ids)
        if (end := self.template.end_of_turn) is not None:
            ends.append(tokenizer.special_tokens[end])
        self._end_token_ids = tf.constant(list(dict.fromkeys(ends)), tf.int32)
        self.form: PromptForm | None = None
        self.no_chat_reason = ""
        try:
            self.form = prompt_form(self.template)
        except NoPromptForm as error:
            self.no_chat_reason = str(error)

    # ------------------------------------------------------------------ for Python

    def reply(
        self,
        messages: Messages | Sequence[Messages],
        *,
        variables: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Generate the next reply of the assistant.

        Args:
            messages: a conversation, or a list of several. A message is
                `{"role": "user", "content": "Hello"}`; the last one must not be the assistant's.
            variables: other variables of the template, such as `tools` or `enable_thinking`.
            options: fields of `GenerationConfig`, as for `generate`.

        Returns:
            The reply without special tokens, or a list of replies for several conversations; if any
            num_samples is above 1, each is a list of samples.

        Raises:
            ValueError: a conversation is malformed, refused by the template, or too long; or an
                option is unknown or out of range.
        """
        task, options = self._with_fixed(options)
        if task is not self:
            assert isinstance(task, Chat)
            return task.reply(messages, variables=variables, **options)
        single = not (isinstance(messages, list | tuple) and messages) or not isinstance(
            messages[0], list | tuple
        )
        conversations: Any = [messages] if single else messages
        rows = [self._prompt(conversation, variables) for conversation in conversations]
        given = row_options(self.generation, len(rows), options)
        if not rows:
            return []
        if any(g.searches for g in given):
            words = self._decoding.beams.best_texts(self._graph.tokenize_unbroken, rows, given)
        else:
            samples = SampledRows(given)
            result = self._chat_prompt(prompt=samples.repeated(rows), **samples.options())
            words = samples.texts(result)
        return words[0] if single else words

    def stream_reply(
        self, messages: Messages, *, variables: Mapping[str, Any] | None = None, **options: Any
    ) -> Iterator[str]:
        """Generate the next reply piece by piece; joined, the pieces are the text of `reply`.

        Arguments and errors are those of `reply`, for one conversation and one sample.
        """
        task, options = self._with_fixed(options)
        if task is not self:
            assert isinstance(task, Chat)
            return task.stream_reply(messages, variables=variables, **options)
        prompt = self._prompt(messages, variables)
        given = stream_options(self.generation, options)
        state = self.chat_stream_begin(prompt=tf.constant([prompt]), **row_tensors([given]))
        return self._pieces(checked(state), StopHold(given.stop))

    def _prompt(self, messages: Messages, variables: Mapping[str, Any] | None) -> bytes:
        text = self.template.prompt(messages, **(variables or {}))
        check_last(messages)
        return text.encode("utf-8", "surrogatepass")

    # ------------------------------------------------------------------ in the graph

    @property
    def served_state(self) -> dict[str, Any]:
        """The state of `TextGeneration`, and the function that begins the stream of a reply."""
        return {**super().served_state, "chat_stream_begin": self.chat_stream_begin}

    def extra_files(self) -> dict[str, str]:
        """The chat template, for clients and servers."""
        return {TEMPLATE_FILE: self.template.to_json()}

    def warmup_requests(self, texts: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        """Warm-up requests for each signature."""
        requests = super().warmup_requests(texts)
        options = self._warmup_options(len(texts))
        with contextlib.suppress(ValueError):  # the template may need more than a question
            asked = [self.template.prompt([{"role": "user", "content": t}]) for t in texts]
            requests.append(("chat_prompt", {"prompt": tf.constant(asked), **options}))
        if "chat" in self.signatures:
            words = {"system": tf.fill([len(texts)], ""), "user": tf.constant(list(texts))}
            requests.append(("chat", {**words, **options}))
        return requests

    @property
    def signatures(self) -> dict[str, Any]:
        """`tf.function`s by name: those of `TextGeneration`, `chat_prompt` and possibly `chat`."""
        functions = {**super().signatures, "chat_prompt": self._chat_prompt}
        if self.form is not None:
            functions["chat"] = self._chat
        return functions

    @graph_method(text_input("prompt"), *option_specs())
    def _chat_prompt(
        self,
        prompt: tf.Tensor,
        **options: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        return self._decoding.continued(self._graph.tokenize_unbroken(prompt), options)

    @graph_method(text_input("system"), text_input("user"), *option_specs())
    def _chat(
        self,
        system: tf.Tensor,
        user: tf.Tensor,
        **options: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        ids, refused = self.question_ids(system, user)
        return self._decoding.continued(ids, options, refused)

    def question_ids(self, system: tf.Tensor, user: tf.Tensor) -> tuple[tf.RaggedTensor, tf.Tensor]:
        """The prompts of the signature `chat`.

        Args:
            system, user: messages, string `[B]`.

        Returns:
            Token ids, int32 `[B, (P)]`, and errors of rows, or "", string `[B]`.
        """
        assert self.form is not None
        text, refused = prompts(self.form, self.template.special_tokens, system, user)
        return self._graph.tokenize_unbroken(text), refused

    @graph_method(text_input("prompt", 1), *option_specs(batch=1))
    def chat_stream_begin(self, prompt: tf.Tensor, **options: tf.Tensor) -> dict[str, tf.Tensor]:
        """Like `stream_begin`, but with a prompt as for `chat_prompt`."""
        return self._decoding.first_token(self._graph.tokenize_unbroken(prompt), options)
