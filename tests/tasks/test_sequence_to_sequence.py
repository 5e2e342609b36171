"""Translation and summarization beyond the contract: their data, loss, search and metrics."""

import functools
import json
import shutil

import keras
import numpy as np
import pytest
import sacrebleu
import tensorflow as tf
from rouge_score.rouge_scorer import RougeScorer

from tests.generation.plain_beam_search import beam_search
from tests.rounding import about, assert_rounded, in_double
from tests.tasks.tiny_cases import ADDITIONS, CASES, TINY_ENCODER_DECODER, prepare_task
from tests.tokenizers.record_translation_tokenizers import FOLDER
from tfllm import pretrained
from tfllm.cli import main
from tfllm.config import ConfigError, PrepareConfig
from tfllm.data.preparing.record_preparation import TRUNCATED
from tfllm.data.reading.table_records import Record
from tfllm.data.shards.prepared_data import open_data
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.models.sizes import size
from tfllm.serving import Client, ModelServer
from tfllm.tasks import evaluate, load
from tfllm.tasks.sequence_to_sequence.sequence_generation import SearchSettings
from tfllm.tasks.sequence_to_sequence.summarization import Summarization
from tfllm.tasks.sequence_to_sequence.translation import Translation
from tfllm.tokenizers.kinds.byte_pair import BytePairTokenizer
from tfllm.training import train

LENGTH = 24
UNSEEN = ["你好，世界", "Ελληνικά και العربية", "👋🏽 \u202e naïve", "\x00\x1f", "e\u0301\ufffd"]
"""writings that no training text has, of several bytes each, and what is odd in them"""


@pytest.fixture(scope="module")
def tokenizer():
    texts = [text for record in CASES["translation"].records() for text in record.values()]
    return BytePairTokenizer.train(texts, 300, special_tokens=("</s>", "<pad>"))


def made(config, seed=1):
    """A model whose logits differ much."""
    model, rng = EncoderDecoder(config), np.random.default_rng(seed)
    for weight in model.weights:
        if "norm" not in weight.path and "seed" not in weight.path:
            weight.assign(rng.normal(0, 0.4, weight.shape))
    return model


@pytest.fixture(scope="module")
def model(tokenizer):
    sizes = {**TINY_ENCODER_DECODER, "vocab_size": tokenizer.vocab_size}
    return made(Translation().new_config(None, sizes))


