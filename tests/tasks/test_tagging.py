"""Tagging beyond the contract: spans and tags, windows, offsets, CoNLL files."""

import json
import random
import warnings

import pytest
import tensorflow as tf

from tests.tasks.oracles import Oracle, one_hot_logits
from tests.tasks.tiny_cases import prepare_task
from tfllm.config import ConfigError, PrepareConfig
from tfllm.data.reading.table_records import Record, read_table
from tfllm.evaluation.metric_values import metric_values
from tfllm.tasks.encoder.span_labels import Span, read_spans, tags_of, token_tags
from tfllm.tasks.encoder.span_tagger import SpanTagger
from tfllm.tasks.encoder.tagging import Tagging
from tfllm.tokenizers.kinds.word_piece import WordPiece

LABELS = ["PERSON", "PLACE"]
TEXT = "Mr Smith met Anna Maria in São Paulo, so mr Jones"


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece.train([TEXT.replace("Jones", "Jon es so") + " so long unbelievable"] * 3, 90)


def tagger(tokenizer, tag_of_word, sequence_length, after=None):
    """A tagger that knows words, or those that stand after another one."""
    ids = {tokenizer.encode(w, add_special=False)[0]: t for w, t in tag_of_word.items()}
    tags = tags_of(LABELS)

    def logits(token_ids, mask):
        known = token_ids
        if after is not None:
            before = tf.pad(token_ids[:, :-1], [[0, 0], [1, 0]])
            known = tf.where(before == tokenizer.encode(after, add_special=False)[0], known, -1)
        places = tf.zeros_like(token_ids)
        for id_, tag in ids.items():
            places = tf.where(known == id_, tags.index(tag), places)
        return one_hot_logits(places, len(tags))

    information = {"labels": LABELS, "sequence_length": sequence_length}
    return SpanTagger(Oracle(logits, len(tags)), tokenizer, information)


def spans_of(text, *words):
    found, begin = [], 0
    for word, label in words:
        begin = text.index(word, begin)
        found.append((begin, begin + len(word), label))
        begin += len(word)
    return found


def plain_spans(found):
    return [(s["begin"], s["end"], s["label"]) for s in found]


KNOWN = {"smith": "B-PERSON", "anna": "B-PERSON", "maria": "I-PERSON", "sao": "B-PLACE",
         "paulo": "I-PLACE", "jones": "B-PERSON"}  # fmt: skip


def test_offsets_are_characters_of_the_text(tokenizer):
    found = tagger(tokenizer, KNOWN, 64)
    text = f"\U0001f389\t {TEXT}\u0301\u00a0é"
    wanted = spans_of(
        text, ("Smith", "PERSON"), ("Anna Maria", "PERSON"), ("São Paulo", "PLACE"),
        ("Jones\u0301", "PERSON"),
    )  # fmt: skip
    spans = found.tag(text)
    assert plain_spans(spans) == wanted
    assert [s["text"] for s in spans] == [text[b:e] for b, e, _ in wanted]
    assert all(0.99 < s["score"] <= 1 for s in spans)
    assert found.tag(["", text, "so so"]) == [[], spans, []]
    outputs = found.signatures["serving_default"](tf.constant([text, "so"]))
    assert outputs["num_spans"].numpy().tolist() == [4, 0]
    assert json.loads(outputs["spans_json"].numpy()[0]) == spans
    assert outputs["spans_json"].numpy()[1] == b"[]"


def test_a_span_with_quotes_and_control_characters_is_json(tokenizer):
    labels = ['A "b" \\', "PLACE"]
    found = tagger(tokenizer, {"smith": "B-PERSON", "anna": "I-PERSON"}, 64)
    found = SpanTagger(found.model, tokenizer, {**found.information, "labels": labels})
    text = 'so Smith\n\t Anna\x01 "Smith\\'
    first, second = found.tag(text)
    assert (first["text"], first["label"]) == ("Smith\n\t Anna", labels[0])
    assert text[second["begin"] : second["end"]] == second["text"] == "Smith"
    (row,) = found.signatures["serving_default"](tf.constant([text]))["spans_json"].numpy()
    assert json.loads(row) == [first, second]


def test_tags_that_do_not_fit_still_make_spans(tokenizer):
    tags = {"so": "B-PERSON", "long": "I-PERSON", "mr": "I-PLACE"}
    wanted = {
        "so": [(0, 2, "PERSON")],
        "long so": [(0, 4, "PERSON"), (5, 7, "PERSON")],  # the row before is no part of it
        "so so": [(0, 2, "PERSON"), (3, 5, "PERSON")],
        "long long": [(0, 9, "PERSON")],
        "so mr": [(0, 2, "PERSON"), (3, 5, "PLACE")],
        "met mr": [(4, 6, "PLACE")],
    }
    function = tagger(tokenizer, tags, 32).signatures["serving_default"]
    outputs = {n: v.numpy() for n, v in function(tf.constant(list(wanted))).items()}
    for row, spans in enumerate(wanted.values()):
        found = json.loads(outputs["spans_json"][row])
        assert [tuple(span[n] for n in ("begin", "end", "label")) for span in found] == spans
        assert outputs["num_spans"][row] == len(spans)


