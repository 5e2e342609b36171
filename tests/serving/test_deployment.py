"""The generated deployment files, read by the parsers of the programs that use them."""

import dataclasses
import http.server
import itertools
import json
import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow.core.protobuf import saved_model_pb2

from tfllm.cli.__main__ import main
from tfllm.serving.batching_options import DEFAULT_BATCHING, BatchingOptions
from tfllm.serving.deployment import write_deployment_files
from tfllm.serving.deployment_templates import DeploymentSettings, batching_config
from tfllm.serving.footprint import Footprint, write_footprint

pytestmark = pytest.mark.alone

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
FILES = [
    "models.config",
    "batching.config",
    "monitoring.config",
    "docker-compose.yaml",
    "kserve.yaml",
]


def write_version(folder, **outputs):
    """A version that says what its outputs are, and holds nothing else."""
    folder.mkdir(parents=True)
    saved = saved_model_pb2.SavedModel()
    signature = saved.meta_graphs.add().signature_def["serving_default"]
    for name, shape in outputs.items():
        info = signature.outputs[name].tensor_shape
        if shape is None:
            info.unknown_rank = True
        for size in shape or ():
            info.dim.add(size=-1 if size is None else size)
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())
    return folder


@pytest.fixture
def base(tmp_path):
    for name in ("quickstart", "Other_model.v2"):
        write_version(tmp_path / name / "1", text=[None], scores=[None, 3])
    return tmp_path


def load(path):
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def test_models_config_is_what_the_model_server_reads(base):
    pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    write_deployment_files(base, ["quickstart", "Other_model.v2"])
    config = text_format.Parse((base / "models.config").read_text(), pb2.ModelServerConfig())
    models = config.model_config_list.config
    assert [(m.name, m.base_path) for m in models] == [
        ("quickstart", "/models/quickstart"),
        ("Other_model.v2", "/models/Other_model.v2"),
    ]
    assert all(m.model_platform == "tensorflow" for m in models)
    assert all(m.model_version_policy.latest.num_versions == 1 for m in models)


def test_the_labels_that_models_config_shows_in_a_comment_are_valid(base):
    pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    write_deployment_files(base, ["quickstart"])
    lines = (base / "models.config").read_text().splitlines()
    example = [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]
    model = text_format.Parse("\n".join(example), pb2.ModelConfig())
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}
    assert set(model.version_labels.values()) <= set(model.model_version_policy.specific.versions)


def message_type(name, **fields):
    """A protocol buffer message with (number, type) fields; these two are in no Python package."""
    kinds = descriptor_pb2.FieldDescriptorProto
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="t", syntax="proto3")
    wrapper = file.message_type.add(name="Value")
    wrapper.field.add(name="value", number=1, type=kinds.TYPE_INT64, label=kinds.LABEL_OPTIONAL)
    message = file.message_type.add(name=name)
    for field, (number, kind) in fields.items():
        label = kinds.LABEL_REPEATED if kind == "repeated" else kinds.LABEL_OPTIONAL
        if kind == "value":
            message.field.add(
                name=field,
                number=number,
                type=kinds.TYPE_MESSAGE,
                type_name=".t.Value",
                label=label,
            )
        else:
            kind = {"repeated": "int64"}.get(kind, kind)
            scalar = getattr(kinds, f"TYPE_{kind.upper()}")
            message.field.add(name=field, number=number, type=scalar, label=label)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}"))


def batching_parameters(text):
    # Fields of BatchingParameters, tensorflow_serving/servables/tensorflow/
    # session_bundle_config.proto; google.protobuf.Int64Value has one field, value, as BoolValue.
    names = (
        "max_batch_size",
        "batch_timeout_micros",
        "max_enqueued_batches",
        "num_batch_threads",
        "enable_large_batch_splitting",
        "max_execution_batch_size",
    )
    fields = {name: (number, "value") for number, name in enumerate(names, 1)}
    parameters = message_type("BatchingParameters", **fields)
    parsed = text_format.Parse(text.replace("value: true", "value: 1"), parameters())
    return {name: getattr(parsed, name).value for name in names if parsed.HasField(name)}


