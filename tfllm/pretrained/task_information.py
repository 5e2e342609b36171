"""The task that a model folder was made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfllm.config import ConfigError
from tfllm.files import read_json_object
from tfllm.pretrained.hugging_face.generation_settings import search_settings
from tfllm.pretrained.hugging_face.sentence_modules import has_modules, text_settings
from tfllm.pretrained.model_folder import model_folder
from tfllm.pretrained.replaced_folder import OURS


def task_of(path: str | Path) -> dict[str, Any] | None:
    """The name of the task and what it knows of its training records, as JSON.

    Args:
        path: as of `load`.

    Returns:
        `{"name": ..., "information": {...}}` as `save(task=...)` was given it; of a folder that
        others wrote, what its config.json tells of a classifier's labels or of sentence vectors,
        and that a Marian translates, with what `search_of` finds as `search`; None where nothing
        is known, as of a T5, which does what its text asks for.

    Raises:
        ValueError: tfllm.json or config.json is damaged.
    """
    folder = model_folder(path)
    if not folder.is_dir():
        return None
    task = read_json_object(folder / OURS).get("task")
    if task is not None:
        if not isinstance(task, dict) or not isinstance(task.get("name"), str):
            raise ValueError(
                f"{folder / OURS}: task must have a name and its information; received {task!r}"
            )
        information = dict(task.get("information") or {})
        if task["name"] == "embedding" and has_modules(folder):
            information = {**text_settings(folder), **information}
        return {**task, "information": information}
    if has_modules(folder):
        return {"name": "embedding", "information": text_settings(folder)}
    values = read_json_object(folder / "config.json")
    if "BertForSequenceClassification" in (values.get("architectures") or ()):
        from tfllm.pretrained.hugging_face.bert_config import read_labels

        labels = read_labels(values, str(folder / "config.json"))
        names = labels.get("label_names") or [f"LABEL_{i}" for i in range(labels["num_labels"])]
        return {"name": "classification", "information": {"labels": names}}
    # Ours may have learned any task in the shape of a Marian, and say none.
    if values.get("model_type") == "marian" and not (folder / OURS).exists():
        search = search_of(folder)
        return {"name": "translation", "information": {"search": search} if search else {}}
    return None


def trained_length(path: str | Path) -> int | None:
    """The sequence length that a model was trained with, where its folder says so.

    Args:
        path: as of `load`.
    """
    folder = model_folder(path)
    training = read_json_object(folder / OURS).get("training") if folder.is_dir() else None
    length = training.get("sequence_length") if isinstance(training, dict) else None
    return length if isinstance(length, int) else None


def search_of(folder: Path) -> dict[str, Any]:
    """How texts are searched in a model folder that others wrote, as fields of `SearchSettings`.

    As `transformers` reads it: from generation_config.json, and from config.json where there is
    no other. What is not said there, `num_beams` among it, is left to the task.
    """
    config = read_json_object(folder / "config.json")
    path = folder / "generation_config.json"
    has_own = path.exists()
    try:
        return search_settings(
            read_json_object(path) if has_own else config,
            is_config=not has_own,
            is_marian=config.get("model_type") == "marian",
        )
    except ConfigError as error:
        raise ConfigError(f"the search settings in {folder}: {error}") from None
