"""Write the README's table of tasks from the registry of tasks.

python -m tests.readme
"""

from __future__ import annotations

import re
from pathlib import Path

from tfllm.tasks.registry import TaskRow, task_rows

README = Path(__file__).parents[1] / "README.md"
SECTION = re.compile(r"(?<=<!-- tasks -->\n).*(?=<!-- /tasks -->)", re.DOTALL)
RECORDS = {
    "text": "`text`, or files of text",
    "examples": "`messages`, or `prompt` and `response`",
    "preference": "`prompt`, `chosen`, `rejected`",
}
MODELS = {
    "ModelConfig": "decoder",
    "EncoderConfig": "encoder",
    "EncoderDecoderConfig": "encoder-decoder",
}


def table() -> str:
    """The table, in Markdown."""
    lines = ["| task | what the model learns | a record | model |", "| --- | --- | --- | --- |"]
    lines += [
        f"| [{row.name}](docs/tasks/{row.name}.md) | {row.purpose.rstrip('.')} | {_record(row)} | "
        f"{MODELS[row.config]} |"
        for row in task_rows()
    ]
    return "\n".join(lines) + "\n"


def _record(row: TaskRow) -> str:
    if row.records in RECORDS:
        return RECORDS[row.records]
    inputs, outputs = (", ".join(f"`{n}`" for n in names) for names in (row.inputs, row.outputs))
    return f"{inputs} → {outputs}" if outputs else inputs


def main() -> None:
    """Write the table into the README."""
    text = README.read_text(encoding="utf-8")
    README.write_text(SECTION.sub(lambda match: table(), text), encoding="utf-8")


if __name__ == "__main__":
    main()
