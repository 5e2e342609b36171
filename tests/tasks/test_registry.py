"""The table of tasks in the README, and the pages of docs/tasks, are those of the registry."""

from tests.readme import README, SECTION, table
from tfllm.tasks import TASKS
from tfllm.tasks.registry import task_rows


def test_the_readme_has_the_table_that_the_registry_gives():
    found = SECTION.search(README.read_text(encoding="utf-8"))
    assert found and found[0] == table(), "python -m tests.readme writes the table anew"


def test_each_task_says_what_it_is_and_what_a_record_has():
    rows = task_rows()
    assert [row.name for row in rows] == list(TASKS)
    assert all(row.purpose.endswith(".") for row in rows)
    assert all(row.inputs or row.records != "columns" for row in rows)


def test_each_task_has_a_page_with_its_columns():
    for row in task_rows():
        page = (README.parent / f"docs/tasks/{row.name}.md").read_text(encoding="utf-8")
        assert f"--task {row.name} " in page or row.records in ("text", "examples", "preference")
        assert [name for name in (*row.inputs, *row.outputs) if f"| `{name}` |" not in page] == []
