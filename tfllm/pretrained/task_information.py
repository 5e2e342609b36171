"""Read which task a model folder was made for."""

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
    """The name of the task of a model, and what it stored about its training records, as JSON.

    Args:
        path: See `load`.

    Returns:
        `{"name": ..., "information": {...}}` as given to `save(task=...)`. For a folder that others
        wrote: the labels of a classifier or the settings of sentence vectors in its files, or that
            a
        Marian translates, with the result of `search_of` as `search`. None if nothing is known, as
        for a T5, which does what its text asks for.

    Raises:
        ValueError: If tfllm.json or config.json is damaged.
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
    # One that tfllm wrote may have learned any task in the form of a Marian, without naming it.
    if values.get("model_type") == "marian" and not (folder / OURS).exists():
        search = search_of(folder)
        return {"name": "translation", "information": {"search": search} if search else {}}
    return None


def trained_length(path: str | Path) -> int | None:
    """The sequence length that a model was trained with; None if its folder does not say.

    Args:
        path: See `load`.
    """
    folder = model_folder(path)
    training = read_json_object(folder / OURS).get("training") if folder.is_dir() else None
    length = training.get("sequence_length") if isinstance(training, dict) else None
    return length if isinstance(length, int) else None


def search_of(folder: Path) -> dict[str, Any]:
    """Read the search settings of a model folder that others wrote, as fields of `SearchSettings`.

    As in `transformers`, they are read from generation_config.json, or from config.json if there is
    no such file. What these do not specify, including `num_beams`, is left to the task.
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