@pytest.mark.parametrize("sequence_length", [10, 13, 64])
def test_windows_of_a_long_text_give_what_the_whole_text_gives(tokenizer, sequence_length):
    """A word is known by the one before it, which a border of windows must not part from it."""
    rng = random.Random(0)
    words = rng.choices(["mr smith", "smith", "so", "unbelievable", "mr jones", "mr"], k=150)
    text = " ".join(words)
    wanted, begin = [], 0
    for number, word in enumerate(text.split()):
        if number and text.split()[number - 1] == "mr" and word in ("smith", "jones"):
            wanted.append((begin, begin + len(word), "PERSON"))
        begin += len(word) + 1
    assert len(wanted) > 30
    found = tagger(tokenizer, KNOWN, sequence_length, after="mr")
    assert [plain_spans(s) for s in found.tag([text, "so", text])] == [wanted, [], wanted]


@pytest.mark.parametrize("sequence_length", [8, 20, 300])
def test_examples_hold_every_word_once(tokenizer, sequence_length):
    rng = random.Random(1)
    words = rng.choices(["Smith", "so", "unbelievable", "São Paulo", "Anna", ","], k=60)
    text, spans = "", []
    for word in words:
        text += " "
        if word in ("Smith", "Anna", "São Paulo"):
            label = "PLACE" if word == "São Paulo" else "PERSON"
            spans.append({"begin": len(text), "end": len(text) + len(word), "label": label})
        text += word
    record = Record({"text": text, "spans": spans})
    information = {"labels": LABELS}
    examples = Tagging().examples(record, tokenizer, information, sequence_length)
    ids, offsets = tokenizer.encode_with_offsets(text, parse_special=False, add_special=False)
    tags = token_tags(
        text, read_spans(spans, text), ids, offsets, set(tokenizer.continuing_ids), LABELS
    )
    counted = [
        (int(i), int(t))
        for e in examples
        for i, t, c in zip(e["token_ids"], e["tags"], e["counts"], strict=True)
        if c
    ]
    assert counted == [(i, t) for i, t in zip(ids, tags, strict=True) if t >= 0]
    assert all(len(e["token_ids"]) <= sequence_length for e in examples)
    batch = Tagging().batch(examples, sequence_length)
    assert batch.labels.shape == batch.weights.shape == batch.inputs["token_ids"].shape
    assert batch.weights.sum() == len(counted)


def test_words_in_pieces_and_marks_beside_letters(tokenizer):
    text = "unbelievables Cafe\u0301, 世界"
    ids, offsets = tokenizer.encode_with_offsets(text, add_special=False)
    continuing = set(tokenizer.continuing_ids)
    spans = [Span(0, 13, "PLACE"), Span(14, 19, "PERSON"), Span(21, 23, "PLACE")]
    tags = token_tags(text, spans, ids, offsets, continuing, LABELS)
    named = [tags_of(LABELS)[t] if t >= 0 else "" for t in tags]
    assert named[0] == "B-PLACE"
    assert named[-3:] == ["O", "B-PLACE", "I-PLACE"]
    assert named.count("") == sum(i in continuing for i in ids) > 0


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ("PERSON", "must be a list of spans"),
        (
            [{"begin": 0, "label": "A"}],
            "begin and end, which are positions of characters, and a label",
        ),
        ([[0, 2, ""]], "and a label"),
        ([[True, 2, "A"]], "positions of characters"),
        ([[0, 99, "A"]], "lie within its text, which has 49 characters; received 0 to 99"),
        ([[3, 3, "A"]], "lie within its text"),
        ([[2, 8, "A"]], r"begin or end with space; received 2 to 8 \(A\): ' Smith'"),
        ([[0, 8, "A"], [3, 8, "B"]], "must not overlap; received 0 to 8 .* and 3 to 8"),
    ],
)
def test_spans_that_are_none(spans, message):
    with pytest.raises(ValueError, match=message):
        read_spans(spans, TEXT)


@pytest.mark.parametrize(
    ("span", "message"),
    [
        (Span(0, 1, "PERSON"), "where words do; received 0 to 1 .*'M'.* the words are 'Mr'"),
        (Span(4, 8, "PERSON"), "the words are 'Smith'"),
        (Span(0, 8, "ANIMAL"), r"'ANIMAL' is not among those .* \('PERSON', 'PLACE'\)"),
    ],
)
def test_spans_that_do_not_fit_the_words(tokenizer, span, message):
    ids, offsets = tokenizer.encode_with_offsets(TEXT, add_special=False)
    with pytest.raises(ValueError, match=message):
        token_tags(TEXT, [span], ids, offsets, set(tokenizer.continuing_ids), LABELS)


