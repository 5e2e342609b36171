"""The models on disk and in memory: loads versions and follows changes of the folder."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfllm.serving.protocol.errors import ServingError, from_exception, invalid_argument
from tfllm.serving.protocol.model_config import (
    ModelPolicy,
    check_labels,
    model_folders,
    read_models_config,
    version_folders,
)
from tfllm.serving.server.servable import Servable

log = logging.getLogger("tfllm.serving")


@dataclass
class VersionStatus:
    """The state of a version, in the terms of TensorFlow Serving."""

    version: int
    state: str = "START"
    """START, LOADING, AVAILABLE, UNLOADING or END"""
    error_code: str = "OK"
    error_message: str = ""


@dataclass
class _Entry:
    """A version in memory, and the number of requests that use it."""

    servable: Servable
    users: int = 0


@dataclass
class _Model:
    folder: Path
    policy: ModelPolicy = field(default_factory=ModelPolicy)
    loaded: dict[int, _Entry] = field(default_factory=dict)
    statuses: dict[int, VersionStatus] = field(default_factory=dict)
    failed: dict[int, tuple] = field(default_factory=dict)
    """versions that could not be loaded, and their files: retried when the files change"""


class Repository:
    """The models in a folder.

    Args:
        base: the folder of `NAME/VERSION/`, or of `VERSION/` for a single model with the folder's
            name.
        load: function of name, version and folder to a servable that is ready to answer.
        labels: model name to label to version. They override those of `base/models.config`, and
            versions with such a label are served in addition to the others.
        allow_labels_for_unavailable: whether the labels of `models.config` may name versions that
            are not loaded yet.
        poll_seconds: time between two scans of the folder, in seconds.
    """

    def __init__(
        self,
        base: Path,
        load: Callable[[str, int, Path], Servable],
        *,
        labels: Mapping[str, Mapping[str, int]] | None = None,
        allow_labels_for_unavailable: bool = False,
        poll_seconds: float = 1.0,
    ) -> None:
        self._base = base
        self._load = load
        self._labels = labels or {}
        self._allow_labels = allow_labels_for_unavailable
        self._poll_seconds = poll_seconds
        self._models: dict[str, _Model] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._policies: dict[str, ModelPolicy] = {}
        self._config_seen: float | None = None
        self._last_problem = ""
        self._last_config_problem = ""

    # -------------------------------------------------------------- requests

    @contextmanager
    def acquire(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> Iterator[Servable]:
        """Keep a version in memory while the block runs.

        Args:
            name: name of the model.
            version: number of the version. Defaults to the newest.
            label: label of the version, instead of its number.

        Raises:
            ServingError: NOT_FOUND for a model or version that is not served, INVALID_ARGUMENT
                for an unknown label.
        """
        if not name:
            raise invalid_argument("ModelSpec has no name specified.")
        with self._changed:
            model = self._models.get(name)
            if label is not None:
                if model is None or label not in model.policy.labels:
                    raise invalid_argument(f"Unrecognized servable version label: {label}")
                version = model.policy.labels[label]
            loaded = model.loaded if model else {}
            number = max(loaded, default=None) if version is None else version
            entry = loaded.get(number) if number is not None else None
            if entry is None:
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise ServingError("NOT_FOUND", f"Servable not found for request: {wanted}")
            entry.users += 1
        try:
            yield entry.servable
        finally:
            with self._changed:
                entry.users -= 1
                self._changed.notify_all()

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """The states of the versions of a model, newest first.

        Args:
            name: name of the model.
            version: number of a version: only this one. Defaults to all that were ever to be
                served.

        Raises:
            ServingError: NOT_FOUND for a model or version that was never to be served.
        """
        with self._changed:
            model = self._models.get(name)
            statuses = dict(model.statuses) if model else {}
            if version is not None:
                if version not in statuses:
                    raise ServingError(
                        "NOT_FOUND", f"Could not find version {version} of model {name}"
                    )
                return [replace(statuses[version])]
            if not statuses:
                raise ServingError("NOT_FOUND", f"Could not find any versions of model {name}")
            return [replace(statuses[number]) for number in sorted(statuses, reverse=True)]

    def has(self, name: str) -> bool:
        """Whether the folder has or had a model of this name."""
        return name in self._models

    def served(self) -> dict[str, list[int]]:
        """Model name to the versions that are loaded, newest first."""
        with self._changed:
            return {n: sorted(m.loaded, reverse=True) for n, m in self._models.items() if m.loaded}

    # -------------------------------------------------------------- the folder

    def start(self) -> None:
        """Load the models, then follow the folder in a thread.

        Raises:
            ValueError: the folder has no model, none could be loaded, or `models.config` is wrong.
        """
        self.poll()
        if not self._models:
            raise ValueError(
                f"no model in {self._base}: it must hold NAME/VERSION/saved_model.pb with a whole "
                "number for VERSION; `tfllm export` writes one"
            )
        if not self.served():
            reasons = "; ".join(
                f"{name} version {s.version}: {s.error_code}: {s.error_message}"
                for name, model in self._models.items()
                for s in model.statuses.values()
            )
            raise ValueError(f"no model in {self._base} could be loaded: {reasons}")
        if self._policies:
            self._compare_with_config()
        for name, model in self._models.items():
            if not model.policy.wanted(model.statuses) & set(model.loaded):
                log.warning(
                    "no version of %s that is to be served could be loaded; TensorFlow Serving "
                    "would not start with such a folder",
                    name,
                )
        self._thread = threading.Thread(target=self._follow, name="tfllm-models", daemon=True)
        self._thread.start()

    def _compare_with_config(self) -> None:
        for name in sorted(set(self._models) - set(self._policies)):
            log.warning(
                "models.config does not list %s: TensorFlow Serving would not serve it", name
            )
        for name in sorted(set(self._policies) - set(self._models)):
            log.warning(
                "models.config lists %s, which has no version in %s: TensorFlow Serving would wait "
                "for one before it answers",
                name,
                self._base,
            )

    def stop(self, *, wait_for_load: bool = True) -> bool:
        """Stop following the folder and release the models; their requests must have ended.

        Args:
            wait_for_load: whether to wait for a version that is being loaded, which may take
                minutes.

        Returns:
            Whether no version is being loaded any more.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join(None if wait_for_load else 1.0)
        with self._changed:
            for model in self._models.values():
                model.loaded.clear()
        gc.collect()
        return self._thread is None or not self._thread.is_alive()

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.poll()
                self._last_problem = ""
            except Exception as error:  # the loaded versions are served although the disk fails
                if str(error) != self._last_problem:
                    log.error("cannot look for new versions in %s: %s", self._base, error)
                    self._last_problem = str(error)

    def poll(self) -> None:
        """Scan the folder once: load new versions, then unload those no longer to be served."""
        self._read_policies()
        folders = model_folders(self._base)
        for name, folder in folders.items():
            with self._changed:
                model = self._models.setdefault(name, _Model(folder))
                model.policy = self._policy(name)
            self._update(name, model)
        for name, model in self._models.items():
            # A model is unloaded if all its versions were removed, but not if it cannot be read.
            if name not in folders and model.loaded:
                self._update(name, model)

    def _policy(self, name: str) -> ModelPolicy:
        policy = self._policies.get(name, ModelPolicy())
        labels = self._labels.get(name, {})
        return replace(
            policy, labels={**policy.labels, **labels}, additional=frozenset(labels.values())
        )

    def _read_policies(self) -> None:
        path = self._base / "models.config"
        seen = path.stat().st_mtime if path.is_file() else None
        if seen == self._config_seen:
            return
        try:
            policies = read_models_config(path) if seen is not None else {}
            check_labels(
                policies, self.served(), self._policies, allow_unavailable=self._allow_labels
            )
        except ValueError as error:
            if self._thread is None:
                raise
            # Retried at every scan, because a version that a label needs may have been loaded.
            if str(error) != self._last_config_problem:
                log.error("%s; the last models.config stays in force", error)
                self._last_config_problem = str(error)
            return
        self._policies, self._config_seen, self._last_config_problem = policies, seen, ""

    def _update(self, name: str, model: _Model) -> None:
        folders = version_folders(model.folder) if model.folder.is_dir() else {}
        for version in list(model.failed):
            if model.failed[version] != _files(folders.get(version)):
                del model.failed[version]
        wanted = model.policy.wanted(folders)
        for version in sorted(wanted - set(model.loaded) - set(model.failed)):
            self._add(name, model, version, folders[version])
        # If no version that is to be served can be loaded, the newest one that can is served.
        keep = wanted & set(model.loaded)
        spares = sorted(
            set(folders) - wanted - set(model.failed),
            key=lambda version: (version in model.loaded, version),
            reverse=True,
        )
        for version in spares if wanted and not keep else ():
            if version in model.loaded or self._add(name, model, version, folders[version]):
                keep = {version}
                break
        for version in sorted(set(model.loaded) - keep):
            self._remove(name, model, version)

    def _add(self, name: str, model: _Model, version: int, folder: Path) -> bool:
        files = _files(folder)
        status = VersionStatus(version, "LOADING")
        with self._changed:
            model.statuses[version] = status
        log.info("loading %s version %d from %s", name, version, folder)
        try:
            servable = self._load(name, version, folder)
        except Exception as error:
            problem = from_exception(error)
            log.error("%s version %d cannot be served: %s", name, version, problem)
            with self._changed:
                status.state = "END"
                status.error_code, status.error_message = problem.code, problem.message
                model.failed[version] = files
            return False
        with self._changed:
            model.loaded[version] = _Entry(servable)
            status.state = "AVAILABLE"
            self._changed.notify_all()
        log.info("serving %s version %d", name, version)
        return True

    def _remove(self, name: str, model: _Model, version: int) -> None:
        with self._changed:
            entry = model.loaded.pop(version)
            status = model.statuses[version]
            status.state = "UNLOADING"

        def unload() -> None:
            with self._changed:
                self._changed.wait_for(lambda: entry.users == 0)
                status.state = "END"
            del entry.servable
            gc.collect()  # a restored object has reference cycles, and its weights are large
            log.info("unloaded %s version %d", name, version)

        # Its requests may take long, and the next version must not wait for them.
        threading.Thread(target=unload, name=f"tfllm-unload-{name}-{version}", daemon=True).start()


def _files(folder: Path | None) -> tuple:
    """A value that changes when files of a version are added, replaced or modified."""
    if folder is None or not folder.is_dir():
        return ()
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns))
    return (folder.stat().st_ino, tuple(found))