def test_batching_config_splits_what_is_larger_than_a_batch_and_adds_no_rows():
    options = BatchingOptions(max_batch_size=8, batch_timeout_micros=0, num_batch_threads=3)
    settings = DeploymentSettings(batching=options)
    assert batching_parameters(batching_config(settings)) == {
        "max_batch_size": 800,
        "batch_timeout_micros": 0,
        "max_enqueued_batches": 100,
        "num_batch_threads": 3,
        "enable_large_batch_splitting": 1,
        "max_execution_batch_size": 8,
    }


@pytest.mark.parametrize("shape", [[None, None], [None, 3, None], None])
def test_nothing_is_split_where_the_width_of_an_output_depends_on_the_rows(shape, base):
    """The server would join the parts by the shape of the first (its batching_session.cc)."""
    write_deployment_files(base, ["quickstart", "Other_model.v2"])
    split, *_ = load(base / "kserve.yaml")
    both = [(base / "batching.config").read_text(), split["data"]["batching.config"]]
    assert all(batching_parameters(t)["enable_large_batch_splitting"] == 1 for t in both)
    # An older version counts as well: it may be served under a label.
    write_version(base / "Other_model.v2" / "2", spans=shape)
    write_version(base / "Other_model.v2" / "3", spans=[None])
    write_deployment_files(base, ["quickstart", "Other_model.v2"])
    unsplit, *_ = load(base / "kserve.yaml")
    for text in ((base / "batching.config").read_text(), unsplit["data"]["batching.config"]):
        found = batching_parameters(text)
        assert found["max_batch_size"] == DEFAULT_BATCHING.max_batch_size
        assert not {"enable_large_batch_splitting", "max_execution_batch_size"} & set(found)
        assert "the width of 'spans', an output of serving_default of Other_model.v2/2" in text


def test_a_model_that_cannot_be_read_is_not_split(base):
    (base / "quickstart" / "1" / "saved_model.pb").write_bytes(b"\xff" * 9)
    write_deployment_files(base, ["quickstart"])
    text = (base / "batching.config").read_text()
    assert "enable_large" not in text and "quickstart/1 cannot be read" in text


def test_tfllm_serve_and_the_files_have_one_set_of_batching_defaults(base, monkeypatch):
    from tfllm.serving.server import server as server_module

    write_deployment_files(base, ["quickstart"])
    found = batching_parameters((base / "batching.config").read_text())
    given = []
    monkeypatch.setattr(server_module, "BatchingOptions", lambda **o: given.append(o) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        server_module.ModelServer(base)
    (options,) = (BatchingOptions(**values) for values in given)
    assert options == DEFAULT_BATCHING
    assert found == {
        "max_batch_size": options.max_request_rows,
        "max_execution_batch_size": options.max_batch_size,
        "batch_timeout_micros": options.batch_timeout_micros,
        "max_enqueued_batches": options.max_enqueued_batches,
        "num_batch_threads": options.num_batch_threads,
        "enable_large_batch_splitting": 1,
    }


def test_the_command_serve_has_the_same_batching_options(monkeypatch, tmp_path):
    import tfllm.serving

    given = {}
    monkeypatch.setattr(tfllm.serving, "ModelServer", lambda base, **o: given.update(o) or 1 / 0)

    def options(*flags):
        with pytest.raises(ZeroDivisionError):
            main(["serve", str(tmp_path), *flags])
        return BatchingOptions(**{field.name: given[field.name] for field in fields})

    fields = dataclasses.fields(BatchingOptions)
    assert options() == DEFAULT_BATCHING
    assert given["batching"] is True
    others = {field.name: field.default + 1 for field in fields}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in others.items()]
    assert options(*flags) == BatchingOptions(**others)


def test_the_page_on_serving_has_every_batching_option_with_its_default():
    lines = (ROOT / "docs" / "serving.md").read_text("utf-8").splitlines()
    start = lines.index("| option | default | `tfllm serve` | TensorFlow Serving |")
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    defaults = {row.split("`")[1]: row.split("|")[2].strip() for row in rows}
    for name, value in dataclasses.asdict(DEFAULT_BATCHING).items():
        assert defaults[name].split()[0] == f"{value:,}"
    written = batching_parameters(batching_config(DeploymentSettings()))
    assert set(written) - set(defaults) == {"max_execution_batch_size"}


