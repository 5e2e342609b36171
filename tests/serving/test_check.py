"""`check` on small SavedModels with one fault each, and on a correct one."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from tfllm.serving.checks import session_process
from tfllm.serving.checks.checking import check, main
from tfllm.serving.checks.files import WARMUP_FILE, version_number
from tfllm.serving.checks.probe import EXAMPLE_METHODS
from tfllm.serving.checks.run import CheckedRun
from tfllm.serving.deployment import write_deployment_files
from tfllm.serving.saved_model.linked_ops import linked_ops

predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")

TEXT = tf.TensorSpec([None], tf.string, name="text")


class Sound(tf.Module):
    """Words of a text, and a number for each row, from a variable and a static table."""

    def __init__(self):
        self.scale = tf.Variable([2.0, 3.0])
        pairs = tf.lookup.KeyValueTensorInitializer(["", "a"], tf.constant([0, 1], tf.int64))
        self.table = tf.lookup.StaticHashTable(pairs, -1)

    @tf.function(input_signature=[TEXT])
    def answer(self, text):
        clean = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")
        length = tf.cast(tf.strings.length(text), tf.float32) * self.scale[0]
        return {"text": clean, "raw_bytes": text, "length": length, "id": self.table.lookup(text)}

    @tf.function(input_signature=[TEXT, tf.TensorSpec([None], tf.float32, name="factor")])
    def scaled(self, text, factor):
        return {"length": tf.cast(tf.strings.length(text), tf.float32) * factor}


def save(folder, module, function=None, **signatures):
    signatures = signatures or {"serving_default": function or module.answer}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


def write_warmup(folder, requests):
    """requests: (signature name, {input: value}, outputs to fetch)"""
    path = folder / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, inputs, outputs in requests:
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = "model"
            if name is not None:
                request.model_spec.signature_name = name
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            request.output_filter.extend(outputs)
            writer.write(log.SerializeToString())


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """models/sound/1 with warm-up requests; tests copy it before they change it."""
    module = Sound()
    folder = tmp_path_factory.mktemp("models") / "sound" / "1"
    save(folder, module, serving_default=module.answer, scaled=module.scaled)
    write_warmup(
        folder,
        [
            (None, {"text": [b"a", b"bb"]}, []),
            ("scaled", {"text": [b"abc"], "factor": np.array([0.5], np.float32)}, ["length"]),
        ],
    )
    return folder


@pytest.fixture
def copy(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "copy" / "1"))


def codes(report, severity=None):
    return {f.code for f in report.findings if severity in (None, f.severity)}


def edit(folder, change):
    """Change the only MetaGraphDef of a SavedModel on disk."""
    path = folder / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(saved_model.meta_graphs[0])
    path.write_bytes(saved_model.SerializeToString())


def served_function(meta):
    """A function that serving_default runs."""
    names = [fn.signature.name for fn in meta.graph_def.library.function]
    [index] = [i for i, name in enumerate(names) if "inference_answer" in name]
    return meta.graph_def.library.function[index]


def signature(meta):
    return meta.signature_def["serving_default"]


# ---------------------------------------------------------------- a sound model
def test_a_sound_model_has_no_findings_and_both_signatures_run(sound):
    report = check(sound.parent)
    assert report.findings == ()
    assert report.ok and report.path == sound
    # Two warm-up requests; odd texts in one batch, in three parts and an empty batch, for two
    # string inputs.
    assert report.requests == 2 + 2 * 5
    assert report.ready_seconds >= report.load_seconds
    assert 2**20 < report.peak_memory_bytes < 2**32
    assert "GiB of memory at most" in report.format()
    assert "fit for TensorFlow Serving 2.20 (nothing found)" in report.format()


def test_checking_leaves_the_folder_as_it_was(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    check(copy, run=False)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


# ---------------------------------------------------------------- files read, nothing run
def _unlinked(meta):
    served_function(meta).node_def.add(name="own", op="MyCompanysTokenizer")


def _unlinked_unused(meta):
    function = meta.graph_def.library.function.add()
    function.signature.name = "never_called"
    function.node_def.add(name="own", op="MyCompanysTokenizer")


def _attribute(meta):
    node = next(n for n in served_function(meta).node_def if n.op == "StringLength")
    node.attr["newer_than_2_20"].b = True


def _kernel(meta):
    served_function(meta).node_def.add(name="rnn", op="CudnnRNNV3")


def _newer_text(meta):
    served_function(meta).node_def.add(name="trim", op="TFText>RoundRobinTrim")


def _queue(meta):
    served_function(meta).node_def.add(name="q", op="QueueEnqueueV2")


def _read_file(meta):
    served_function(meta).node_def.add(name="read", op="ReadFile")


def _print(meta):
    served_function(meta).node_def.add(name="print", op="PrintV2")


def _device(meta):
    served_function(meta).node_def[0].device = "/device:TPU:0"


def _many_constants(meta):
    for index in range(8):
        node = served_function(meta).node_def.add(name=f"c{index}", op="Const")
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.ones(50_000, np.float32)))


def _one_constant(meta):
    node = meta.graph_def.node.add(name="c", op="Const")
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.arange(70_000, dtype=np.float32)))


def _tags(meta):
    meta.meta_info_def.tags[:] = ["train"]


def _no_signatures(meta):
    for name in ("serving_default", "scaled"):
        del meta.signature_def[name]


def _no_default(meta):
    del meta.signature_def["serving_default"]


def _set_type(side, dtype):
    def change(meta):
        info = next(iter(getattr(signature(meta), side).values()))
        info.dtype = types_pb2.DataType.Value(dtype)

    return change


def _set_shape(side, *dims):
    def change(meta):
        for info in getattr(signature(meta), side).values():
            del info.tensor_shape.dim[:]
            for dim in dims:
                info.tensor_shape.dim.add(size=dim)

    return change


def _unknown_rank(meta):
    info = signature(meta).inputs["text"]
    info.tensor_shape.Clear()
    info.tensor_shape.unknown_rank = True


def _sparse(meta):
    signature(meta).inputs["text"].coo_sparse.values_tensor_name = "x:0"


STATIC = {
    "op_not_linked": ("error", _unlinked),
    "op_not_linked in a function that is not called": ("warning", _unlinked_unused),
    "attribute_not_known": ("error", _attribute),
    "no_cpu_kernel": ("error", _kernel),
    "newer_text_op": ("info", _newer_text),
    "growing_queue": ("warning", _queue),
    "file_access": ("warning", _read_file),
    "prints": ("warning", _print),
    "device_pinned": ("warning", _device),
    "weights_as_constants in sum": ("warning", _many_constants),
    "weights_as_constants by one": ("warning", _one_constant),
    "no_serve_tag": ("error", _tags),
    "no_signatures": ("error", _no_signatures),
    "no_default_signature": ("warning", _no_default),
    "not_dense": ("error", _sparse),
    "unknown_rank": ("warning", _unknown_rank),
    "scalar_input": ("warning", _set_shape("inputs")),
    "fixed_batch": ("warning", _set_shape("inputs", 4)),
    "unknown_dimension": ("warning", _set_shape("inputs", -1, -1)),
    "scalar_output": ("warning", _set_shape("outputs")),
} | {
    f"type_not_in_json {side} {dtype}": ("error", _set_type(side, dtype))
    for side, dtype in [
        ("inputs", "DT_HALF"),
        ("outputs", "DT_BFLOAT16"),
        ("outputs", "DT_COMPLEX64"),
        ("outputs", "DT_UINT16"),
        ("outputs", "DT_QINT8"),
        ("outputs", "DT_VARIANT"),
        ("inputs", "DT_RESOURCE"),
    ]
}


@pytest.mark.parametrize("fault", STATIC)
def test_a_fault_in_the_file_is_found_and_nothing_else(fault, copy):
    severity, change = STATIC[fault]
    edit(copy, change)
    report = check(copy, run=False)
    assert codes(report) == {fault.split()[0]}
    assert codes(report, severity) == codes(report)
    assert report.ok == (severity != "error")
    assert all(finding.fix for finding in report.findings)


@pytest.mark.parametrize(
    "dtype",
    [
        *("DT_FLOAT", "DT_DOUBLE", "DT_INT8", "DT_INT16", "DT_INT32", "DT_INT64", "DT_UINT8"),
        *("DT_UINT32", "DT_UINT64", "DT_BOOL", "DT_STRING"),
    ],
)
def test_types_that_json_carries_are_not_reported(dtype, copy):
    edit(copy, _set_type("outputs", dtype))
    assert check(copy, run=False).findings == ()


def test_a_function_in_a_branch_is_reached(copy):
    def hide(meta):
        _unlinked_unused(meta)
        node = served_function(meta).node_def.add(name="if", op="StatelessIf")
        node.attr["then_branch"].func.name = "never_called"

    edit(copy, hide)
    assert codes(check(copy, run=False), "error") == {"op_not_linked"}


def test_what_only_loading_runs_is_not_held_against_requests(copy):
    def at_load(meta):
        meta.graph_def.node.add(name="read", op="ReadFile")
        meta.graph_def.node.add(name="assign", op="AssignVariableOp", input=["^read"])
        meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "assign"

    edit(copy, at_load)
    assert check(copy, run=False).findings == ()


def test_a_file_near_two_gigabytes_is_an_error(copy, monkeypatch):
    monkeypatch.setattr("tfllm.serving.checks.graph.GRAPH_BYTES", 1000)
    assert codes(check(copy, run=False)) == {"graph_too_large"}


@pytest.mark.parametrize("content", [b"\xff" * 50, b""])
def test_a_damaged_saved_model_is_an_error_and_no_traceback(content, copy):
    (copy / "saved_model.pb").write_bytes(content)
    found = codes(check(copy, run=False))
    assert found & {"unreadable_saved_model", "no_serve_tag"}


@pytest.mark.parametrize("lost", ["variables.index", "variables.data-00000-of-00001"])
def test_lost_variables_are_an_error(lost, copy):
    (copy / "variables" / lost).unlink()
    assert codes(check(copy, run=False), "error") == {"variables_missing"}


def test_a_lost_asset_is_an_error(copy):
    def add_asset(meta):
        meta.asset_file_def.add(filename="vocabulary.txt")

    edit(copy, add_asset)
    assert codes(check(copy, run=False), "error") == {"asset_missing"}
    (copy / "assets").mkdir(exist_ok=True)
    (copy / "assets" / "vocabulary.txt").write_text("a")
    assert check(copy, run=False).ok


def test_no_warmup_is_a_warning(copy):
    (copy / WARMUP_FILE).unlink()
    assert codes(check(copy, run=False)) == {"no_warmup"}


# ---------------------------------------------------------------- versions
def test_the_newest_version_is_checked(copy):
    edit(Path(shutil.copytree(copy, copy.with_name("10"))), _no_default)
    shutil.copytree(copy, copy.with_name("9"))
    report = check(copy.parent, run=False)
    assert report.path.name == "10" and codes(report) == {"no_default_signature"}


def test_two_names_of_one_version_collide(copy):
    shutil.copytree(copy, copy.with_name("001"))
    report = check(copy.parent, run=False)
    assert codes(report, "error") == {"version_collision"}
    assert "001, 1" in report.findings[0].what


def test_a_version_that_is_no_number_is_ignored_by_serving(copy):
    shutil.copytree(copy, copy.with_name("v2"))
    assert codes(check(copy.parent, run=False)) == {"version_ignored"}
    assert codes(check(copy.with_name("v2"), run=False)) == {"version_name"}
    shutil.rmtree(copy)
    assert codes(check(copy.parent, run=False), "error") == {"no_version"}


def test_an_unfinished_newest_version_is_an_error(copy):
    copy.with_name("2").mkdir()
    assert codes(check(copy.parent, run=False), "error") == {"no_saved_model"}


def test_version_names_are_read_as_64_bit_numbers():
    assert [version_number(n) for n in ("1", "001", "-3", "+4")] == [1, 1, -3, 4]
    assert version_number(str(2**63 - 1)) == 2**63 - 1
    assert all(version_number(n) is None for n in (str(2**63), "1.0", "v1", "", "١", "1_0"))


# ---------------------------------------------------------------- saved by TensorFlow, not run
def test_a_table_that_requests_fill_is_an_error_and_one_they_read_a_warning(tmp_path):
    class Cache(tf.Module):
        def __init__(self):
            self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)

        @tf.function(input_signature=[TEXT])
        def fill(self, text):
            self.table.insert(text, tf.cast(tf.strings.length(text), tf.int64))
            return {"length": self.table.lookup(text)}

        @tf.function(input_signature=[TEXT])
        def read(self, text):
            return {"length": self.table.lookup(text)}

    module = Cache()
    filled = check(save(tmp_path / "fill" / "1", module, module.fill))
    assert {"growing_table", "table_grew"} <= codes(filled, "error")
    # The second request brings one new word, in one row.
    [grew] = [f.what for f in filled.findings if f.code == "table_grew"]
    assert "6 to 7 entries" in grew
    read = check(save(tmp_path / "read" / "1", module, module.read))
    assert read.ok and "mutable_table" in codes(read, "warning")


def test_jit_compiled_functions_fail_where_a_signature_calls_them(tmp_path):
    class Compiled(tf.Module):
        @tf.function(jit_compile=True, input_signature=[tf.TensorSpec([None], tf.float32)])
        def inner(self, x):
            return tf.tanh(x)

        @tf.function(input_signature=[TEXT])
        def uses(self, text):
            return {"x": self.inner(tf.cast(tf.strings.length(text), tf.float32))}

        @tf.function(input_signature=[TEXT])
        def avoids(self, text):
            return {"x": tf.strings.length(text)}

    module = Compiled()
    used = check(save(tmp_path / "uses" / "1", module, module.uses))
    # The runtime refuses it too: XLA was really off.
    assert codes(used, "error") == {"xla_must_compile", "signature_fails"}
    assert any("XLA compilation disabled" in f.what for f in used.findings)
    avoided = check(save(tmp_path / "avoids" / "1", module, module.avoids), run=False)
    assert avoided.ok and "xla_must_compile" in codes(avoided, "warning")


def test_python_functions_are_errors_and_do_not_run_in_the_clean_process(tmp_path):
    class Python(tf.Module):
        @tf.function(input_signature=[TEXT])
        def answer(self, text):
            return {"x": tf.ensure_shape(tf.numpy_function(len, [text], tf.int64), [])[None]}

    report = check(save(tmp_path / "1", Python()))
    assert codes(report, "error") == {"python_function", "signature_fails"}


def test_state_that_requests_share_is_a_warning(tmp_path):
    class Counter(tf.Module):
        def __init__(self):
            self.count = tf.Variable(0)

        @tf.function(input_signature=[TEXT])
        def answer(self, text):
            return {"count": tf.fill(tf.shape(text), self.count.assign_add(1))}

    report = check(save(tmp_path / "1", Counter()), run=False)
    assert codes(report) == {"variable_written", "no_warmup"}


# ---------------------------------------------------------------- run
def test_answers_that_harm_a_client_are_found(tmp_path):
    class Unsafe(tf.Module):
        @tf.function(input_signature=[TEXT])
        def answer(self, text):
            length = tf.cast(tf.strings.length(text), tf.float32)
            return {
                "cut": tf.strings.substr(text, 0, 3),  # three bytes: through the middle of "ï"
                "cut_bytes": tf.strings.substr(text, 0, 3),
                "ratio": (length - 4) / (length - 4),  # 0 / 0 for "word"
                "first": text[:1],
                "rows": tf.shape(text)[0],
            }

    report = check(save(tmp_path / "1", Unsafe()))
    assert codes(report, "error") == {"output_not_utf8", "output_not_by_row"}
    assert codes(report, "warning") == {"no_warmup", "output_nan", "scalar_output"}
    by_code = {f.code: f.what for f in report.findings}
    assert sum(f.code == "output_not_utf8" for f in report.findings) == 1
    assert "'cut'" in by_code["output_not_utf8"] and "emoji" in by_code["output_not_utf8"]
    assert "'first'" in by_code["output_not_by_row"] and "'ratio'" in by_code["output_nan"]


def test_texts_that_fail_are_told_apart_from_batches_that_fail(tmp_path):
    class Strict(tf.Module):
        @tf.function(input_signature=[TEXT])
        def answer(self, text):
            # Malformed text and empty text are refused.
            codes = tf.strings.unicode_decode(text, "UTF-8", errors="strict")
            with tf.control_dependencies([tf.debugging.assert_positive(codes.row_lengths())]):
                return {"length": codes.row_lengths()}

    class Alone(tf.Module):
        @tf.function(input_signature=[TEXT])
        def answer(self, text):
            return {"length": tf.reshape(tf.strings.length(text), [1])}

    strict = check(save(tmp_path / "strict" / "1", Strict()))
    [refused] = [f for f in strict.findings if f.code == "text_refused"]
    assert refused.severity == "warning" and strict.ok
    assert "an empty string, bytes that are not UTF-8 fails" in refused.what
    assert "emoji" not in refused.what
    alone = check(save(tmp_path / "alone" / "1", Alone()))
    assert codes(alone, "error") == {"batch_fails"}


def test_a_process_that_dies_is_a_finding(tmp_path):
    class Aborts(tf.Module):
        @tf.function(input_signature=[TEXT])
        def answer(self, text):
            with tf.control_dependencies([tf.raw_ops.Abort(error_msg="enough")]):
                return {"text": tf.strings.length(text)}

    report = check(save(tmp_path / "1", Aborts()))
    assert codes(report, "error") == {"crash"}
    [crash] = [f.what for f in report.findings if f.code == "crash"]
    assert "SIGABRT" in crash and "input 'text' of serving_default" in crash


@pytest.mark.slow
def test_a_request_without_end_is_a_finding_after_the_time_limit(tmp_path):
    class Endless(tf.Module):
        @tf.function(input_signature=[TEXT])
        def answer(self, text):
            [rounds] = tf.while_loop(lambda i: i > -1, lambda i: [i * 0], [tf.size(text)])
            return {"length": tf.strings.length(text) + rounds}

    folder = save(tmp_path / "1", Endless())
    report = check(folder, timeout=6)  # loading, on a busy machine, included
    assert "timeout" in codes(report, "warning")  # a probe; a server would only answer too late
    write_warmup(folder, [(None, {"text": [b"a"]}, [])])
    report = check(folder, timeout=3)
    assert "timeout" in codes(report, "error")


def test_a_warmup_request_slower_than_rest_allows_is_a_warning(sound, monkeypatch):
    monkeypatch.setattr("tfllm.serving.checks.answers.REST_TIMEOUT_SECONDS", 0.0)
    report = check(sound)
    assert [f.code for f in report.findings] == ["slow_request"] * 2 and report.ok


def test_a_model_that_does_not_load_is_an_error_and_runs_nothing(copy):
    edit(copy, _unlinked_node)
    report = check(copy)
    assert codes(report, "error") == {"op_not_linked", "load_failed"}
    assert report.requests == 0 and report.load_seconds is None


WARMUP_FAULTS = {
    "unknown signature": ("warmup_misfit", [("other", {"text": [b"a"]}, [])]),
    "missing input": ("warmup_misfit", [("scaled", {"text": [b"a"]}, [])]),
    "unknown output": ("warmup_misfit", [(None, {"text": [b"a"]}, ["none such"])]),
    "wrong type": (
        "warmup_misfit",
        [("scaled", {"text": [b"a"], "factor": np.ones([1], np.int64)}, [])],
    ),
    "fails": (
        "warmup_failed",
        [("scaled", {"text": [b"a"] * 3, "factor": np.ones([2], np.float32)}, [])],
    ),
}


@pytest.mark.parametrize("fault", WARMUP_FAULTS)
def test_warmup_requests_that_would_stop_the_load_are_errors(fault, copy):
    code, requests = WARMUP_FAULTS[fault]
    write_warmup(copy, requests)
    assert codes(check(copy), "error") == {code}


def test_a_warmup_file_that_is_damaged_or_too_long_is_an_error(copy, monkeypatch):
    # By its full name: `tfllm.serving.check` may be the function.
    monkeypatch.setattr(sys.modules[check.__module__], "check_run", _only_reads_warmup)
    path = copy / WARMUP_FILE
    write_warmup(copy, [(None, {"text": [b"a"]}, [])] * 1001)
    assert codes(check(copy), "error") == {"too_many_warmup_records"}
    path.write_bytes(path.read_bytes()[:-5])
    assert codes(check(copy), "error") == {"warmup_unreadable"}
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"\x32\xff\xff\xff\x7f")  # a predict_log that claims more bytes than there are
    assert codes(check(copy), "error") == {"warmup_unreadable"}
    session_run, classify = prediction_log_pb2.PredictionLog(), prediction_log_pb2.PredictionLog()
    session_run.session_run_log.request.feed.add().name = "x"
    classify.classify_log.request.input.example_list.examples.add()  # to a model of another input
    for log in (session_run, classify):
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(log.SerializeToString())
        assert codes(check(copy), "error") == {"warmup_misfit"}


def _only_reads_warmup(folder, graph, timeout):
    from tfllm.serving.checks.warmup_requests import warmup_requests

    return CheckedRun(warmup_requests(folder, graph)[1])


def test_a_signature_without_an_example_is_named(copy):
    (copy / WARMUP_FILE).unlink()
    report = check(copy)
    [finding] = [f for f in report.findings if f.code == "signature_not_run"]
    assert finding.severity == "info" and "scaled" in finding.what


def test_every_dtype_reaches_the_clean_process_as_it_was_sent(tmp_path):
    dtypes = [tf.float32, tf.float64, tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint32]
    dtypes += [tf.uint64, tf.bool]

    class Echo(tf.Module):
        @tf.function(
            input_signature=[{d.name: tf.TensorSpec([None, 2], d, d.name) for d in dtypes}]
        )
        def answer(self, inputs):
            outputs = {}
            for name, value in inputs.items():
                # Compared as whole numbers, which every one of the types casts to.
                same = tf.reduce_all(tf.cast(value, tf.int64) == [[0, 1], [1, 0]])
                with tf.control_dependencies([tf.debugging.assert_equal(same, True)]):
                    outputs[f"{name}_out"] = tf.identity(value)
            return outputs

    folder = save(tmp_path / "1", Echo())
    sent = {d.name: np.array([[0, 1], [1, 0]], d.as_numpy_dtype) for d in dtypes}
    write_warmup(folder, [(None, sent, [])])
    assert check(folder).findings == ()
    sent["int16"][0, 0] = 7
    write_warmup(folder, [(None, sent, [])])
    assert codes(check(folder)) == {"warmup_failed"}  # the model's own assertion


# ---------------------------------------------------------------- report and command line
def test_exit_codes_tell_a_fit_model_from_one_that_would_fail(copy, capsys):
    assert main([str(copy), "--no-run"]) == 0
    edit(copy, _set_type("inputs", "DT_HALF"))
    assert main([str(copy), "--no-run"]) == 1
    assert "type_not_in_json" in capsys.readouterr().out
    assert main([str(copy / "absent")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_the_report_is_json_and_text_with_errors_first(copy, capsys):
    edit(copy, lambda meta: (_no_default(meta), _set_shape("outputs"), _unlinked_node(meta)))
    main([str(copy), "--no-run", "--json"])
    [told] = json.loads(capsys.readouterr().out)
    assert told == check(copy, run=False).to_dict()
    assert [f["severity"] for f in told["findings"]] == ["error", "warning"]
    text = check(copy, run=False).format(width=80)
    assert text.index("op_not_linked") < text.index("no_default_signature")
    assert max(map(len, text.splitlines()[1:])) <= 80


def _unlinked_node(meta):
    meta.graph_def.node.add(name="own", op="MyCompanysTokenizer")


def test_an_absent_folder_and_a_time_limit_of_zero_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        check(tmp_path / "absent")
    with pytest.raises(ValueError, match="timeout must be positive"):
        check(tmp_path, timeout=0)


def test_the_clean_process_imports_nothing_beyond_the_standard_library():
    program = session_process.__file__
    code = (
        f"import runpy, sys; runpy.run_path({str(program)!r}); "
        "print(sorted(set(m.split('.')[0] for m in sys.modules) - set(sys.stdlib_module_names)))"
    )
    told = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    foreign = set(json.loads(told.stdout.replace("'", '"')))
    assert not foreign & {"tensorflow", "numpy", "google", "tfllm"}


# ---------------------------------------------------------------- the list of linked ops
def test_the_list_holds_core_text_and_decision_forest_ops():
    known = linked_ops()
    assert {"TFText>RoundRobinTrim", "SimpleMLInferenceOpWithHandle"} <= known.attributes.keys()
    assert known.attributes["MatMul"] >= {"T", "transpose_a", "transpose_b"}
    assert known.sources["RegexSplitWithOffsets"].startswith("tensorflow-text 2.20.")
    assert known.sources["MatMul"].startswith("tensorflow 2.20.")
    assert {"PyFunc", "CudnnRNNV3"} <= known.without_cpu_kernel
    assert not known.without_cpu_kernel & {"MatMul", "StatefulPartitionedCall", "While"}


@pytest.mark.skipif(not tf.__version__.startswith("2.20."), reason="the list is of 2.20")
def test_the_list_is_that_of_this_tensorflow():
    from tensorflow.python.framework import op_def_registry

    for name, source in linked_ops().sources.items():
        if source.startswith("tensorflow 2.20."):
            op = op_def_registry.get(name)
            assert {attr.name for attr in op.attr} == linked_ops().attributes[name]


# ---------------------------------------------------------------- rows together and in parts
class Padded(tf.Module):
    """Words of a text, padded to the most that a row of the batch has."""

    @tf.function(input_signature=[TEXT])
    def words(self, text):
        words = tf.strings.split(tf.strings.unicode_transcode(text, "UTF-8", "UTF-8"))
        return {"words": words.to_tensor(""), "num": tf.cast(words.row_lengths(), tf.int32)}

    @tf.function(input_signature=[TEXT])
    def fixed(self, text):
        words = tf.strings.split(tf.strings.unicode_transcode(text, "UTF-8", "UTF-8"))
        return {"words": tf.strings.reduce_join(words, 1, separator=" ")}

    @tf.function(input_signature=[TEXT])
    def averaged(self, text):
        """Every row's number depends on the others."""
        length = tf.cast(tf.strings.length(text), tf.float32)
        return {"length": length - tf.reduce_mean(length)}

    @tf.function(input_signature=[TEXT])
    def numbered(self, text):
        return {"place": tf.strings.as_string(tf.range(tf.size(text)))}


