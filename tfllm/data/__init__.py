"""From text or examples to rows of tokens: `prepare` writes shards, `rows_dataset` reads them.

TensorFlow is imported when `rows_dataset` is called or a model's tokenizer is loaded, not before:
preparing text needs none.
"""

from tfllm.data.example_rows import ExampleRows
from tfllm.data.packing import pack_rows
from tfllm.data.preference_rows import PreferenceRows
from tfllm.data.preparation import prepare
from tfllm.data.prepared_data import PreferenceData, PreparedData, TaskData, open_data
from tfllm.data.prepared_once import prepared
from tfllm.data.rows import rows_dataset, steps_per_epoch
from tfllm.data.sources import SourceFile, documents, find_files
from tfllm.data.splits import RowBatch, Split
from tfllm.data.task_data_config import TaskDataConfig
from tfllm.data.task_rows import TaskRows
from tfllm.data.token_rows import TokenRows

__all__ = [
    "ExampleRows",
    "PreferenceData",
    "PreferenceRows",
    "PreparedData",
    "RowBatch",
    "SourceFile",
    "Split",
    "TaskData",
    "TaskDataConfig",
    "TaskRows",
    "TokenRows",
    "documents",
    "find_files",
    "open_data",
    "pack_rows",
    "prepare",
    "prepared",
    "rows_dataset",
    "steps_per_epoch",
]