SETTINGS = {"num_beams": 3, "length_penalty": 0.7, "no_repeat_ngram_size": 2, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def served(model, tokenizer):
    task = Translation().text_model(model, tokenizer, {"sequence_length": LENGTH})
    return task.with_settings(SETTINGS)


def example_of(tokenizer, text, translation, length=LENGTH):
    record = Record({"text": text, "translation": translation})
    (example,) = Translation().examples(record, tokenizer, {}, length)
    return example


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prepared(data, folder, definition=None, **options):
    config = PrepareConfig(**{"vocab_size": 300, "validation_fraction": 0.2, **options})
    return prepare_task(definition or Translation(), data, folder, config, sequence_length=LENGTH)


def pairs(num=20):
    return [{"text": f"the film {i}", "translation": f"LE FILM {i}"} for i in range(num)]


# ------------------------------------------------------------------ data


def test_files_side_by_side_are_read_and_an_empty_side_is_named(tmp_path):
    files = {"text": tmp_path / "corpus.en", "translation": tmp_path / "corpus.fr"}
    for name, path in files.items():
        path.write_text("".join(f"{pair[name]}\n" for pair in pairs()) + "\n")  # both end empty
    data = prepared(files, tmp_path / "whole")
    assert data.train.num_examples + data.validation.num_examples == 20
    with files["translation"].open("a") as file:
        file.write("SO\n")
    with files["text"].open("a") as file:
        file.write(" \n")
    with pytest.raises(ValueError, match=r"corpus\.en, line 22: 'text' is empty"):
        prepared(files, tmp_path / "out")
    with pytest.warns(UserWarning, match="1 bad record was skipped"):
        data = prepared(files, tmp_path / "out", skip_bad_records=True)
    assert data.train.num_examples + data.validation.num_examples == 20


def test_files_of_different_lengths_are_refused_and_leave_nothing(tmp_path):
    files = {"text": tmp_path / "corpus.en", "translation": tmp_path / "corpus.fr"}
    files["text"].write_text("a\nb\nc\n")
    files["translation"].write_text("A\nB\n")
    with pytest.raises(ValueError, match=r"the same number of lines; received .*\.en 3, .*\.fr 2"):
        prepared(files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("definition", [Translation(), Summarization()])
def test_an_empty_side_is_no_pair(definition, tmp_path):
    for empty in (definition.source, definition.target):
        row = {definition.source: "a day", definition.target: "a night", empty: "\n "}
        data = write(tmp_path / "data.jsonl", [{**row, empty: "x"}, row])
        with pytest.raises(ValueError, match=f"line 2: '{empty}' is empty"):
            prepared(data, tmp_path / "out", definition)


def test_columns_that_are_not_there_are_listed_beside_those_that_are(tmp_path):
    rows = [{"id": i, "translation": {"en": f"a {i}", "es": f"b {i}"}} for i in range(9)]
    data = write(tmp_path / "data.jsonl", rows)
    columns = {"text": "en", "translation": "fr"}
    with pytest.raises(ValueError, match="no column 'fr'; its columns are 'id', 'en', 'es'"):
        prepared(data, tmp_path / "out", columns=columns)
    found = prepared(data, tmp_path / "out", columns={**columns, "translation": "es"})
    assert found.train.num_examples + found.validation.num_examples == 9
    record = found.validation_records()[0]
    assert record["text"].replace("a", "b") == record["translation"]


def test_targets_that_are_all_alike_teach_nothing(tmp_path):
    data = write(tmp_path / "data.jsonl", [{**pair, "translation": "same"} for pair in pairs()])
    with pytest.raises(ValueError, match="nothing to learn if every translation is the same"):
        prepared(data, tmp_path / "out")


def test_the_arrays_of_an_example(tokenizer):
    """The decoder is given the text one place late; both sides end where they may."""
    end, start = tokenizer.token_id("</s>"), tokenizer.token_id("<pad>")
    source, target = (tokenizer.encode(text) for text in ("the film", "FILM THE 你"))
    example = example_of(tokenizer, "the film", "FILM THE 你")
    assert example["source_ids"].tolist() == [*source, end]
    assert example["labels"].tolist() == [*target, end]
    assert example["token_ids"].tolist() == [start, *target]
    # What looks like a special token is text.
    example = example_of(tokenizer, "a </s>", "<pad> b")
    assert end not in example["source_ids"][:-1] and start not in example["labels"]


@pytest.mark.parametrize("side", ["text", "translation", "both"])
def test_what_is_cut_off_is_counted_and_a_cut_target_is_taught_no_end(tokenizer, side):
    end, long = tokenizer.token_id("</s>"), "the day " * 40
    ids = tokenizer.encode(long)
    texts = {"text": "a day", "translation": "a night"}
    texts |= {name: long for name in texts if side in (name, "both")}
    example = example_of(tokenizer, **texts)
    assert example["source_ids"][-1] == end
    assert (example["labels"][-1] == end) == (side == "text")
    if side != "translation":
        assert example["source_ids"][:-1].tolist() == ids[: LENGTH - 1]
    if side != "text":
        assert example["labels"].tolist() == ids[:LENGTH]
    assert example[TRUNCATED] == (len(ids) + 1 - LENGTH) * (2 if side == "both" else 1)
    exact = tokenizer.decode(ids[: LENGTH - 1])
    assert example_of(tokenizer, exact, exact)[TRUNCATED] == 0


def test_examples_that_were_cut_are_told_of(tmp_path):
    rows = [
        {**p, "text": "the film " * (30 * (i % 4 == 0) + 1) + f"{i}"} for i, p in enumerate(pairs())
    ]
    data = prepared(write(tmp_path / "data.jsonl", rows), tmp_path / "out")
    (note,) = data.notes()
    assert note.startswith("5 of 20 examples are longer than 24 tokens and were truncated")


@pytest.mark.parametrize("text", UNSEEN)
def test_writings_that_were_never_seen_have_ids_and_come_back(tokenizer, served, text):
    ids = tokenizer.encode(text, add_special=False, parse_special=False)
    assert tokenizer.decode(ids) == text
    graph = tokenizer.graph()
    assert graph.tokenize([text], add_special=False, parse_special=False).to_list() == [ids]
    assert graph.detokenize(tf.ragged.constant([ids])).numpy()[0].decode() == text
    (answer,) = served.predict([{"text": text}])
    if text.strip():
        assert answer["error"] == "" and answer["generated_tokens"] > 0


# ------------------------------------------------------------------ loss


def log_probs_of(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def alone(model, example):
    """The logarithms of all tokens' probabilities at each label, without any padding."""
    inputs = {n: example[n][np.newaxis] for n in ("source_ids", "token_ids")}
    return log_probs_of(model(inputs)[0])


def negative_sum(model, examples):
    return sum(
        -np.take_along_axis(alone(model, e), e["labels"][:, np.newaxis], 1).sum() for e in examples
    )


@pytest.fixture(scope="module")
def examples(tokenizer):
    texts = [("the film was", "WAS"), ("a " * 20, "NIGHT " * 30), ("你", "ROAD THE IS A 你好")]
    return [example_of(tokenizer, *pair) for pair in texts]


def test_the_loss_of_a_batch_is_that_of_each_pair_without_padding(model, examples):
    """By NumPy, and of smoothed labels by Keras."""
    batch = Translation().batch(examples, LENGTH)
    counts = [len(example["labels"]) for example in examples]
    assert batch.weights.sum(1).tolist() == counts and len(set(counts)) == 3
    inputs = {name: tf.constant(value) for name, value in batch.inputs.items()}
    loss, total = model.loss_sums(inputs, batch.labels, batch.weights, training=False)
    assert total == sum(counts)
    # Each token's own error is less than that of the sum over all, and independent of the others'.
    assert_rounded(loss, negative_sum(model, examples), total)

    config = {**model.get_config()["config"], "dropout": 0.0}
    smoothed = EncoderDecoder(config, label_smoothing=0.1)
    smoothed.set_weights(model.get_weights()[: len(smoothed.weights)])
    loss, _ = smoothed.loss_sums(inputs, batch.labels, batch.weights, training=True)
    cross_entropy = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.1, reduction="sum", dtype="float64"
    )
    of_labels = [np.eye(config["vocab_size"])[e["labels"]] for e in examples]
    pairs = zip(of_labels, examples, strict=True)
    expected = sum(float(cross_entropy(labels, alone(smoothed, e))) for labels, e in pairs)
    assert_rounded(loss, expected, total)


def test_nothing_learns_from_padding(model, examples, rng):
    """Whatever ids stand there, loss and gradients are the same."""
    batch = Translation().batch(examples, LENGTH)
    mask = batch.inputs["source_mask"]
    assert not mask.all() and not batch.weights.all()

    def computed(fill):
        def filled(ids, kept):
            others = rng.integers(0, model.config.vocab_size, ids.shape, np.int32)
            return tf.constant(np.where(kept, ids, others if fill else 0))

        inputs = {
            "source_ids": filled(batch.inputs["source_ids"], mask),
            "source_mask": tf.constant(mask),
            "token_ids": filled(batch.inputs["token_ids"], batch.weights > 0),
        }
        labels = filled(batch.labels, batch.weights > 0)
        with tf.GradientTape() as tape:
            loss, _ = model.loss_sums(inputs, labels, batch.weights, training=False)
            logits = tf.boolean_mask(model(inputs), batch.weights > 0)
            logits = tf.reduce_sum(tf.sin(logits))
        gradients = tape.gradient(logits, model.trainable_weights)
        return [loss, logits, *map(tf.convert_to_tensor, gradients)]

    for plain, other in zip(computed(False), computed(True), strict=True):
        np.testing.assert_array_equal(plain, other)  # what stands there is multiplied by zero


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    records = CASES["translation"].records()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfllm.training.worker_run.matmul_peak", lambda dtype: 1e9)
        patch.setattr(Translation, "max_evaluated_records", 0)
        return train(
            write(folder / "data.jsonl", records),
            folder / "run",
            TINY_ENCODER_DECODER,
            task="translation",
            prepare=PrepareConfig(vocab_size=300, validation_fraction=0.3),
            sequence_length=LENGTH,
            batch_size=4,
            steps=3,
            learning_rate=1e-2,
            precision="float32",
            verbose=False,
        )


@pytest.fixture(scope="module")
def trained(run):
    return load(run.folder)


def test_a_runs_validation_loss_is_that_of_its_records(run, trained):
    data = open_data(run.folder / "data")
    examples = [
        example_of(trained.tokenizer, record["text"], record["translation"])
        for record in data.validation_records()
    ]
    assert len(examples) > 4
    total = sum(len(example["labels"]) for example in examples)
    assert run.validation_loss == about(negative_sum(trained.model, examples) / total, total)


# ------------------------------------------------------------------ search


def plain_search(model, tokenizer, source_ids):
    """A function of a search's settings to what plain Python finds with the model's full forward
    pass: (text, score), the best first."""
    specs = [tf.TensorSpec([1, None], tf.int32)] * 2
    forward = tf.function(
        lambda source, text: model({"source_ids": source, "token_ids": text}),
        input_signature=specs,
        autograph=False,
    )

    @functools.cache
    def log_probs(text):
        ids = np.array([[model.config.decoder_start_token_id, *text]], np.int32)
        return log_probs_of(forward(source_ids[np.newaxis], ids)[0, -1])

    def of(num_beams, length_penalty, no_repeat_ngram_size, max_new_tokens):
        found = beam_search(
            log_probs,
            num_beams,
            max_new_tokens,
            set(tokenizer.end_token_ids),
            length_penalty,
            ngram=no_repeat_ngram_size,
            never=model.config.never_generated,
        )
        return [(tokenizer.decode(list(f.token_ids)), f.score) for f in found]

    return of


def test_n_best_texts_and_scores_are_those_of_a_plain_search(model, tokenizer, served):
    """Of the sources that training would make of the texts: cut, and with their end token."""
    texts = ["the film was", "so very " * 40, "naïve 你好"]
    found = {n: v.numpy() for n, v in served.signatures["n_best"](text=tf.constant(texts)).items()}
    best = served.predict([{"text": text} for text in texts])
    assert found["translation"].shape == found["scores"].shape == (3, 3)
    differs = dict.fromkeys(SETTINGS, False)
    for row, text in enumerate(texts):
        example = example_of(tokenizer, text, "x")
        plain = plain_search(model, tokenizer, example["source_ids"])
        expected = plain(**SETTINGS)
        assert [t.decode() for t in found["translation"][row]] == [t for t, _ in expected]
        assert_rounded(found["scores"][row], [s for _, s in expected], ADDITIONS)
        assert best[row]["translation"] == expected[0][0]
        assert best[row]["score"] == about(expected[0][1], ADDITIONS)
        assert best[row]["truncated_tokens"] == example[TRUNCATED][0]
        others = {"num_beams": 1, "length_penalty": 0.0, "no_repeat_ngram_size": 0}
        for name, value in {**others, "max_new_tokens": 5}.items():
            differs[name] |= plain(**{**SETTINGS, name: value}) != expected
    assert best[1]["truncated_tokens"] > 20
    assert all(differs.values()), f"a setting that decides nothing is not tested: {differs}"


def test_a_row_that_cannot_be_answered_has_no_scores_and_fails_no_other(served):
    (name,) = served.input_names
    found = served.signatures["n_best"](**{name: tf.constant(["", "the film"])})
    assert found["error"].numpy().tolist() == [b"text is empty", b""]
    assert (found["scores"][0].numpy() < -1e38).all() and (found["scores"][1] > -1e3).numpy().all()
    assert (found["translation"][0].numpy() == b"").all()


def test_a_text_gets_at_most_twice_its_sources_tokens_and_16(trained):
    """And no more than the sequence length."""
    reached = 0
    for text in ("a", "the film was so"):
        most = min(2 * len(trained.tokenizer.encode(text)) + 16, LENGTH)
        (answer,) = trained.predict([{"text": text}])
        assert answer["generated_tokens"] <= most
        assert (answer["finish_reason"] == "length") == (answer["generated_tokens"] == most)
        reached += answer["finish_reason"] == "length"
    assert reached


def test_a_summary_is_short_and_says_nothing_twice_by_default(model, tokenizer):
    task = Summarization().text_model(model, tokenizer, {"sequence_length": 32})
    assert task.settings == SearchSettings(max_new_tokens=64, no_repeat_ngram_size=3)
    assert (task.input_name, task.output_name) == ("text", "summary")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 0}, "num_beams must be at least 1; received 0"),
        ({"length_penalty": float("inf")}, r"length_penalty must lie in \[-5, 5\]"),
        ({"beams": 2}, "num_beams"),
    ],
)
def test_settings_that_are_none_are_refused(served, settings, message):
    with pytest.raises(ConfigError, match=message):
        served.with_settings(settings)


