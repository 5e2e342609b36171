"""A chat template as a program: compiled, and run in the sandbox with its bounds.

Importing this does not import TensorFlow.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2 import nodes

from tfllm.tokenizers.chat import conversation, template_sandbox
from tfllm.tokenizers.chat.template_sandbox import MOST_SOURCE, Refusal, Sandbox


class TemplateProgram:
    """A template with what it always sees, from checked messages to text.

    Args:
        source: the template.
        variables: what the template sees besides the messages, such as `bos_token`.

    Raises:
        ValueError: the source is no template, or asks for what it may not have.
    """

    def __init__(self, source: str, variables: Mapping[str, Any]) -> None:
        self.source = source
        self._variables = dict(variables)
        self._template = _compiled(source)

    def run(
        self,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
        *,
        marking: bool = False,
        now: datetime.datetime | None = None,
    ) -> str:
        """Render what is checked.

        Args:
            messages: the conversation, checked.
            add_generation_prompt: end with what comes before the assistant's next words.
            variables: others that the template knows, checked.
            marking: see `Sandbox.running`.
            now: the time that the template is told; default: the present.

        Raises:
            ValueError: the template refuses the conversation, or fails.
        """
        size = conversation.size(messages) + conversation.size(dict(variables))
        try:
            with _SANDBOX.running(size, now or template_sandbox.now(), marking=marking):
                return self._template.render(
                    **{
                        **self._variables,
                        "tools": None,
                        "documents": None,
                        **variables,
                        "messages": messages,
                        "add_generation_prompt": add_generation_prompt,
                    }
                )
        except Refusal as error:
            raise ValueError(f"the chat template refuses the conversation: {error}") from None
        except Exception as error:  # whatever a template may do
            raise ValueError(f"the chat template failed: {_reason(error)}") from None

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The variables, attributes and texts of the template."""
        parsed = _SANDBOX.parse(self.source)
        names = {node.name for node in parsed.find_all(nodes.Name)}
        names |= {node.attr for node in parsed.find_all(nodes.Getattr)}
        constants = (node.value for node in parsed.find_all(nodes.Const))
        return frozenset(names | {value for value in constants if isinstance(value, str)})


_SANDBOX = Sandbox()


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    if not isinstance(source, str):
        raise ValueError(f"a chat template must be text; received {type(source).__name__}")
    if len(source) > MOST_SOURCE:
        raise ValueError(
            f"a chat template must have at most {MOST_SOURCE:,} characters; received "
            f"{len(source):,}"
        )
    try:
        return _SANDBOX.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"the chat template is broken, line {error.lineno}: {error}") from None
    except Exception as error:  # nested too deeply for Python's own compiler
        raise ValueError(f"the chat template cannot be compiled: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateError):
        return str(error)
    return f"{type(error).__name__}: {error}"
