"""The texts of the files that deploy models on TensorFlow Serving, and the numbers in them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SERVING_VERSION = "2.20.0"
"""the newest released image of TensorFlow Serving, and what `tfllm check` checks for"""


@dataclass(frozen=True)
class DeploymentSettings:
    """What the generated files say."""

    max_batch_size: int = 8
    """rows that are run together"""
    batch_timeout_micros: int = 5000
    """microseconds that a request waits for others to fill the batch"""
    max_enqueued_batches: int = 100
    """batches that may wait; a request beyond them gets UNAVAILABLE"""
    num_batch_threads: int = 2
    """batches that run at the same time"""
    rest_timeout_seconds: int = 600
    """time that REST gives a request; TensorFlow Serving's default, 30 s, ends long generations"""
    grpc_port: int = 8500
    """port of this machine for gRPC"""
    rest_port: int = 8501
    """port of this machine for REST"""
    storage_uri: str = "s3://REPLACE-WITH-YOUR-BUCKET/saved_models"
    """kserve.yaml: where the cluster finds the folders of the models"""
    memory_gib: int | None = None
    """kserve.yaml: memory of a server; default from the size of the model's newest version"""

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        timeout = self.batch_timeout_micros
        _require(timeout >= 0, "batch_timeout_micros must not be negative", timeout)
        timeout = self.rest_timeout_seconds
        _require(timeout >= 1, "rest_timeout_seconds must be at least 1", timeout)
        for name in ("grpc_port", "rest_port"):
            port = getattr(self, name)
            _require(1 <= port <= 65535, f"{name} must lie in 1..65535", port)
        ports = (self.grpc_port, self.rest_port)
        _require(ports[0] != ports[1], "grpc_port and rest_port must differ", ports)
        memory = self.memory_gib
        _require(memory is None or memory >= 1, "memory_gib must be at least 1", memory)


def deployment_files(
    base: Path, names: Sequence[str], settings: DeploymentSettings
) -> dict[str, str]:
    """File name to content, without the line that tells an edited file."""
    _check_names(names)
    return {
        "models.config": models_config(names),
        "batching.config": batching_config(settings),
        "monitoring.config": monitoring_config(),
        "docker-compose.yaml": docker_compose(names, settings),
        "kserve.yaml": kserve(base, names, settings),
    }


def models_config(names: Sequence[str], root: str = "/models") -> str:
    """The text proto ModelServerConfig; `root` is where the server sees the models' folders."""
    models = "".join(
        f"""\
  config {{
    name: "{name}"
    base_path: "{root}/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
"""
        for name in names
    )
    return f"""\
# Each model's newest version is served, and a newer one takes its place when it appears.
# To serve chosen versions under labels, give a model instead of its policy:
#   model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
#   version_labels {{ key: "stable" value: 1 }}
#   version_labels {{ key: "canary" value: 2 }}
model_config_list {{
{models}}}
"""


def batching_config(settings: DeploymentSettings) -> str:
    """The text proto BatchingParameters; without allowed sizes, no row is added to fill a batch."""
    return f"""\
# The most rows of one request; one of more rows than run together is split.
max_batch_size {{ value: {settings.max_batch_size * settings.max_enqueued_batches} }}
enable_large_batch_splitting {{ value: true }}
max_execution_batch_size {{ value: {settings.max_batch_size} }}
batch_timeout_micros {{ value: {settings.batch_timeout_micros} }}
max_enqueued_batches {{ value: {settings.max_enqueued_batches} }}
num_batch_threads {{ value: {settings.num_batch_threads} }}
"""


def monitoring_config() -> str:
    """The text proto MonitoringConfig: Prometheus metrics at the REST port."""
    return """\
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""


def docker_compose(names: Sequence[str], settings: DeploymentSettings) -> str:
    """A Docker Compose file that serves the models on this machine's loopback address.

    The image has no curl, so its health is asked for with bash: every model has a version that
    is AVAILABLE. The server has no authentication; hence the loopback address.
    """
    # "$$": Compose would replace a single "$". HTTP/1.0, so that the server closes the connection.
    health = (
        f"for name in {' '.join(names)}; do exec 3<>/dev/tcp/127.0.0.1/8501"
        ' && printf "GET /v1/models/$$name HTTP/1.0\\r\\n\\r\\n" >&3'
        """ && grep -q '"AVAILABLE"' <&3 || exit 1; done"""
    )
    return f"""\
