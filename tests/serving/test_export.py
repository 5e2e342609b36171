"""A SavedModel gives the results of its task, and is written completely or not at all."""

import itertools
import json
import os
import random
import resource
import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.generation.toy_text_models import model, task, tokenizer
from tests.serving.toy_models import until
from tfllm.config import GenerationConfig
from tfllm.generation.option_inputs import OPTION_DTYPES
from tfllm.generation.options import option_values
from tfllm.serving import check, export
from tfllm.serving.batching_options import DEFAULT_BATCHING
from tfllm.serving.footprint import Footprint, footprint
from tfllm.serving.measuring import measure_footprint
from tfllm.serving.protocol.warmup_requests import read_warmup_requests
from tfllm.tasks import TextGeneration

PROMPTS = tf.constant(["the cat", "", "on the mat", "x" * 500])
# float64 loses nothing, but int64 beyond 2^53, uint64, complex and half types do in JSON.
JSON_SAFE = {tf.string, tf.float32, tf.int32, tf.bool}


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Without TensorFlow's seed: setting it throws away the compiled form of every function."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    base = tmp_path_factory.mktemp("saved_models") / "toy"
    return export(task(), base)


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture
def quick_save(monkeypatch):
    """In the place of TensorFlow's own: a file, in no time."""

    def save(served, folder, signatures):
        os.makedirs(folder)
        with open(os.path.join(folder, "saved_model.pb"), "wb") as file:
            file.write(b"model")

    monkeypatch.setattr(tf.saved_model, "save", save)


def options(num, **changed):
    values = {**option_values(GenerationConfig(max_new_tokens=6)), **changed}
    return {n: tf.fill([num], tf.constant(values[n], t)) for n, t in OPTION_DTYPES.items()}


def assert_same(first, second):
    assert set(first) == set(second)
    for name, value in first.items():
        np.testing.assert_array_equal(value.numpy(), second[name].numpy(), err_msg=name)


# ---------------------------------------------------------------------- what is in it


def test_signatures_answer_as_the_task_does(loaded):
    ours, theirs = task().signatures, loaded.signatures
    assert set(theirs) == {"serving_default", "generate", "score"}
    assert_same(theirs["serving_default"](prompt=PROMPTS), ours["serving_default"](PROMPTS))
    given = options(4, temperature=1.2, top_k=7, seed=5, stop="a\x1fon")
    assert_same(theirs["generate"](prompt=PROMPTS, **given), ours["generate"](PROMPTS, **given))
    assert_same(theirs["score"](text=PROMPTS), ours["score"](PROMPTS))
    assert theirs["serving_default"](prompt=PROMPTS)["finish_reason"].numpy()[3] == b"error"


def test_inputs_and_outputs_are_what_the_interface_says_with_the_batch_first(loaded):
    counts = {
        "prompt_tokens": tf.int32,
        "generated_tokens": tf.int32,
        "finish_reason": tf.string,
        "error": tf.string,
    }
    score = {
        "num_tokens": tf.int32,
        "log_prob": tf.float32,
        "perplexity": tf.float32,
        "token_ids_json": tf.string,
        "token_log_probs_json": tf.string,
        "error": tf.string,
    }
    expected = {
        "serving_default": ({"prompt": tf.string}, {"text": tf.string, **counts}),
        "generate": ({"prompt": tf.string, **OPTION_DTYPES}, {"text": tf.string, **counts}),
        "score": ({"text": tf.string}, score),
    }
    for name, function in loaded.signatures.items():
        inputs = function.structured_input_signature[1]
        outputs = function.structured_outputs
        assert {n: s.dtype for n, s in inputs.items()} == expected[name][0]
        assert {n: s.dtype for n, s in outputs.items()} == expected[name][1]
        assert all(spec.shape.as_list() == [None] for spec in inputs.values())
        for output, spec in outputs.items():
            assert spec.shape.rank == 1 and spec.shape[0] is None, (name, output)
            assert spec.dtype in JSON_SAFE


def test_a_loaded_model_streams(loaded):
    prompt, given = tf.constant(["the cat"]), options(1, max_new_tokens=12, stop="zz")
    state = loaded.stream_begin(prompt, **given)
    texts = [state["text"].numpy()[0]]
    while not state["done"].numpy()[0]:
        state = loaded.stream_next(state)
        texts.append(state["text"].numpy()[0])
    whole = loaded.signatures["generate"](prompt=prompt, **given)
    assert len(texts) > 2 and all(b.startswith(a) for a, b in itertools.pairwise(texts))
    for name in ("text", "prompt_tokens", "generated_tokens", "finish_reason", "error"):
        assert state[name].numpy().tolist() == whole[name].numpy().tolist()