def test_the_command_export_measures_when_asked(monkeypatch, base, capsys):
    import tfllm.serving
    import tfllm.tasks

    class Task:
        no_chat_reason = ""

    def export(task, folder, version=None, measure=False):
        new = write_version(folder / "1", text=[None])
        if measure:
            write_footprint(new, Footprint(2**30, 12.0, 8))
        return new

    monkeypatch.setattr(tfllm.serving, "export", export)
    monkeypatch.setattr(tfllm.tasks, "load", lambda *a, **o: Task())
    assert main(["export", "model", str(base / "new"), "--measure"]) == 0
    assert "measured: 1.00 GiB at most, with 8 long texts at once" in capsys.readouterr().out
    assert "new: measured 1.00 GiB" in " ".join((base / "kserve.yaml").read_text().split())
    assert main(["export", "model", str(base / "plain")]) == 0
    assert "measured" not in capsys.readouterr().out


def flags_of(lines):
    return dict(line.removeprefix("--").split("=", 1) for line in lines)


def test_labels_and_loads_that_fail_do_not_keep_a_server_from_starting(base):
    """Labels are checked before models load; loads and their retries hold up other models."""
    write_deployment_files(base, ["quickstart", "Other_model.v2"])
    [compose] = load(base / "docker-compose.yaml")
    _, *services = load(base / "kserve.yaml")
    commands = [(compose["services"]["tensorflow-serving"]["command"], 2)]
    commands += [(service["spec"]["predictor"]["model"]["args"], 1) for service in services]
    for command, num_models in commands:
        flags = flags_of(command)
        assert flags["allow_version_labels_for_unavailable_models"] == "true"
        assert int(flags["num_load_threads"]) > num_models
        pause = int(flags["load_retry_interval_micros"]) / 1e6
        assert int(flags["max_num_load_retries"]) * pause <= 30
    text = (base / "models.config").read_text()
    assert "--allow_version_labels_for_unavailable_models=true" in text


def test_monitoring_config_turns_prometheus_on(base):
    inner = message_type("PrometheusConfig", enable=(1, "bool"), path=(2, "string"))
    write_deployment_files(base, ["quickstart"])
    text = (base / "monitoring.config").read_text()
    body = text[text.index("prometheus_config {") + len("prometheus_config {") : text.rindex("}")]
    parsed = text_format.Parse(body, inner())
    assert parsed.enable and parsed.path == "/monitoring/prometheus/metrics"


