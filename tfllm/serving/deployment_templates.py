"""Templates of the files that deploy models on TensorFlow Serving, and the numbers in them."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfllm.serving.batching_options import DEFAULT_BATCHING, BatchingOptions
from tfllm.serving.memory_limits import memory_of_all, memory_of_one
from tfllm.serving.saved_model.output_widths import why_not_split

SERVING_VERSION = "2.20.0"
"""the newest released image of TensorFlow Serving, for which `tfllm check` checks models"""
_MOST_LOAD_THREADS = 16


@dataclass(frozen=True)
class DeploymentSettings:
    """The numbers and ports in the generated files."""

    batching: BatchingOptions = DEFAULT_BATCHING
    """how requests are batched; by default as `tfllm serve` does"""
    rest_timeout_seconds: int = 600
    """time limit of a REST request; TensorFlow Serving's default, 30 s, is short for long texts"""
    grpc_port: int = 8500
    """gRPC port on this machine"""
    rest_port: int = 8501
    """REST port on this machine"""
    storage_uri: str = "s3://REPLACE-WITH-YOUR-BUCKET/saved_models"
    """kserve.yaml: the URI where the cluster finds the folders of the models"""
    memory_gib: int | None = None
    """memory of a server, in GiB. Defaults to what was measured of the models, or an estimate"""
    max_num_load_retries: int = 2
    """how often a failed load of a version is retried; the server's own default is 5"""
    load_retry_seconds: int = 5
    """time between retries; the server's own default is 60 s, during which no other model loads
    unless there are more threads than models that fail"""

    def __post_init__(self) -> None:
        retries = self.max_num_load_retries
        _require(retries >= 0, "max_num_load_retries must not be negative", retries)
        pause = self.load_retry_seconds
        _require(pause >= 0, "load_retry_seconds must not be negative", pause)
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
    """File name to content, without the checksum that shows an edited file.

    Args:
        base: the folder of the models.
        names: names of the models to serve.
        settings: the numbers and ports.

    Raises:
        ValueError: there is no name, or a name does not fit a URL or a Kubernetes object.
    """
    _check_names(names)
    unsplit = {name: reason for name in names if (reason := why_not_split(base / name))}
    return {
        "models.config": models_config(names),
        "batching.config": batching_config(settings, next(iter(unsplit.values()), "")),
        "monitoring.config": monitoring_config(),
        "docker-compose.yaml": docker_compose(base, names, settings),
        "kserve.yaml": kserve(base, names, settings, unsplit),
    }


def models_config(names: Sequence[str], root: str = "/models") -> str:
    """The text proto ModelServerConfig.

    Args:
        names: names of the models.
        root: path of the models' folders, as the server sees it.
    """
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
# Each model's newest version is served, and a newer one replaces it when it appears.
# To serve chosen versions under labels, replace a model's policy with the following lines. The
# server then starts only with --allow_version_labels_for_unavailable_models=true, because it checks
# labels before it loads models; docker-compose.yaml has the flag.
#   model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
#   version_labels {{ key: "stable" value: 1 }}
#   version_labels {{ key: "canary" value: 2 }}
model_config_list {{
{models}}}
"""


def batching_config(settings: DeploymentSettings, why_not_split: str = "") -> str:
    """The text proto BatchingParameters.

    It has no `allowed_batch_sizes`, so that no row is added to fill a batch.

    Args:
        settings: the numbers.
        why_not_split: why a request of more rows than a batch must not be split; "" if it may be,
            because no output has a width that depends on the rows.
    """
    batching = settings.batching
    if why_not_split:
        rows = f"""\
# The most rows of one request. Larger requests are refused and not split, because
# {why_not_split}:
# the server joins the parts of a split request by the shape of the first.
max_batch_size {{ value: {batching.max_batch_size} }}
"""
    else:
        rows = f"""\
