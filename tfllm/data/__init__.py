"""From text to rows of tokens: `prepare` writes shards, `rows_dataset` reads them.

TensorFlow is imported when `rows_dataset` is called, not before: preparing text needs none.
"""

from tfllm.data.packing import pack_rows
from tfllm.data.preparation import prepare
from tfllm.data.prepared import PreparedData
from tfllm.data.rows import rows_dataset, steps_per_epoch
from tfllm.data.sources import SourceFile, documents, find_files
from tfllm.data.token_rows import TokenRows

__all__ = [
    "PreparedData",
    "SourceFile",
    "TokenRows",
    "documents",
    "find_files",
    "pack_rows",
    "prepare",
    "rows_dataset",
    "steps_per_epoch",
]