def test_docker_compose_serves_the_folder_read_only_on_loopback(base):
    write_deployment_files(base, ["quickstart"], DeploymentSettings(rest_timeout_seconds=90))
    [compose] = load(base / "docker-compose.yaml")
    service = compose["services"]["tensorflow-serving"]
    assert service["image"] == "tensorflow/serving:2.20.0"
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    [volume] = service["volumes"]
    assert volume == {"type": "bind", "source": ".", "target": "/models", "read_only": True}
    flags = flags_of(service["command"])
    assert flags.pop("rest_api_timeout_in_ms") == "90000"
    assert flags.pop("enable_batching") == "true"
    # Every file that a flag names is one that was written.
    files = {value for name, value in flags.items() if name.endswith("_file")}
    assert files == {f"/models/{name}" for name in FILES if name.endswith(".config")}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_health_command_asks_for_every_model(base):
    """The command that the container runs, on a server that answers as TensorFlow Serving does."""
    states = {"quickstart": "AVAILABLE", "Other_model.v2": "LOADING"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status = {"state": states[self.path.removeprefix("/v1/models/")]}
            body = json.dumps({"model_version_status": [status]}, indent=1).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    write_deployment_files(base, list(states))
    [compose] = load(base / "docker-compose.yaml")
    kind, *command = compose["services"]["tensorflow-serving"]["healthcheck"]["test"]
    assert kind == "CMD" and "$" not in "".join(command).replace("$$", "")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = str(server.server_address[1])
        command = [part.replace("$$", "$").replace("8501", port) for part in command]

        def healthy():
            return subprocess.run(command, timeout=10, capture_output=True).returncode == 0

        loading = healthy()
        states["Other_model.v2"] = "AVAILABLE"
        available = healthy()
        server.shutdown()
        thread.join()
    assert (loading, available) == (False, True)
    assert not healthy()  # nobody listens


def test_kserve_has_a_service_for_each_model_with_the_same_batching(base):
    write_deployment_files(base, ["quickstart", "Other_model.v2"])
    batching, *services = load(base / "kserve.yaml")
    text = (base / "batching.config").read_text()
    assert batching["kind"] == "ConfigMap"
    assert batching["data"]["batching.config"] == text.partition("\n")[2]
    assert [s["metadata"]["name"] for s in services] == ["quickstart", "other-model-v2"]
    for service, name in zip(services, ["quickstart", "Other_model.v2"], strict=True):
        assert service["apiVersion"] == "serving.kserve.io/v1beta1"
        predictor = service["spec"]["predictor"]
        model = predictor["model"]
        assert model["modelFormat"]["name"] == "tensorflow"
        assert model["runtimeVersion"] == "2.20.0" and model["protocolVersion"] == "v1"
        assert "REPLACE" in model["storageUri"] and model["storageUri"].endswith(f"/{name}")
        [mount], [volume] = model["volumeMounts"], predictor["volumes"]
        assert mount["name"] == volume["name"]
        assert volume["configMap"]["name"] == batching["metadata"]["name"]
        assert f"--batching_parameters_file={mount['mountPath']}/batching.config" in model["args"]


def memory(base, name):
    """Of a model: KServe's request and limit, and Compose's limit, in MiB."""
    write_deployment_files(base, [name])
    _, service = load(base / "kserve.yaml")
    resources = service["spec"]["predictor"]["model"]["resources"]
    [compose] = load(base / "docker-compose.yaml")
    return (
        int(resources["requests"]["memory"].removesuffix("Mi")),
        int(resources["limits"]["memory"].removesuffix("Mi")),
        int(compose["services"]["tensorflow-serving"]["mem_limit"].removesuffix("m")),
    )


def test_memory_that_was_not_measured_is_estimated_and_said_to_be(base):
    newest = write_version(base / "quickstart" / "10", text=[None])
    with open(newest / "weights", "wb") as file:
        os.truncate(file.fileno(), 3 * 2**30)  # a hole, no bytes on the disk
    request, limit, compose = memory(base, "quickstart")
    assert request > 3 * 1024 and limit == compose > request + 3 * 1024
    for name in ("kserve.yaml", "docker-compose.yaml"):
        text = " ".join((base / name).read_text().split()).replace(" # ", " ")
        assert "quickstart: estimated" in text and "tfllm export --measure" in text


def test_memory_and_readiness_follow_what_was_measured(base):
    write_footprint(base / "quickstart" / "1", Footprint(3 * 2**30, 40.4, 8))
    request, limit, compose = memory(base, "quickstart")
    assert request == 3 * 1280  # 1.25 of it
    assert limit == compose == 2 * request  # and a second version
    _, service = load(base / "kserve.yaml")
    probe = service["spec"]["predictor"]["model"]["readinessProbe"]
    assert probe["initialDelaySeconds"] == 40
    longest = probe["initialDelaySeconds"] + probe["periodSeconds"] * probe["failureThreshold"]
    assert 3 * 40 <= longest <= 4 * 40
    [compose] = load(base / "docker-compose.yaml")
    healthcheck = compose["services"]["tensorflow-serving"]["healthcheck"]
    assert healthcheck["start_period"] == "122s"
    for name in ("kserve.yaml", "docker-compose.yaml"):
        text = " ".join((base / name).read_text().split()).replace(" # ", " ")
        assert "measured 3.00 GiB with 8 long texts at once, ready after 40 s" in text
        assert "multiplied by 1.25" in text and "estimated" not in text


def test_a_server_of_several_models_has_room_for_all_and_one_more_of_the_largest(base):
    write_footprint(base / "quickstart" / "1", Footprint(2**30, 10, 8))
    write_footprint(base / "Other_model.v2" / "1", Footprint(2**31, 10, 8))
    write_deployment_files(base, ["quickstart", "Other_model.v2"])
    [compose] = load(base / "docker-compose.yaml")
    service = compose["services"]["tensorflow-serving"]
    assert service["mem_limit"] == f"{5 * 1280}m"
    assert service["healthcheck"]["start_period"] == "60s"


def test_memory_can_be_set(base):
    write_deployment_files(base, ["quickstart"], DeploymentSettings(memory_gib=5))
    _, service = load(base / "kserve.yaml")
    resources = service["spec"]["predictor"]["model"]["resources"]
    assert {resources[kind]["memory"] for kind in ("requests", "limits")} == {"5120Mi"}


# ---------------------------------------------------------------- nothing of a user's is lost
def test_writing_again_changes_nothing_and_new_models_are_taken_up(base):
    first = write_deployment_files(base, ["quickstart"])
    assert [path.name for path in first.written] == FILES and not first.kept
    again = write_deployment_files(base, ["quickstart"])
    assert [path.name for path in again.unchanged] == FILES and not again.written
    more = write_deployment_files(base, ["quickstart", "Other_model.v2"])
    changed = {"models.config", "docker-compose.yaml", "kserve.yaml"}
    assert {path.name for path in more.written} == changed
    assert sorted(path.name for path in base.iterdir()) == sorted(
        [*FILES, "quickstart", "Other_model.v2"]
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("edit", ["one word", "the first line gone", "not ours at all"])
def test_an_edited_file_is_kept_and_the_new_one_lies_beside_it(name, edit, base):
    write_deployment_files(base, ["quickstart"])
    path = base / name
    generated = path.read_text()
    edited = {
        "one word": generated.replace("true", "false").replace("8", "9").replace("1", "2", 1),
        "the first line gone": generated.partition("\n")[2],
        "not ours at all": "# mine\n",
    }[edit]
    path.write_text(edited)
    told = write_deployment_files(base, ["quickstart"])
    assert told.kept == ((path, base / f"{name}.new"),)
    assert path.read_text() == edited
    assert (base / f"{name}.new").read_text() == generated
    assert f"kept {path}" in told.format()


def test_a_write_that_fails_leaves_the_old_file_and_no_other(base, monkeypatch):
    write_deployment_files(base, ["quickstart"])
    before = {path: path.read_bytes() for path in base.iterdir() if path.is_file()}

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tfllm.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_deployment_files(base, ["Other_model.v2"])
    assert {path: path.read_bytes() for path in base.iterdir() if path.is_file()} == before


def test_another_user_can_read_the_files(base):
    write_deployment_files(base, ["quickstart"])
    assert all(stat.S_IMODE((base / name).stat().st_mode) & 0o044 == 0o044 for name in FILES)


@pytest.mark.parametrize(
    "names", [[], "quickstart", ["a/b"], ['a"b'], ["-a"], [""], ["a b"], ["m_1", "M-1"], ["a" * 64]]
)
def test_names_that_do_not_fit_are_refused(names, base):
    with pytest.raises(ValueError, match="name"):
        write_deployment_files(base, names)
    assert not (base / "models.config").exists()


@pytest.mark.parametrize(
    "setting",
    [
        {"rest_timeout_seconds": 0},
        {"rest_port": 0},
        {"grpc_port": 8501},
        {"memory_gib": 0},
        {"max_num_load_retries": -1},
        {"load_retry_seconds": -1},
    ],
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValueError, match=r"must.*received"):
        DeploymentSettings(**setting)


@pytest.mark.parametrize(
    "option",
    [
        {"max_batch_size": 0},
        {"num_batch_threads": 0},
        {"max_enqueued_batches": 0},
        {"batch_timeout_micros": -1},
    ],
)
def test_batching_options_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=r"must.*received"):
        BatchingOptions(**option)


def test_a_base_that_is_no_folder_is_refused(base):
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_deployment_files(base / "absent", ["quickstart"])