# ------------------------------------------------------------------ metrics


def test_metrics_are_those_of_their_packages():
    """With the references as references: swapped, BLEU is another."""
    records = [
        Record({"text": "a", "translation": t, "summary": t})
        for t in ("the cat sat on the mat today", "it is late")
    ]
    said = ["the cat sat on the big red mat", "late"]
    references = [[record["translation"] for record in records]]
    bleu, chrf = Translation().metrics(records, [{"translation": s, "error": ""} for s in said])
    value = sacrebleu.corpus_bleu(said, references).score
    assert bleu.value == in_double(value)
    assert value != in_double(sacrebleu.corpus_bleu(references[0], [said]).score)
    value = sacrebleu.corpus_chrf(said, references).score
    assert chrf.value == in_double(value)
    found = Summarization().metrics(records, [{"summary": s, "error": ""} for s in said])
    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(kinds, use_stemmer=True)
    scores = [scorer.score(*pair) for pair in zip(references[0], said, strict=True)]
    for kind, metric in zip(kinds, found, strict=True):
        value = 100 * np.mean([score[kind].fmeasure for score in scores])
        assert metric.value == in_double(value)


def test_evaluation_measures_the_answers_that_it_writes(trained, tmp_path):
    """A record without a source counts, with an empty translation."""
    rows = [*CASES["translation"].records()[:8], {"text": " ", "translation": "NIGHT"}]
    data = write(tmp_path / "test.jsonl", rows)
    found = evaluate(trained, data, task="translation", out=tmp_path / "answers.jsonl")
    assert (found.num_records, found.num_errors) == (9, 1)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    said = [line["prediction"]["translation"] for line in lines]
    assert said[-1] == "" and any(said)
    references = [[row["translation"] for row in rows]]
    scores = [f(said, references).score for f in (sacrebleu.corpus_bleu, sacrebleu.corpus_chrf)]
    assert [metric.value for metric in found.metrics] == in_double(scores)
    assert said == [answer["translation"] for answer in trained.predict(rows)]