SPLITTING = "max_batch_size { value: 80 }\nenable_large_batch_splitting { value: true }\n"


@pytest.mark.parametrize(
    ("name", "content", "severity"),
    [
        (None, "", "warning"),
        ("batching.config", SPLITTING, "error"),
        ("batching.config", SPLITTING.replace(" { value: true }", ": <value: 1>"), "error"),
        ("batching.config", SPLITTING.replace("true", "false"), "warning"),
        ("batching.config", SPLITTING.replace("enable", "# enable"), "warning"),
        ("kserve.yaml", SPLITTING.replace("enable", "    enable"), "error"),
        ("words/1/batching_params.pbtxt", SPLITTING, "error"),
    ],
)
def test_a_width_that_the_rows_decide_is_refused_where_requests_are_split(
    name, content, severity, tmp_path
):
    module = Padded()
    version = save(tmp_path / "words" / "1", module, serving_default=module.words)
    if name is not None:
        (tmp_path / name).write_text(content)
    report = check(version, run=False)
    (found,) = [f for f in report.findings if "width" in f.code]
    assert found.severity == severity and report.ok == (severity != "error")
    assert "'words' of serving_default" in found.what
    assert "it did not differ between the requests that were run" in found.what
    if severity == "error":
        assert Path(name).name in found.what


