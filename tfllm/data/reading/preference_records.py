"""Read records that are preferences: a prompt with a chosen and a rejected reply.

`{"prompt": ..., "chosen": ..., "rejected": ...}`: strings, or lists of messages (or a single
message without the list). `chosen` and `rejected` may begin with the prompt, and `prompt` may then
be missing: their common beginning is the prompt, in whole messages, or in whole words of strings.
HH-RLHF's strings, `"\\n\\nHuman: ...\\n\\nAssistant: ..."`, are conversations. Other names of the
prompt, and further keys, are those of examples (`tfllm.data.reading.example_records`).
"""

from __future__ import annotations

from tfllm.data.reading.conversation_strings import common_words, stripped
from tfllm.data.reading.example import Example
from tfllm.data.reading.example_records import ExampleReader, checked_start
from tfllm.data.reading.json_records import BadRecord, keys_of
from tfllm.data.reading.record_keys import RecordView


class PreferenceReader(ExampleReader):
    """Converts records to preferences; see `ExampleReader`."""

    def _is_left_out(self, given: RecordView) -> bool:
        if given.names("label") and not self._is_true(given, "label"):
            raise BadRecord(
                given.where,
                f": {given.names('label')[0]!r} is false, but with chosen and rejected that does "
                "not say which reply is the better one; if it means the rejected one, swap them, "
                "and leave it out",
            )
        return super()._is_left_out(given)

    def _read(self, given: RecordView) -> Example:
        where = given.where
        for key in ("chosen", "rejected"):
            if not given.names(key):
                raise BadRecord(
                    where,
                    f" has no key {key!r}; a preference has prompt, chosen and rejected; its keys "
                    f"are: {keys_of(given.value)}",
                )
        variables = self._variables(given)
        chosen, rejected = (self._reply(*given.pick(key), where) for key in ("chosen", "rejected"))
        asked = self._asked(given)
        of_a_prompt = ("input", "context", "history") if asked is None else ()
        given.refuse_beside("chosen", "reasoning", *of_a_prompt)
        plain = all(given.is_string(key) for key in ("chosen", "rejected"))
        if asked is not None:
            prompt, plain = asked.messages, plain and asked.form == "string"
            if asked.form == "transcript":
                chosen, rejected = stripped(chosen), stripped(rejected)
        elif given.names("messages"):
            name, value = given.pick("messages")
            prompt, plain = self._messages(value, name, where), False
        elif plain and len(chosen) == len(rejected) == 1:
            prompt, chosen, rejected = common_words(chosen[0], rejected[0])
            if self._has_template:  # which writes its own separators
                chosen, rejected = stripped(chosen), stripped(rejected)
        else:
            plain, shared = False, 0
            while chosen[shared : shared + 1] == rejected[shared : shared + 1] != []:
                shared += 1
            prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt:
            raise BadRecord(where, " has no prompt: add one, or begin both replies with it")
        chosen, rejected = (
            reply[len(prompt) :] if reply[: len(prompt)] == prompt else reply
            for reply in (chosen, rejected)
        )
        plain = plain and len(chosen) == len(rejected) == 1
        for key, reply in (("chosen", chosen), ("rejected", rejected)):
            if not reply or reply[0]["role"] != "assistant" or reply[-1]["role"] != "assistant":
                roles = ", ".join(message["role"] for message in reply) or "nothing"
                raise BadRecord(
                    where,
                    f": after the prompt, {key} must begin and end with the assistant's words; "
                    f"received {roles}",
                )
        prompt = self._with_system(given, checked_start(prompt, where))
        return Example(
            where,
            (prompt + chosen, prompt + rejected),
            num_prompt=len(prompt),
            plain=plain and not variables,
            variables=variables,
        )
