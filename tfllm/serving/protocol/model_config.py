"""Which versions of a model are served, and under which labels: `models.config` and its kin."""

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
    """What of a model is to be served."""

    latest: int | None = 1
    """the newest so many versions; None: all"""
    specific: frozenset[int] = frozenset()
    """these versions instead, where given"""
    labels: Mapping[str, int] = field(default_factory=dict)
    """label to version, one that is served or not"""
    besides: frozenset[int] = frozenset()
    """versions that are served besides the others"""

    def wanted(self, versions: Iterable[int]) -> set[int]:
        """Of the versions on disk, those to serve."""
        present = sorted(versions, reverse=True)
        if self.specific:
            chosen = set(self.specific)
        else:
            chosen = set(present if self.latest is None else present[: self.latest])
        return (chosen | self.besides) & set(present)


def version_folders(model: Path) -> dict[int, Path]:
    """The folders of `model` that are versions: those whose name is a whole number.

    Anything else, such as an export that is still being written beside, is no version.

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
    """Model name to folder: those in `base` that hold versions, or `base` itself if it does.

    Raises:
        ValueError: `base` is no folder, or is one version instead of what holds versions.
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
            f" received one version, {base}; give the folder above it, named for the model, with "
            "the version in a folder named by a whole number"
        )
    if version_folders(base):
        return {base.resolve().name: base}
    return {
        child.name: child
        for child in sorted(base.iterdir())
        if child.is_dir() and not child.name.startswith(".") and _holds_versions(child)
    }


def _holds_versions(folder: Path) -> bool:
    """A folder beside the models that cannot be read, such as lost+found, is none of them."""
    try:
        return bool(version_folders(folder))
    except OSError:
        return False


def read_models_config(path: Path) -> dict[str, ModelPolicy]:
    """The policies and labels of a TensorFlow Serving `models.config`, by model name.

    `base_path` is not followed: it names a place inside the container that the file is written for.

    Raises:
        ValueError: the file is not such a text proto, or one that TensorFlow Serving refuses.
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
    """What TensorFlow Serving refuses in a ModelConfig, "" if nothing."""
    platform, kind = model.model_platform, model.model_type
    path = model.base_path
    if not path.startswith("/") and "://" not in path:
        return f"base_path must be an absolute path or a URI; received {path!r}"
    if kind and platform:
        return "model_type and model_platform are given; leave the deprecated model_type out"
    if platform != "tensorflow" and kind != 1:  # ModelType.TENSORFLOW
        return f'model_platform must be "tensorflow"; received {platform!r}'
    policy = model.model_version_policy
    if policy.WhichOneof("policy_choice") == "specific" and not policy.specific.versions:
        return "its policy is specific and names no versions, so none would be served"
    return ""


def check_labels(
    policies: Mapping[str, ModelPolicy],
    loaded: Mapping[str, Iterable[int]],
    current: Mapping[str, ModelPolicy],
    *,
    allow_unavailable: bool,
) -> None:
    """TensorFlow Serving's rule for the labels of a `models.config`, applied before models load.

    A label may name only a version that is loaded already, of which there is none when a server
    starts. `--allow_version_labels_for_unavailable_models` lets a new label name any version; one
    that exists still moves only to a version that is loaded.

    Args:
        policies: of the file.
        loaded: model name to the versions that answer now.
        current: the policies in force, whose labels exist; none when a server starts.
        allow_unavailable: that flag.

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
                    f"{what}, which is not loaded; a label that exists moves only to a version "
                    "that is loaded: serve that version first, then move the label"
                )
            raise ValueError(
                f"{what}, which is not loaded: labels are checked before models load, so "
                "TensorFlow Serving refuses such a file when it starts, and so does this server. "
                "Start either with --allow_version_labels_for_unavailable_models=true, or leave "
                "version_labels out"
            )