def test_a_width_is_proven_open_by_running_rows_in_parts(tmp_path):
    """Also where the signature says that it is fixed, as a server trusts what it gets."""
    module = Padded()
    version = save(tmp_path / "words" / "1", module, serving_default=module.words)

    def claim(meta):
        signature(meta).outputs["words"].tensor_shape.dim[1].size = 7

    edit(version, claim)
    assert not [f for f in check(version, run=False).findings if "width" in f.code]
    (tmp_path / "batching.config").write_text(SPLITTING)
    report = check(version)
    (found,) = report.of("error")
    assert found.code == "open_width_is_split"
    widths = re.findall(r"\[(\d+)\] for", found.what)
    assert "960" in widths and len(set(widths)) > 1  # with the long text, and without


def test_fixed_widths_may_be_split(tmp_path):
    module = Padded()
    save(tmp_path / "words" / "1", module, serving_default=module.fixed)
    write_deployment_files(tmp_path, ["words"])
    assert "enable_large_batch_splitting" in (tmp_path / "batching.config").read_text()
    report = check(tmp_path / "words")
    assert report.ok and not [f for f in report.findings if "width" in f.code], report.format()


def test_an_answer_that_depends_on_the_other_rows_is_found(tmp_path):
    module = Padded()
    version = save(
        tmp_path / "1", module, serving_default=module.averaged, numbered=module.numbered
    )
    found = {f.severity: f.what for f in check(version).findings if "depends" in f.code}
    assert set(found) == {"warning", "info"}
    assert (
        "gets another length from serving_default in a batch of 5 rows than in" in found["warning"]
    )
    assert "a long text gets another place from numbered in a batch of 1 rows" in found["info"]