# The most rows of one request; a request of more rows than a batch is split. Turn that off for a
# model with an output whose width depends on its rows (`tfllm check` finds it), because the server
# joins the parts by the shape of the first.
max_batch_size {{ value: {batching.max_request_rows} }}
enable_large_batch_splitting {{ value: true }}
max_execution_batch_size {{ value: {batching.max_batch_size} }}
"""
    return f"""\
{rows}batch_timeout_micros {{ value: {batching.batch_timeout_micros} }}
max_enqueued_batches {{ value: {batching.max_enqueued_batches} }}
# Of all models together: while one generates long texts, others wait for a thread.
num_batch_threads {{ value: {batching.num_batch_threads} }}
"""


def server_flags(num_models: int, settings: DeploymentSettings) -> list[str]:
    """The arguments of `tensorflow_model_server` that are the same in Compose and KServe."""
    return [
        "--enable_batching=true",
        f"--rest_api_timeout_in_ms={settings.rest_timeout_seconds * 1000}",
        # Without this flag, the server does not start if its configuration has labels.
        "--allow_version_labels_for_unavailable_models=true",
        # One more than there are models, so that failed loads that wait do not delay others.
        f"--num_load_threads={min(num_models + 1, _MOST_LOAD_THREADS)}",
        f"--max_num_load_retries={settings.max_num_load_retries}",
        f"--load_retry_interval_micros={settings.load_retry_seconds * 1_000_000}",
    ]


def monitoring_config() -> str:
    """The text proto MonitoringConfig: Prometheus metrics on the REST port."""
    return """\
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""


def docker_compose(base: Path, names: Sequence[str], settings: DeploymentSettings) -> str:
    """A Docker Compose file that serves the models on this machine's loopback address.

    The server has no authentication; hence the loopback address. The image has no curl, so bash
    makes the requests of the health check, which succeeds if every model has an AVAILABLE version.
    """
    # "$$", as Compose substitutes "$". HTTP/1.0, so that the server closes the connection.
    health = (
        f"for name in {' '.join(names)}; do exec 3<>/dev/tcp/127.0.0.1/8501"
        ' && printf "GET /v1/models/$$name HTTP/1.0\\r\\n\\r\\n" >&3'
        """ && grep -q '"AVAILABLE"' <&3 || exit 1; done"""
    )
    limits = memory_of_all([base / name for name in names], settings.memory_gib)
    flags = "".join(f"      - {flag}\n" for flag in server_flags(len(names), settings))
    return f"""\
# docker compose up: REST on 127.0.0.1:{settings.rest_port}, gRPC on 127.0.0.1:{settings.grpc_port}.
# TensorFlow Serving has no authentication: to open it to others, put a proxy in front that has.
services:
  tensorflow-serving:
    image: tensorflow/serving:{SERVING_VERSION}
    command:
      - --model_config_file=/models/models.config
      - --model_config_file_poll_wait_seconds=30
      - --batching_parameters_file=/models/batching.config
      - --monitoring_config_file=/models/monitoring.config
{flags}    ports:
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
      start_period: {limits.ready_seconds}s
{_comment(limits.reason, 4)}    mem_limit: {limits.limit_mib}m
    restart: unless-stopped
"""


def kserve(
    base: Path, names: Sequence[str], settings: DeploymentSettings, unsplit: dict[str, str]
) -> str:
    """KServe manifests: the batching parameters, and an InferenceService for each model.

    Args:
        base: the folder of the models.
        names: names of the models.
        settings: the numbers.
        unsplit: model name to why its requests must not be split, of the models where that is so.
    """
    reason = next(iter(unsplit.values()), "")
    indented = "".join(f"    {line}\n" for line in batching_config(settings, reason).splitlines())
    flags = "".join(f"        - {flag}\n" for flag in server_flags(1, settings))
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
        limits = memory_of_one(base / name, settings.memory_gib)
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
        - --batching_parameters_file=/etc/tensorflow-serving/batching.config
{flags}{_comment(limits.reason, 6)}      resources:
        requests:
          cpu: "2"
          memory: {limits.request_mib}Mi
        limits:
          cpu: "2"
          memory: {limits.limit_mib}Mi
      # The server opens its port when the model is loaded and warmed up.
      readinessProbe:
        tcpSocket:
          port: 8080
        initialDelaySeconds: {limits.initial_delay_seconds}
        periodSeconds: 5
        failureThreshold: {limits.probe_failures(5)}
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
    """A model's name as a DNS label, as Kubernetes requires of an object's name."""
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


def _comment(text: str, indent: int) -> str:
    """The text as a comment of YAML."""
    lead = " " * indent + "# "
    return textwrap.fill(text, 96, initial_indent=lead, subsequent_indent=lead) + "\n"


def _require(condition: bool, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{rule}; received {value!r}")
