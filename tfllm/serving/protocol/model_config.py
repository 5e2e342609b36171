"""Which versions of a model are served and under which labels: folders and `models.config`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfllm.path_kinds import instead_of

log = logging.getLogger("tfllm.serving")

MAX_VERSION = 2**63 - 1


@dataclass(frozen=True)
class ModelPolicy:
    """Which versions of a model are to be served."""

    latest: int | None = 1
    """number of newest versions to serve; None for all"""
    specific: frozenset[int] = frozenset()
    """versions to serve instead, if there are any"""
    labels: Mapping[str, int] = field(default_factory=dict)
    """label to version, which may also be one that is not served"""
    additional: frozenset[int] = frozenset()
    """versions that are served in addition to the others"""

    def wanted(self, versions: Iterable[int]) -> set[int]:
        """The versions to serve, out of those on disk."""
        present = sorted(versions, reverse=True)
        if self.specific:
            chosen = set(self.specific)
        else:
            chosen = set(present if self.latest is None else present[: self.latest])
        return (chosen | self.additional) & set(present)


def version_folders(model: Path) -> dict[int, Path]:
    """Version number to folder: the folders in `model` whose name is a whole number.

    Anything else, such as an export that is being written, is ignored.

    Raises:
        OSError: the folder cannot be read.
    """
    found: dict[int, Path] = {}
    for child in sorted(model.iterdir()):
        name = child.name
        if name.isascii() and name.isdigit() and int(name) <= MAX_VERSION and child.is_dir():
            found.setdefault(int(name), child)
    return found


def model_folders(base: Path) -> dict[str, Path]:
    """Model name to folder: the folders in `base` that have versions, or `base` itself if it has.

    Raises:
        ValueError: `base` is not a folder, or it is a version instead of a folder of versions.
        OSError: the folder cannot be read.
    """
    if not base.is_dir():
        what = "it is a file" if base.exists() else "it does not exist"
        raise ValueError(
            f"the folder of models must exist; received {base}, and {what}: "
            "tfllm export RUN saved_models/NAME writes one"
        )
    if message := instead_of(base, "exported"):
        raise ValueError(message)
    if (base / "saved_model.pb").exists():
        raise ValueError(
            f"the folder of models must hold NAME/VERSION/saved_model.pb or VERSION/saved_model.pb;"
            f" received a version, {base}; give the folder above it, which must have the model's "
            "name, and the version's folder a whole number as its name"
        )
    if version_folders(base):
        return {base.resolve().name: base}
    return {
        child.name: child
        for child in sorted(base.iterdir())
        if child.is_dir() and not child.name.startswith(".") and _holds_versions(child)
    }


def _holds_versions(folder: Path) -> bool:
    """Whether a folder has versions. One that cannot be read, such as lost+found, has none."""
    try:
        return bool(version_folders(folder))
    except OSError:
        return False


def read_models_config(path: Path) -> dict[str, ModelPolicy]:
    """Read the policies and labels of a TensorFlow Serving `models.config`.

    `base_path` is ignored, because it is a path inside the container that the file is meant for.

    Returns:
        Model name to its policy.

    Raises:
        ValueError: the file is not such a text proto, or TensorFlow Serving refuses it.
    """
    from google.protobuf import text_format

    try:
        from tensorflow_serving.config import model_server_config_pb2
    except ImportError:
        log.warning(
            "%s is not read: install tensorflow-serving-api (pip install 'tfllm[serve]')", path
        )
        return {}
    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a models.config of TensorFlow Serving: {error}") from None
    policies: dict[str, ModelPolicy] = {}
    for model in config.model_config_list.config:
        if (problem := _problem(model)) or model.name in policies:
            problem = problem or "it is listed more than once"
            raise ValueError(
                f"{path}: TensorFlow Serving refuses the model {model.name!r}: {problem}"
            )
        latest: int | None = 1
        policy = model.model_version_policy
        choice = policy.WhichOneof("policy_choice")
        if choice == "all":
            latest = None
        elif choice == "latest":
            latest = policy.latest.num_versions or 1
        specific = policy.specific.versions if choice == "specific" else ()
        policies[model.name] = ModelPolicy(latest, frozenset(specific), dict(model.version_labels))
    return policies


def _problem(model: Any) -> str:
    """Why TensorFlow Serving refuses a ModelConfig; "" if it does not."""
    platform, kind = model.model_platform, model.model_type
    path = model.base_path
    if not path.startswith("/") and "://" not in path:
        return f"base_path must be an absolute path or a URI; received {path!r}"
    if kind and platform:
        return "both model_type and model_platform are set; remove the deprecated model_type"
    if platform != "tensorflow" and kind != 1:  # ModelType.TENSORFLOW
        return f'model_platform must be "tensorflow"; received {platform!r}'
    policy = model.model_version_policy
    if policy.WhichOneof("policy_choice") == "specific" and not policy.specific.versions:
        return "its policy is specific without versions, so none would be served"
    return ""


def check_labels(
    policies: Mapping[str, ModelPolicy],
    loaded: Mapping[str, Iterable[int]],
    current: Mapping[str, ModelPolicy],
    *,
    allow_unavailable: bool,
) -> None:
    """Apply TensorFlow Serving's rule for the labels of a `models.config`, before models load.

    A label may only name a version that is loaded; when a server starts, none is. With
    `--allow_version_labels_for_unavailable_models`, a new label may name any version, but a label
    that exists may still be moved only to a version that is loaded.

    Args:
        policies: model name to its policy in the file.
        loaded: model name to the versions that are loaded.
        current: model name to its policy in force; empty when a server starts.
        allow_unavailable: the value of that flag.

    Raises:
        ValueError: a label breaks the rule.
    """
    for name, policy in policies.items():
        existing = current[name].labels if name in current else {}
        for label, version in policy.labels.items():
            if version in loaded.get(name, ()):
                continue
            moves = label in existing and existing[label] != version
            if allow_unavailable and not moves:
                continue
            what = f"models.config gives the label {label!r} of {name} to version {version}"
            if moves and allow_unavailable:
                raise ValueError(
                    f"{what}, which is not loaded; a label that exists can be moved only to a "
                    "version that is loaded: serve that version first, then move the label"
                )
            raise ValueError(
                f"{what}, which is not loaded: labels are checked before models load, so "
                "TensorFlow Serving refuses such a file when it starts, and so does this server. "
                "Start either with --allow_version_labels_for_unavailable_models=true, or leave "
                "version_labels out"
            )