def test_other_names_for_the_fields():
    given = [{"start": 3, "end": 8, "type": "PERSON"}, [0, 2, "TITLE"]]
    assert read_spans(given, TEXT) == [(0, 2, "TITLE"), (3, 8, "PERSON")]


def test_bad_records_can_be_skipped_and_are_counted(tmp_path):
    rows = [{"text": "so Anna", "spans": [[3, 7, "PERSON"]]}] * 5
    rows += [{"text": "so Anna", "spans": [[4, 7, "PERSON"]]}, {"text": "a", "spans": []}]
    data = tmp_path / "a.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = PrepareConfig(vocab_size=40, validation_fraction=0.0)
    with pytest.raises(ValueError, match=r"line 6 .*begin and end where words do"):
        prepare_task(
            Tagging(), str(data), tmp_path / "no", config, sequence_length=8, show_progress=False
        )
    skipping = PrepareConfig(vocab_size=40, validation_fraction=0.0, skip_bad_records=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = prepare_task(
            Tagging(), str(data), tmp_path / "yes", skipping, sequence_length=8, show_progress=False
        )
    assert any("1 bad record was skipped" in str(w.message) for w in caught)
    assert any("1 bad record was skipped" in note for note in made.notes())


def test_no_spans_at_all():
    with pytest.raises(ValueError, match="none of the 1 training records has a valid span"):
        Tagging().information([Record({"text": "a", "spans": []})])
    wrong = Record({"text": "a", "spans": [{"from": 0, "to": 1, "label": "A"}]}, "a.jsonl, line 3")
    with pytest.raises(ValueError, match=r"\(a.jsonl, line 3: a span must have begin and end"):
        Tagging().information([wrong])


def test_a_sequence_length_without_room_for_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least 8 for tagging; received 2"):
        prepare_task(Tagging(), str(tmp_path / "a.jsonl"), tmp_path / "no", sequence_length=2)


def test_a_wrong_span_of_a_validation_record_is_no_matter_of_training(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "so Anna", "spans": [[3, 7, "PERSON"]]}\n' * 2)
    (tmp_path / "b.jsonl").write_text('{"text": "so Anna", "spans": [[4, 7, "PERSON"]]}\n')
    config = PrepareConfig(vocab_size=40, validation=(str(tmp_path / "b.jsonl"),))
    with pytest.raises(ValueError, match=r"line 1 \(validation\): a span must begin") as caught:
        prepare_task(
            Tagging(), str(tmp_path / "a.jsonl"), tmp_path / "no", config, sequence_length=8,
            show_progress=False,
        )  # fmt: skip
    assert "must not go beyond the training" not in str(caught.value)


def test_metrics_and_remarks(tokenizer):
    records = [
        Record({"text": "so Anna", "spans": [[3, 7, "PERSON"]]}),
        Record({"text": "Anna so", "spans": [[0, 4, "ANIMAL"]]}),
    ]
    served = tagger(tokenizer, KNOWN, 32)
    found = {
        m.name: m.value for m in metric_values(Tagging().metrics(records, served.predict(records)))
    }
    assert found == {"span F1": 0.5, "span precision": 0.5, "span recall": 0.5}
    (remark,) = Tagging().remarks(records, served)
    assert "1 of 2 spans have labels that the model was not trained with ('ANIMAL')" in remark


CONLL = """-DOCSTART- O

Mr O
Smith\tNNP\tB-PERSON
Jones\tI-PERSON

São I-PLACE
Paulo I-PLACE
"""


def test_conll_files_are_records(tmp_path):
    (tmp_path / "a.conll").write_text(CONLL, encoding="utf-8")
    first, second = read_table(tmp_path / "a.conll", Tagging.columns).records
    assert first["text"] == "Mr Smith Jones"
    assert read_spans(first["spans"], first["text"]) == [(3, 14, "PERSON")]
    assert read_spans(second["spans"], second["text"]) == [(0, 9, "PLACE")]
    assert second.where.endswith("a.conll, line 7")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Smith", "line 1 must have a word and its tag"),
        ("a X-Y", "line 1: a tag must be O, B-NAME"),
    ],
)
def test_bad_lines_of_conll_files(line, message, tmp_path):
    (tmp_path / "a.bio").write_text(f"{line}\n\nMr O\n")
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "a.bio", Tagging.columns)
    with pytest.warns(UserWarning, match="1 bad record"):
        table = read_table(tmp_path / "a.bio", Tagging.columns, skip_bad_records=True)
    assert [record["text"] for record in table.records] == ["Mr"]


def test_a_model_of_other_labels_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"3 labels give 7 tags .*the model has 5"):
        SpanTagger(Oracle(None, 5), tokenizer, {"labels": ["A", "B", "C"]})
