"""Versions appear and disappear while the server runs; labels, policies, warm-up, start, stop."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tests.serving.toy_models import call, start, toy_base, until
from tfllm.cli import main
from tfllm.serving.server import server as server_module
from tfllm.serving.server import xla_switch

pytestmark = pytest.mark.alone


@pytest.fixture
def base(tmp_path):
    for name in ("half", "slow"):
        shutil.copytree(toy_base() / name, tmp_path / name)
    shutil.rmtree(tmp_path / "half" / "2")
    return tmp_path


def add_half(base, version, source=2):
    """As an export does: written beside, renamed into place."""
    beside = base / "half" / f".{version}.partial"
    shutil.copytree(toy_base() / "half" / str(source), beside)
    os.rename(beside, base / "half" / str(version))


def answer(server, where=""):
    status, reply = call(server, "POST", f"/v1/models/half{where}:predict", {"inputs": [0.0]})
    return reply["outputs"][0] if status == 200 else status


def states(server, model="half"):
    _, reply = call(server, "GET", f"/v1/models/{model}")
    return {int(s["version"]): s["state"] for s in reply["model_version_status"]}


def test_a_new_version_takes_over_and_a_removed_one_gives_back(base):
    with start(base) as server:
        assert answer(server) == 1.0
        (base / "half" / "not-a-version").mkdir()
        add_half(base, 2)
        until(lambda: answer(server) == 2.0)
        until(lambda: states(server) == {2: "AVAILABLE", 1: "END"})
        assert answer(server, "/versions/1") == 404
        shutil.rmtree(base / "half" / "2")
        until(lambda: answer(server) == 1.0)
        assert states(server)[1] == "AVAILABLE"
        shutil.rmtree(base / "half")
        until(lambda: answer(server) == 404)


def test_no_request_fails_while_versions_change(base):
    stop = threading.Event()

    def loop(_):
        seen = []
        while not stop.is_set():
            seen.append(answer(server))
        return seen

    with start(base) as server, ThreadPoolExecutor(2) as pool:
        loops = [pool.submit(loop, n) for n in range(2)]
        add_half(base, 2)
        until(lambda: answer(server) == 2.0)
        stop.set()
        for future in loops:
            assert set(future.result()) <= {1.0, 2.0}


def test_a_request_under_way_keeps_its_version(base):
    with start(base) as server, ThreadPoolExecutor(1) as pool:
        path = "/v1/models/slow:predict"
        running = pool.submit(call, server, "POST", path, {"inputs": [1.5]})
        until(lambda: server._limit.count == 1)
        os.rename(base / "slow" / "1", base / "slow" / "2")
        until(lambda: states(server, "slow").get(2) == "AVAILABLE")
        until(lambda: states(server, "slow")[1] in ("UNLOADING", "END"))
        assert not running.done() and states(server, "slow")[1] == "UNLOADING"
        assert running.result()[0] == 200
        until(lambda: states(server, "slow")[1] == "END")


def test_a_broken_version_is_reported_and_the_old_one_serves_on(base):
    with start(base) as server:
        (base / "half" / "2").mkdir()
        until(lambda: states(server).get(2) == "END")
        (base / "half" / "3").mkdir()
        (base / "half" / "3" / "saved_model.pb").write_bytes(b"not a model")
        until(lambda: states(server).get(3) == "END")
        _, reply = call(server, "GET", "/v1/models/half/versions/3")
        problem = reply["model_version_status"][0]["status"]
        assert problem["error_code"] == "DATA_LOSS" and "broken" in problem["error_message"]
        assert answer(server) == 1.0 and states(server)[1] == "AVAILABLE"
        # Repaired in place, it is tried again.
        shutil.rmtree(base / "half" / "3")
        add_half(base, 3)
        until(lambda: answer(server) == 2.0)


def test_a_server_starts_on_the_newest_version_that_loads(base, caplog):
    (base / "half" / "5").mkdir()
    with start(base) as server:
        assert answer(server) == 1.0
        assert states(server) == {5: "END", 1: "AVAILABLE"}
    assert "no version of half that is to be served could be loaded; TensorFlow" in caplog.text
    assert "no version of slow" not in caplog.text


def test_a_new_model_appears(base):
    with start(base) as server:
        shutil.copytree(base / "half", base / "other")
        until(lambda: call(server, "GET", "/v1/models/other/metadata")[0] == 200)


LABELLED = """model_config_list { config {
    name: "half" base_path: "/models/half" model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 2 } }
    version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 } } }"""


def write_config(base, text):
    """Replaced whole, and seen as changed though it may happen within a tick of the clock."""
    beside = base / ".models.config"
    beside.write_text(text)
    write_config.time = getattr(write_config, "time", 0) + 1
    os.utime(beside, (write_config.time, write_config.time))
    os.rename(beside, base / "models.config")


def test_labels_and_policies_from_models_config(base):
    add_half(base, 2)
    add_half(base, 3)
    write_config(base, LABELLED)
    with start(base, allow_version_labels_for_unavailable_models=True) as server:
        assert answer(server, "/labels/stable") == 1.0
        assert answer(server, "/labels/canary") == answer(server) == 2.0
        assert answer(server, "/versions/3") == 404
        write_config(base, LABELLED.replace("value: 1", "value: 2"))
        until(lambda: answer(server, "/labels/stable") == 2.0)
    write_config(base, "model_config_lis {")
    with pytest.raises(ValueError, match=r"models.config is not a models.config"):
        start(base).start()


def test_labels_are_refused_at_the_start_as_by_the_real_server(base, capsys):
    add_half(base, 2)
    write_config(base, LABELLED)
    rule = (
        r"label '(stable|canary)' of half to version [12], which is not loaded: labels are checked "
        r"before models load.*--allow_version_labels_for_unavailable_models=true"
    )
    with pytest.raises(ValueError, match=rule):
        start(base).start()
    command = ["serve", str(base), "--rest-port", "0", "--grpc-port", "0"]
    for flag in ([], ["--allow-version-labels-for-unavailable-models=false"]):
        assert main([*command, *flag]) != 0
        assert re.search(rule, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("replaced", "by", "words"),
    [
        ("/models/half", "models/half", "absolute path or a URI; received 'models/half'"),
        ('model_platform: "tensorflow"', "", r"model_platform must be \"tensorflow\""),
        ('"tensorflow"', '"tflite"', r"must be \"tensorflow\"; received 'tflite'"),
        ('"tensorflow"', '"tensorflow" model_type: TENSORFLOW', "remove the deprecated"),
        ("versions: 1 versions: 2", "", "without versions"),
        ("  } }", "  } config { name: 'half' base_path: '/m' model_platform: 'tensorflow' } }",
         "it is listed more than once"),
    ],
)  # fmt: skip
def test_a_models_config_that_the_real_server_refuses_is_refused(base, replaced, by, words):
    text = re.sub(r"version_labels \{[^}]*\}", "", LABELLED)
    assert replaced in text
    write_config(base, text.replace(replaced, by))
    with pytest.raises(ValueError, match=rf"TensorFlow Serving refuses the model.*{words}"):
        start(base).start()


def test_a_models_config_that_lists_other_models_is_warned_about(base, caplog):
    other = 'config { name: "gone" base_path: "/models/gone" model_platform: "tensorflow" }'
    half = other.replace("gone", "half")
    write_config(base, f"model_config_list {{ {half} {other} }}")
    with start(base) as server:
        assert answer(server) == 1.0
    assert "models.config does not list slow" in caplog.text
    assert "models.config lists gone, which has no version" in caplog.text
    assert "list half" not in caplog.text


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ("serve BASE --allow_version_labels_for_unavailable_models=true", True),
        ("serve --allow-version-labels-for-unavailable-models BASE", True),
        ("serve --allow_version_labels_for_unavailable_models BASE", True),
        ("serve --allow-version-labels-for-unavailable-models=false BASE", False),
        ("serve BASE", False),
    ],
)
def test_the_flag_of_the_real_server_lets_labels_pass(base, words, allowed, monkeypatch):
    seen = []
    monkeypatch.setattr(server_module.ModelServer, "serve_forever", lambda self: seen.append(self))
    main(words.replace("BASE", str(base)).split())
    assert seen[0].repository._allow_labels is allowed


def test_a_label_makes_no_version_served_that_the_policy_leaves_out(base):
    add_half(base, 2)
    write_config(base, LABELLED.replace("specific { versions: 1 versions: 2 }", "latest {}"))
    with start(base, allow_version_labels_for_unavailable_models=True) as server:
        assert answer(server, "/labels/canary") == 2.0
        assert answer(server, "/labels/stable") == 404


def test_while_a_server_runs_a_label_moves_only_to_what_is_loaded(base, caplog):
    add_half(base, 2)
    with start(base) as server:
        config = LABELLED.replace("specific { versions: 1 versions: 2 }", "all {}")
        write_config(base, config)  # only version 2 is loaded, so the file waits
        until(lambda: "the last models.config stays in force" in caplog.text)
        assert answer(server, "/labels/canary") == 400
        write_config(base, config.replace('key: "stable" value: 1', 'key: "stable" value: 2'))
        until(lambda: answer(server, "/labels/stable") == 2.0)
        until(lambda: states(server)[1] == "AVAILABLE")  # the policy came with it
        write_config(base, config)
        until(lambda: answer(server, "/labels/stable") == 1.0)


def test_a_labelled_version_is_served_besides_the_newest(base):
    add_half(base, 2)
    with start(base, labels={"half": {"stable": 1}}) as server:
        assert (answer(server), answer(server, "/labels/stable")) == (2.0, 1.0)


def test_one_models_folder_is_enough(base):
    with start(base / "half") as server:
        assert answer(server) == 1.0


def write_warmup(folder, value, signature="serving_default", name="x"):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "any"
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    entry = prediction_log_pb2.PredictionLog()
    entry.predict_log.request.CopyFrom(request)
    (folder / "assets.extra").mkdir()
    path = str(folder / "assets.extra" / "tf_serving_warmup_requests")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(entry.SerializeToString())


def test_warm_up_requests_run_before_a_version_serves(base):
    write_warmup(base / "half" / "1", tf.constant([1.0]))
    with start(base) as server:
        assert answer(server) == 1.0
        shutil.copytree(base / "half" / "1", base / "half" / ".2")
        shutil.rmtree(base / "half" / ".2" / "assets.extra")
        write_warmup(base / "half" / ".2", tf.constant(["text"]))
        os.rename(base / "half" / ".2", base / "half" / "2")
        until(lambda: states(server).get(2) == "END")
        _, reply = call(server, "GET", "/v1/models/half/versions/2")
        problem = reply["model_version_status"][0]["status"]
        assert problem["error_code"] == "INVALID_ARGUMENT"
        assert "warm-up request failed" in problem["error_message"]
        assert answer(server) == 1.0


def test_a_damaged_warm_up_file_is_a_version_that_cannot_be_served(base):
    write_warmup(base / "half" / "1", tf.constant([1.0]))
    path = base / "half" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"DATA_LOSS: .*record 1 is damaged"):
        start(base / "half").start()


def test_a_folder_beside_the_models_that_cannot_be_read_stops_nothing(base, monkeypatch):
    (base / "lost+found").mkdir()
    iterdir = Path.iterdir

    def refuse(folder):
        if folder.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with start(base) as server:
        assert answer(server) == 1.0
        add_half(base, 2)
        until(lambda: answer(server) == 2.0)


def test_a_tensorflow_that_keeps_xla_on_is_a_warning(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(tf, "__file__", str(tmp_path / "__init__.py"))
    xla_switch._call("_ZN10tensorflow21DisableXlaCompilationEv")
    assert "XLA cannot be disabled" in caplog.text


# ------------------------------------------------------------------ starting and stopping


def test_a_folder_without_a_model_is_refused_with_a_hint(tmp_path):
    with pytest.raises(ValueError, match="must exist"):
        start(tmp_path / "nowhere").start()
    with pytest.raises(ValueError, match="no model in"):
        start(tmp_path).start()
    with pytest.raises(ValueError, match="received a version"):
        start(toy_base() / "half" / "1").start()
    (tmp_path / "bad" / "1").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"could be loaded: bad version 1: NOT_FOUND"):
        start(tmp_path).start()


@pytest.mark.parametrize("side", ["rest", "grpc"])
def test_a_port_in_use_is_named_with_the_setting_that_changes_it(base, side):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"port {port} of 127.0.0.1 is in use.*--{side}-port"):
            start(base, **{f"{side}_port": port}).start()


def test_settings_out_of_range_are_refused(base):
    for name, value in {
        "max_batch_size": 0,
        "rest_port": 70000,
        "poll_seconds": 0,
        "batch_timeout_micros": -1,
        "request_timeout_seconds": 0,
    }.items():
        with pytest.raises(ValueError, match=name):
            start(base, **{name: value})


def test_an_open_address_is_warned_about(base, caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]  # never opened: the port is taken
        with pytest.raises(OSError):
            start(base, host="0.0.0.0", rest_port=port).start()
    assert "anybody who can reach this address" in caplog.text


def test_stop_lets_requests_finish_and_refuses_new_ones(base):
    with ThreadPoolExecutor(2) as pool:
        server = start(base).start()
        path = "/v1/models/slow:predict"
        running = pool.submit(call, server, "POST", path, {"inputs": [1.0]})
        until(lambda: server._limit.count == 1)
        host, port = server.rest_address.split(":")
        stopped = pool.submit(server.stop)
        assert running.result()[0] == 200
        assert stopped.result() is True
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))


def test_stop_waits_no_longer_than_the_grace_period(base):
    with ThreadPoolExecutor(1) as pool:
        server = start(base, grace_seconds=1.0).start()
        running = pool.submit(call, server, "POST", "/v1/models/slow:predict", {"inputs": [10.0]})
        until(lambda: server._limit.count == 1)
        begin = time.monotonic()
        assert server.stop() is False
        assert time.monotonic() - begin < 8  # the request takes 10 s
        assert running.exception() is not None or running.result()[0] != 200
        until(lambda: threading.active_count() < 20)


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_a_signal_ends_the_process_cleanly_after_the_request_under_way(base, name):
    program = (
        "import sys\n"
        "from tfllm.serving.server.server import ModelServer\n"
        "server = ModelServer(sys.argv[1], rest_port=0, grpc_port=0).start()\n"
        "print(server.rest_address, flush=True)\n"
        "sys.exit(server.serve_forever())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(base)], stdout=subprocess.PIPE, text=True
    )
    with process:
        address = process.stdout.readline().strip()

        class Remote:
            rest_address = address

        with ThreadPoolExecutor(1) as pool:
            path = "/v1/models/slow:predict"
            running = pool.submit(call, Remote, "POST", path, {"inputs": [1.0]})
            time.sleep(0.4)  # the request is on its way, inside another process
            process.send_signal(getattr(signal, name))
            assert running.result()[0] == 200
        assert process.wait(30) == 0


def started_process(base):
    command = [sys.executable, "-m", "tfllm.cli", "serve", str(base)]
    return subprocess.Popen(
        [*command, "--rest-port", "0", "--grpc-port", "0"], stderr=subprocess.PIPE, text=True
    )


def ends_at_once(process, name):
    time.sleep(1.0)  # what loads is inside TensorFlow, in its warm-up request
    begin = time.monotonic()
    process.send_signal(getattr(signal, name))
    assert process.wait(60) == 0
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_a_signal_while_a_model_loads_ends_the_process_at_once(base, name):
    write_warmup(base / "slow" / "1", tf.constant([300.0]), name="seconds")
    with started_process(base) as process:
        assert any("loading slow" in line for line in process.stderr)
        ends_at_once(process, name)


@pytest.mark.slow
def test_a_signal_while_a_further_version_loads_ends_the_process_at_once(base):
    shutil.copytree(base / "slow" / "1", base / "slow" / ".2")
    write_warmup(base / "slow" / ".2", tf.constant([300.0]), name="seconds")
    with started_process(base) as process:
        assert any("REST on" in line for line in process.stderr)
        os.rename(base / "slow" / ".2", base / "slow" / "2")
        assert any("loading slow version 2" in line for line in process.stderr)
        ends_at_once(process, "SIGTERM")