# ------------------------------------------------------------------ folders that others wrote


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A Marian or a T5 as `transformers` would write it, tiny and without tfllm.json."""

    @functools.cache
    def of(name):
        tokenizer = pretrained.load_tokenizer(FOLDER / name)
        start = tokenizer.token_id("<pad>")
        config = size(
            "t5-small" if name == "t5" else "transformer-tiny",
            **{"vocab_size": 400, "embedding_dim": 8, "num_heads": 2, "head_dim": 4},
            **{"num_layers": 1, "num_decoder_layers": 1, "feed_forward_dim": 8},
            **{"decoder_start_token_id": start, "max_sequence_length": 32},
            never_generated=() if name == "t5" else (start,),
        )
        folder = pretrained.save(made(config), tmp_path_factory.mktemp(name) / "model", tokenizer)
        (folder / "tfllm.json").unlink()
        return folder

    return of


@pytest.mark.slow
def test_a_marian_translates_and_its_folder_is_exported_as_it_is(folder_of, tmp_path, monkeypatch):
    """And the server gives the n-best that the task gives."""
    folder, loaded = folder_of("marian"), []
    assert pretrained.task_of(folder) == {"name": "translation", "information": {}}

    def kept(*given, **options):
        loaded.append(load(*given, **options))
        return loaded[0]

    monkeypatch.setattr("tfllm.tasks.load", kept)
    assert main(["export", str(folder), str(tmp_path / "served" / "marian")]) == 0
    (task,) = loaded
    texts = ["the film was", "", "naïve 你好 👋🏽"]
    expected = {n: v.numpy() for n, v in task.signatures["n_best"](tf.constant(texts)).items()}
    assert expected["error"].tolist() == [b"", b"text is empty", b""]
    told = [[text.decode() for text in row] for row in expected["translation"]]
    with ModelServer(tmp_path / "served", rest_port=0, grpc_port=0) as server:
        for protocol, address in (("rest", server.rest_address), ("grpc", server.grpc_address)):
            with Client(address, model="marian", protocol=protocol) as client:
                inputs = {"text": np.array(texts, object)}
                given = client.predict(inputs, signature_name="n_best")
            assert_rounded(given["scores"], expected["scores"], ADDITIONS)
            assert given["translation"].tolist() == told


def test_a_t5_does_what_it_is_told_and_an_error_says_how(folder_of, tmp_path, capsys):
    folder = str(folder_of("t5"))
    assert pretrained.task_of(folder) is None
    with pytest.raises(ValueError, match=r'does not say its task.*task="translation".*--task'):
        load(folder)
    assert main(["export", folder, str(tmp_path / "served")]) == 1
    assert "--task summarization" in capsys.readouterr().err
    assert load(folder, task="translation").output_name == "translation"
    words = ["predict", folder, "--task", "summarization", "text=the film was"]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"] == "" and "summary" in answer
    with pytest.raises(ValueError, match="was trained for no task; classification needs"):
        load(folder, task="classification")


@pytest.mark.parametrize("name", ["marian", "t5"])
def test_texts_are_searched_as_the_folder_says(folder_of, tmp_path, name):
    """generation_config.json before config.json; what neither says is the task's default."""
    folder = tmp_path / "model"
    shutil.copytree(folder_of(name), folder)
    path = folder / "generation_config.json"

    def say(file, **said):
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(known | said))

    def settings(task):
        return load(folder, task=task).settings

    say(folder / "config.json", num_beams=7, length_penalty=0.5)
    assert settings("translation") == SearchSettings()
    say(path, num_beams=2, length_penalty=None, no_repeat_ngram_size=5, max_length=512)
    # The token that a text begins with counts in max_length.
    found = {"num_beams": 2, "no_repeat_ngram_size": 5, "max_new_tokens": 511}
    assert settings("translation") == SearchSettings(**found)
    if name == "t5":
        assert settings("summarization") == SearchSettings(**found)
        say(path, bad_words_ids=[[7], [9]], begin_suppress_tokens=[3], min_length=5)
        say(path, early_stopping=True, renormalize_logits=True)
        found |= {"suppress_tokens": (7, 9), "begin_suppress_tokens": (3,), "min_new_tokens": 4}
        found |= {"early_stopping": True, "renormalize_logits": True}
        assert settings("translation") == SearchSettings(**found)
    say(path, repetition_penalty=1.2)
    refused = load(folder, task="translation")
    with pytest.raises(ValueError, match=r"repetition_penalty=1\.2.*unsupported_settings=\(\)"):
        refused.predict([{"text": "a"}])
    refused.with_settings({"unsupported_settings": ()}).predict([{"text": "a"}])
    path.unlink()
    assert settings("translation") == SearchSettings(num_beams=7, length_penalty=0.5)
    say(path, num_beams=0)
    with pytest.raises(ValueError, match="model: num_beams must be at least 1; received 0"):
        settings("translation")


