"""Files that are prepared only once, for the task that their records imply."""

from tfllm.config import PrepareConfig
from tfllm.data import prepared as prepared_for
from tfllm.tasks.choosing import task_of_records


def prepared(source, into, config=None, **options):
    """What becomes of files in `into`."""
    config = config or PrepareConfig()
    task = task_of_records(source, config)
    return prepared_for(task, source, into, task.prepare_config(config), **options)