class Examples(tf.Module):
    """Scores of tf.train.Example messages."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs):
        features = {"text": tf.io.FixedLenFeature([], tf.string)}
        text = tf.io.parse_example(inputs, features)["text"]
        length = tf.cast(tf.strings.length(text), tf.float32)[:, tf.newaxis]
        return {"scores": length}


def test_a_message_that_fails_its_batch_is_a_warning(tmp_path):
    """A classifier's own signature has no such warning: tests/tasks/test_contract.py."""
    module = Examples()
    version = save(tmp_path / "1", module, serving_default=module.classify)
    edit(version, lambda meta: setattr(signature(meta), "method_name", EXAMPLE_METHODS[0]))
    value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a"]))
    features = tf.train.Features(feature={"text": value})
    content = tf.train.Example(features=features).SerializeToString()
    write_warmup(version, [(None, {"inputs": [content]}, [])])
    report = check(version)
    found = [f.what for f in report.findings if f.code == "text_refused"]
    assert report.ok, report.format()
    for kind in ("bytes that are not a message", "truncated", "a number", "two texts"):
        assert kind in found[0]


# ---------------------------------------------------------------- the files around it
def test_labels_that_keep_a_server_from_starting_are_an_error(copy):
    model, base = copy.parent, copy.parent.parent
    write_deployment_files(base, [model.name])
    assert "labels_refused" not in codes(check(copy, run=False))
    config, compose = base / "models.config", base / "docker-compose.yaml"
    config.write_text(config.read_text().replace("#   version_labels", "version_labels"))
    assert "labels_refused" not in codes(check(copy, run=False))
    compose.write_text(compose.read_text().replace("--allow_version_labels", "# --allow_version"))
    assert "labels_refused" in codes(check(copy, run=False), "error")


def test_a_memory_limit_below_what_the_model_took_is_an_error(copy):
    base = copy.parent.parent
    write_deployment_files(base, [copy.parent.name])
    assert "memory_limit" not in codes(check(copy))
    for name, text in (("docker-compose.yaml", "mem_limit: "), ("kserve.yaml", "memory: ")):
        path = base / name
        given = path.read_text()
        lines = [re.sub(rf"({text})\d+(m|Mi)", r"\g<1>64\2", line) for line in given.splitlines()]
        path.write_text("\n".join(lines))
        found = [f for f in check(copy).of("error") if f.code == "memory_limit"]
        assert [f.what.split()[0] for f in found] == [name]
        assert "0.06 GiB" in found[0].what and "--measure" in found[0].fix
        path.write_text(given)