def test_weights_are_in_the_variables_and_no_keras_object_is_in_the_file(exported, loaded):
    num_bytes = sum(int(np.prod(w.shape)) * 4 for w in model("llama").weights)
    values = (exported / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert values > num_bytes
    proto = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    graph = proto.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    constants = [n.attr["value"].tensor for n in nodes if n.op == "Const"]
    assert constants and max(tensor.ByteSize() for tensor in constants) < 8192
    # The smallest weight is a matter of 64 bytes; constants are scalars and rotary frequencies.
    floats = [t for t in constants if tf.as_dtype(t.dtype).is_floating]
    assert max(tf.TensorShape(t.tensor_shape).num_elements() for t in floats) < 16
    objects = proto.meta_graphs[0].object_graph_def.nodes
    assert not any("keras" in node.user_object.identifier for node in objects)


def test_warm_up_requests_parse_and_run(exported, loaded):
    path = exported / "assets.extra" / "tf_serving_warmup_requests"
    requests, num = read_warmup_requests(path)
    assert num == len(requests) == 3
    assert {request.signature for request in requests} == set(loaded.signatures)
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    for record, request in zip(tf.data.TFRecordDataset(str(path)), requests, strict=True):
        log = logs.PredictionLog.FromString(record.numpy()).predict_log.request
        assert log.model_spec.name == "toy"
        assert log.model_spec.signature_name == request.signature
        inputs = {name: tf.make_ndarray(proto) for name, proto in log.inputs.items()}
        assert set(inputs) == set(request.inputs)
        for name, value in request.inputs.items():
            np.testing.assert_array_equal(inputs[name], value)
        result = loaded.signatures[request.signature](
            **{n: tf.constant(v) for n, v in inputs.items()}
        )
        assert not any(result["error"].numpy())


def test_a_version_is_measured_in_a_process_of_its_own(exported):
    found = measure_footprint(exported)
    assert found.is_measured and found.batch_rows == DEFAULT_BATCHING.max_batch_size
    weights = sum(path.stat().st_size for path in (exported / "variables").iterdir())
    assert weights < found.peak_memory_bytes < 2**31
    assert 0 < found.ready_seconds < 300
    # It was not written down; without that there is an estimate, which is rather too much.
    assert not footprint(exported).is_measured
    assert footprint(exported).peak_memory_bytes > found.peak_memory_bytes


def test_what_is_measured_lies_in_the_version(quick_save, tmp_path, monkeypatch):
    given = Footprint(3 * 2**30, 40.0, 8)
    monkeypatch.setattr("tfllm.serving.exporting.measure_footprint", lambda folder: given)
    monkeypatch.setattr("tfllm.serving.exporting._set_methods", lambda *arguments: None)
    measured = export(task(), tmp_path / "toy", measure=True)
    assert footprint(measured) == given
    assert given.format().startswith("measured: 3.00 GiB at most, with 8 long texts at once")
    other = export(task(), tmp_path / "toy")
    assert not footprint(other).is_measured


def test_a_version_that_cannot_be_measured_is_not_written(quick_save, tmp_path):
    with pytest.raises(ValueError, match="no graph has the tag"):
        export(task(), tmp_path / "toy", measure=True)
    assert not (tmp_path / "toy").exists()


def test_an_output_whose_width_depends_on_the_rows_is_not_exported(tmp_path):
    class Padded(TextGeneration):
        @property
        def signatures(self):
            @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
            def pieces(text):
                return {"pieces": tf.strings.split(text).to_tensor("")}

            return {**super().signatures, "pieces": pieces}

    of = task()
    with pytest.raises(ValueError, match=r"fixed width.*'pieces' of pieces has the shape"):
        export(Padded(of.decoder, of.tokenizer, of.generation), tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


def test_check_finds_nothing_in_the_files(exported):
    report = check(exported, run=False)
    assert report.ok and not report.findings, report.format()


@pytest.mark.slow
def test_check_finds_nothing_when_it_runs_the_model(exported):
    report = check(exported, run=True)
    assert report.ok and not report.findings, report.format()


@pytest.mark.slow
def test_weights_are_written_in_bfloat16_when_asked(exported, tmp_path):
    folder = export(task(), tmp_path / "half", dtype="bfloat16")
    half, full = (
        (f / "variables" / "variables.data-00000-of-00001").stat().st_size
        for f in (folder, exported)
    )
    matrices = sum(int(np.prod(w.shape)) for w in model("llama").weights if len(w.shape) > 1)
    assert full - half == pytest.approx(2 * matrices, rel=0.05)
    again = tf.saved_model.load(str(folder))
    text = tf.constant(["the cat sat on the mat"])
    # In bfloat16 each weight moves by up to 2^-9 of itself; a wrong weight moves a token by more.
    here, there = (
        json.loads(scores["token_log_probs_json"].numpy()[0])
        for scores in (task().signatures["score"](text), again.signatures["score"](text=text))
    )
    np.testing.assert_allclose(there, here, atol=0.5)
    assert task().model.compute_dtype == "float32"


# ---------------------------------------------------------------------- versions


def test_versions_follow_one_another_and_other_files_do_not_count(quick_save, tmp_path):
    base = tmp_path / "a" / "name"
    assert export(task(), base) == base / "1"
    (base / "7").mkdir()
    for other in ("latest", "9.tmp", "²", ".writing-9-1", str(2**63)):
        (base / other).mkdir()
    assert export(task(), str(base)) == base / "8"
    assert export(task(), base, version=3) == base / "3"
    assert export(task(), base).name == "9"


def test_a_version_is_never_overwritten(quick_save, tmp_path):
    folder = export(task(), tmp_path)
    before = (folder / "saved_model.pb").stat()
    with pytest.raises(FileExistsError, match=r"never overwritten.*Leave the version out"):
        export(task(), tmp_path, version=1)
    assert (folder / "saved_model.pb").stat() == before
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_a_version_that_appears_meanwhile_is_not_overwritten(monkeypatch, tmp_path):
    def save(served, folder, signatures):
        os.makedirs(folder)
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "theirs").touch()

    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(FileExistsError, match="never overwritten"):
        export(task(), tmp_path)
    assert [p.name for p in tmp_path.rglob("*")] == ["1", "theirs"]


@pytest.mark.parametrize("version", [0, -1, 1.5, "3", True, 2**63])
def test_a_version_that_is_none_is_refused(version, tmp_path):
    with pytest.raises(ValueError, match=r"version must be a whole number from 1 to.*received"):
        export(task(), tmp_path, version=version)


def test_a_dtype_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one of float32, bfloat16, int8; received 'int4'"):
        export(task(), tmp_path / "x", dtype="int4")
    assert not (tmp_path / "x").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "name").write_text("mine")
    with pytest.raises(NotADirectoryError, match="must be the model's folder"):
        export(task(), tmp_path / "name")
    assert (tmp_path / "name").read_text() == "mine"


