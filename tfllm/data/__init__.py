"""From records to rows of tokens: `prepare_data` writes shards, `rows_dataset` reads them.

TensorFlow is imported only when `rows_dataset` is called or a model's tokenizer is loaded;
preparing text does not need it.
"""

from tfllm.data.preparation import prepare_data, prepared
from tfllm.data.reading.sources import SourceFile, documents, find_files
from tfllm.data.shards.example_rows import ExampleRows
from tfllm.data.shards.packing import pack_rows
from tfllm.data.shards.preference_rows import PreferenceRows
from tfllm.data.shards.prepared_data import PreferenceData, PreparedData, TaskData, open_data
from tfllm.data.shards.rows_dataset import rows_dataset, steps_per_epoch
from tfllm.data.shards.splits import RowBatch, Split
from tfllm.data.shards.task_rows import TaskRows
from tfllm.data.shards.token_rows import TokenRows

__all__ = [
    "ExampleRows",
    "PreferenceData",
    "PreferenceRows",
    "PreparedData",
    "RowBatch",
    "SourceFile",
    "Split",
    "TaskData",
    "TaskRows",
    "TokenRows",
    "documents",
    "find_files",
    "open_data",
    "pack_rows",
    "prepare_data",
    "prepared",
    "rows_dataset",
    "steps_per_epoch",
]