def test_a_model_of_another_task_is_refused(run, folder_of):
    for folder in (run.folder, folder_of("marian")):
        with pytest.raises(ValueError, match="for translation; summarization needs a model"):
            load(folder, task="summarization")


def test_the_tokenizers_of_metrics_are_settings_of_their_tasks(monkeypatch, capsys):
    from tfllm.cli import main
    from tfllm.data.reading.table_records import Record
    from tfllm.tasks import evaluate, evaluating, task_named

    zh = "猫坐在垫子上。"
    records = [Record({"translation": zh, "summary": zh}, "record 1")]
    given = [{"translation": zh, "summary": zh}]
    (bleu, _), rouge = (
        task_named("translation").metrics(records, given, bleu_tokenizer="char"),
        task_named("summarization").metrics(records, given, rouge_tokenizer="english"),
    )
    assert "tok:char|" in bleu.note and rouge[0].value == 0
    with pytest.raises(ValueError, match="rouge_tokenizer is not for the task translation"):
        evaluate("m", "d", task="translation", rouge_tokenizer="auto")
    asked = {}

    def record(*args, **settings):
        asked.update(settings)
        raise ValueError("asked")

    monkeypatch.setattr("tfllm.tasks.evaluate", record)
    assert evaluating.evaluate is not record
    main(["evaluate", "m", "--data", "m", "--task", "translation", "--bleu-tokenizer", "zh"])
    capsys.readouterr()
    assert asked["bleu_tokenizer"] == "zh"
