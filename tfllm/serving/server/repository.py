"""Models on disk and in memory: loads the wanted versions and follows the folder as it changes."""

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
    """Where a version stands, in TensorFlow Serving's words."""

    version: int
    state: str = "START"
    """START, LOADING, AVAILABLE, UNLOADING or END"""
    error_code: str = "OK"
    error_message: str = ""


@dataclass
class _Entry:
    """A version in memory and how many requests are on it."""

    servable: Servable
    users: int = 0


@dataclass
class _Model:
    folder: Path
    policy: ModelPolicy = field(default_factory=ModelPolicy)
    loaded: dict[int, _Entry] = field(default_factory=dict)
    statuses: dict[int, VersionStatus] = field(default_factory=dict)
    failed: dict[int, tuple] = field(default_factory=dict)
    """versions that could not be loaded, with the files they had: tried again when those change"""


class Repository:
    """The models below a folder.

    Args:
        base: holds `NAME/VERSION/`, or `VERSION/` for a single model that is named as the folder.
        load: name, version and folder to a servable that is ready to answer.
        labels: model name to label to version, over what `base/models.config` says. Versions
            with such a label are served besides the others.
        allow_labels_for_unavailable: let the labels of `models.config` name versions that are not
            loaded yet.
        poll_seconds: time between looks at the folder.
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
        """A version, kept in memory while the block runs; the newest if none is named.

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
        """The versions of a model that were ever wanted, newest first, or one of them.

        Raises:
            ServingError: NOT_FOUND.
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
        """Whether the folder has, or had, such a model."""
        return name in self._models

    def served(self) -> dict[str, list[int]]:
        """Model name to the versions that answer now, newest first."""
        with self._changed:
            return {n: sorted(m.loaded, reverse=True) for n, m in self._models.items() if m.loaded}

    # -------------------------------------------------------------- the folder

    def start(self) -> None:
        """Loads what is there, then follows the folder in a thread.

        Raises:
            ValueError: no model is there, or none could be loaded, or `models.config` is wrong.
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
        """Ends following and lets go of the models; requests on them must have ended.

        Args:
            wait_for_load: wait for a version that loads just now, which may take minutes.

        Returns:
            Whether nothing loads any more.
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
            except Exception as error:  # what is loaded keeps serving, whatever the disk does
                if str(error) != self._last_problem:
                    log.error("cannot look for new versions in %s: %s", self._base, error)
                    self._last_problem = str(error)

    def poll(self) -> None:
        """One look at the folder: loads what is new, then unloads what is no longer wanted."""
        self._read_policies()
        folders = model_folders(self._base)
        for name, folder in folders.items():
            with self._changed:
                model = self._models.setdefault(name, _Model(folder))
                model.policy = self._policy(name)
            self._update(name, model)
        for name, model in self._models.items():
            # A model whose every version was removed ends; a folder that cannot be read does not.
            if name not in folders and model.loaded:
                self._update(name, model)

    def _policy(self, name: str) -> ModelPolicy:
        policy = self._policies.get(name, ModelPolicy())
        labels = self._labels.get(name, {})
        return replace(
            policy, labels={**policy.labels, **labels}, besides=frozenset(labels.values())
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
            # Tried again at every look: a version that a label waits for may load meanwhile.
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
        # In place of a version that cannot be loaded, the newest that can keeps serving.
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
            gc.collect()  # a restored object is full of cycles, and its weights are large
            log.info("unloaded %s version %d", name, version)

        # Its requests may take long; the next version must not wait for them.
        threading.Thread(target=unload, name=f"tfllm-unload-{name}-{version}", daemon=True).start()


def _files(folder: Path | None) -> tuple:
    """What changes when files of a version are added, replaced or written on."""
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