# docker compose up: REST on 127.0.0.1:{settings.rest_port}, gRPC on 127.0.0.1:{settings.grpc_port}.
# TensorFlow Serving asks nobody who they are: put a proxy that does before it to open it to others.
services:
  tensorflow-serving:
    image: tensorflow/serving:{SERVING_VERSION}
    command:
      - --model_config_file=/models/models.config
      - --model_config_file_poll_wait_seconds=30
      - --enable_batching=true
      - --batching_parameters_file=/models/batching.config
      - --monitoring_config_file=/models/monitoring.config
      - --rest_api_timeout_in_ms={settings.rest_timeout_seconds * 1000}
    ports:
      - "127.0.0.1:{settings.grpc_port}:8500"
      - "127.0.0.1:{settings.rest_port}:8501"
    volumes:
      - type: bind
        source: .
        target: /models
        read_only: true
    healthcheck:
      test: ["CMD", "bash", "-c", {json.dumps(health)}]
      interval: 10s
      timeout: 5s
      retries: 3
      start_period: 120s
    restart: unless-stopped
"""


def kserve(base: Path, names: Sequence[str], settings: DeploymentSettings) -> str:
    """KServe manifests: the batching parameters, and an InferenceService for each model."""
    indented = "".join(f"    {line}\n" for line in batching_config(settings).splitlines())
    documents = [
        f"""\
# kubectl apply -f kserve.yaml, after storageUri below names a place that the cluster can read:
# a folder that holds the version folders (1/, 2/, ...).
apiVersion: v1
kind: ConfigMap
metadata:
  name: tensorflow-serving-batching
data:
  batching.config: |
{indented}"""
    ]
    for name in names:
        memory = settings.memory_gib or _memory_gib(base / name)
        service = kubernetes_name(name)
        documents.append(
            f"""\
# Requests go to /v1/models/{service}:predict.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {service}
spec:
  predictor:
    model:
      modelFormat:
        name: tensorflow
        version: "2"
      protocolVersion: v1
      runtimeVersion: "{SERVING_VERSION}"
      storageUri: {json.dumps(settings.storage_uri.rstrip("/") + "/" + name)}
      args:
        - --enable_batching=true
        - --batching_parameters_file=/etc/tensorflow-serving/batching.config
        - --rest_api_timeout_in_ms={settings.rest_timeout_seconds * 1000}
      resources:
        requests:
          cpu: "2"
          memory: {memory}Gi
        limits:
          cpu: "2"
          memory: {memory}Gi
      volumeMounts:
        - name: batching
          mountPath: /etc/tensorflow-serving
          readOnly: true
    volumes:
      - name: batching
        configMap:
          name: tensorflow-serving-batching
"""
        )
    return "---\n".join(documents)


def kubernetes_name(name: str) -> str:
    """A model's name as a DNS label, which the name of a Kubernetes object must be."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _check_names(names: Sequence[str]) -> None:
    if isinstance(names, str) or not names:
        raise ValueError(f"names must be a list of at least one model name; got {names!r}")
    services: dict[str, str] = {}
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                "a model's name must be letters, digits, '.', '_' and '-', and begin with a letter "
                f"or a digit, to stand in a URL; got {name!r}"
            )
        service = kubernetes_name(name)
        if len(service) > 63:
            raise ValueError(f"a model's name must be at most 63 characters; got {name!r}")
        if service in services:
            raise ValueError(
                f"model names must differ in more than case and punctuation; got "
                f"{services[service]!r} and {name!r}"
            )
        services[service] = name


def _memory_gib(model_folder: Path) -> int:
    """Memory for the newest version: both versions while one replaces the other, and 1 GiB."""
    versions = [
        path for path in model_folder.glob("*") if path.name.isascii() and path.name.isdigit()
    ]
    if not versions:
        return 2
    newest = max(versions, key=lambda path: int(path.name))
    size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    return max(2, 1 + math.ceil(2 * size / 2**30))


def _require(condition: bool, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{rule}; received {value!r}")