# ---------------------------------------------------------------------- whole or not at all


def test_a_reader_never_sees_half_a_version(quick_save, tmp_path):
    seen, stop = [], threading.Event()

    def watch():
        while not stop.is_set():
            for folder in tmp_path.glob("[0-9]*"):
                seen.append(sorted(p.name for p in folder.rglob("*")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(5):
        export(task(), tmp_path)
    until(lambda: seen)  # the thread may not have had its turn before
    stop.set()
    watcher.join()
    whole = sorted(p.name for p in (tmp_path / "5").rglob("*"))
    assert seen and all(names == whole for names in seen)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(28, "No space left on device"), OSError),
        (tf.errors.ResourceExhaustedError(None, None, "No space left on device"), OSError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("an untracked resource"), ValueError),
    ],
)
def test_an_interrupted_export_leaves_nothing_and_keeps_what_was_there(
    quick_save, monkeypatch, raised, expected, tmp_path
):
    export(task(), tmp_path / "there")
    whole = tf.saved_model.save

    def fail(served, folder, signatures):
        whole(served, folder, signatures)
        raise raised

    monkeypatch.setattr(tf.saved_model, "save", fail)
    for base in (tmp_path / "there", tmp_path / "new"):
        with pytest.raises(expected) as error:
            export(task(), base)
        if expected is OSError:
            assert "nothing was changed" in str(error.value)
            assert "No space left on device" in str(error.value)
    assert not (tmp_path / "new").exists()
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["1"]
    assert (tmp_path / "there" / "1" / "saved_model.pb").read_bytes() == b"model"


def test_a_disk_without_room_is_an_error_and_nothing_is_left(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "1").mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="failed, and nothing was changed"):
            export(task(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_without_prompts_there_is_no_warm_up(quick_save, tmp_path):
    folder = export(task(), tmp_path, warmup_prompts=())
    assert [p.name for p in folder.iterdir()] == ["saved_model.pb"]


@pytest.mark.slow
def test_the_default_options_are_exported(tmp_path):
    settings = GenerationConfig(max_new_tokens=2, stop=("(", "é"), temperature=0.5, seed=9)
    of = TextGeneration(model("llama"), tokenizer(), settings)
    folder = export(of, tmp_path, warmup_prompts=())
    result = tf.saved_model.load(str(folder)).signatures["serving_default"](prompt=PROMPTS[:3])
    texts = [text.decode() for text in result["text"].numpy()]
    assert texts == of.generate([p.decode() for p in PROMPTS[:3].numpy()])
    assert result["generated_tokens"].numpy().max() <= 2
