"""Tagging: the spans of a text that are something, such as the names of people and places."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.data.reading.table_records import Column, Record
from tfllm.data.shards.padding import padded
from tfllm.data.shards.splits import RowBatch
from tfllm.models.heads.token_classifier import TokenClassifier
from tfllm.tasks.encoder.encoder_inputs import is_blank
from tfllm.tasks.encoder.encoder_task import EncoderTask
from tfllm.tasks.encoder.span_labels import read_spans, tags_of, token_tags
from tfllm.tasks.encoder.text_spans import cut_out
from tfllm.tasks.encoder.windows import in_chunks, tokens_of, windows_in_graph, windows_of
from tfllm.tasks.json_rows import json_lists, json_numbers, json_objects, json_strings
from tfllm.tasks.record_task import Example
from tfllm.tasks.text_model import TextModel, plain

if TYPE_CHECKING:
    from tfllm.evaluation.measures import Measure
    from tfllm.tokenizers.base import Tokenizer

_OVERLAP = 4
"""a quarter of a window is shared with the next"""
_TELL = 10


class Tagging(EncoderTask):
    """Find spans of a text and give each a label, such as the names of people and places.

    A span covers whole words and overlaps no other. Words are tagged B- (the first of a span), I-
    (a further one) or O, by their first piece. A text of more tokens than `sequence_length` becomes
    windows that overlap by a quarter; each word is learned, and answered, in the window that shows
    more of what is around it.

    Records: JSON lines with `text` and `spans`, a list of `{"begin", "end", "label"}` in characters
    (`end` exclusive); or the tagged words of CoNLL (`tfllm.data.reading.conll`).
    """

    name = "tagging"
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(aliases=("sentence", "content")),
        "spans": Column(aliases=("entities", "annotations", "labels"), kind="json", is_input=False),
    }
    training_defaults: ClassVar[Mapping[str, Any]] = {
        **EncoderTask.training_defaults,
        "sequence_length": 192,
    }

    def information(self, records: Sequence[Record]) -> dict[str, Any]:
        """The labels in the order of the alphabet.

        Spans that are none are left to `examples`, which says where they stand.

        Raises:
            ValueError: there is no span.
        """
        labels = set()
        first = ""
        for record in records:
            try:
                labels |= {span.label for span in read_spans(record["spans"], record["text"])}
            except ValueError as error:
                first = first or f" ({record.where}: {error})"
        if not labels:
            raise ValueError(
                f"none of the {len(records):,} training records has a span that can be learned "
                f"from{first}; give records with some, as "
                '"spans": [{"begin": 0, "end": 3, "label": "NAME"}]'
            )
        return {"labels": sorted(labels)}

    def examples(
        self,
        record: Record,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[Example]:
        """A window each: `token_ids`, `token_type_ids`, `tags` and `counts` (1: is learned)."""
        given: Any = tokenizer
        text = record["text"]
        spans = read_spans(record["spans"], text)
        ids, offsets = given.encode_with_offsets(text, parse_special=False, add_special=False)
        continuing = _continuing(given)
        tags = token_tags(text, spans, ids, offsets, continuing, information["labels"])
        room = _room(sequence_length)
        examples = []
        for window in windows_of(len(ids), room, room // _OVERLAP):
            inside = range(window.begin, window.end)
            shown = [given.cls_token_id, *(ids[i] for i in inside), given.sep_token_id]
            owned = range(window.own_begin, window.own_end)
            counts = [0, *(int(i in owned and tags[i] >= 0) for i in inside), 0]
            arrays = {
                "token_ids": shown,
                "token_type_ids": [0] * len(shown),
                "tags": [0, *(max(tags[i], 0) for i in inside), 0],
                "counts": counts,
            }
            examples.append({name: np.array(v, np.int32) for name, v in arrays.items()})
        return examples

    def batch(self, examples: Sequence[Example], sequence_length: int) -> RowBatch:
        """As `TokenClassifier` is fitted: labels int32 [B, T], weights [B, T]."""
        tags = padded([example["tags"] for example in examples], sequence_length)
        counts = padded([example["counts"] for example in examples], sequence_length)
        inputs = self.batch_inputs(examples, sequence_length)
        return RowBatch(inputs, tags, counts.astype(np.float32))

    def head(self, encoder: Any, information: Mapping[str, Any], **options: Any) -> TokenClassifier:
        """A `TokenClassifier` of O, B- and I-."""
        return TokenClassifier(encoder, label_names=tags_of(information["labels"]), **options)

    def text_model(
        self, model: Any, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> SpanTagger:
        """A `SpanTagger`."""
        return SpanTagger(model, tokenizer, information)

    def measures(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Measure]:
        """F1, precision and recall of whole spans: both ends and the label."""
        from tfllm.evaluation.label_measures import span_f1, span_precision, span_recall

        references = [read_spans(record["spans"], record["text"]) for record in records]
        predicted = [
            [(span["begin"], span["end"], span["label"]) for span in prediction["spans"]]
            for prediction in predictions
        ]
        true = [[tuple(span) for span in spans] for spans in references]
        return [of(true, predicted) for of in (span_f1, span_precision, span_recall)]

    def remarks(self, records: Sequence[Record], served: Any) -> list[str]:
        """How many spans have a label that the model has never seen."""
        spans = [s for r in records for s in read_spans(r["spans"], r["text"])]
        unknown = Counter(span.label for span in spans if span.label not in served.labels)
        if not unknown:
            return []
        told = ", ".join(map(repr, list(unknown)[:_TELL]))
        return [
            f"{sum(unknown.values()):,} of {len(spans):,} spans have labels that the model was not "
            f"trained with ({told}): it cannot find them"
        ]


class SpanTagger(TextModel):
    """A token classifier as a function from texts to spans.

    Signature `serving_default`: `text` string [B] to `spans_json` string [B], each row a JSON list
    of objects `{"begin", "end", "label", "text", "score"}` (characters of the text, the end
    exclusive; the score is the mean probability of the span's tags), `num_spans` int32 [B] and
    `error` string [B] ("", or that the text is empty).

    A text of any length is seen whole, in windows.

    Args:
        model: a token classifier of O, B- and I-.
        tokenizer: of the model.
        information: `labels`.
    """

    task_name = "tagging"

    warmup_texts = ("The President of the United States", "")

    def __init__(
        self, model: TokenClassifier, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> None:
        super().__init__(name="span_tagger")
        self.model = model
        self.tokenizer = tokenizer
        self.information = dict(information)
        self.labels = tuple(information["labels"])
        context = model.config.max_sequence_length
        self.sequence_length = min(int(information.get("sequence_length", context)), context)
        if len(tags_of(self.labels)) != model.num_labels:
            raise ValueError(
                f"{len(self.labels)} labels are {len(tags_of(self.labels))} tags (O, and B- and I- "
                f"of each); the model tells {model.num_labels} apart"
            )
        self._graph: Any = tokenizer.graph()
        names = [json.dumps(label, ensure_ascii=False) for label in ("", *self.labels)]
        self._label_names = tf.constant(names)
        """as JSON"""
        continues = np.zeros(tokenizer.vocab_size, bool)
        continues[list(_continuing(tokenizer))] = True
        with tf.device("/CPU:0"):
            self._continues = tf.Variable(continues, trainable=False, name="continues")
        self._functions: dict[str, Any] = {}

    @property
    def signatures(self) -> dict[str, Any]:
        """`serving_default`."""
        if not self._functions:
            spec = tf.TensorSpec([None], tf.string, "text")
            self._functions = {
                "serving_default": tf.function(self._spans, input_signature=[spec], autograph=False)
            }
        return self._functions

    @property
    def served_state(self) -> dict[str, Any]:
        """The weights and the tokenizer."""
        return {
            "weights": self.model.weights,
            "tokenizer": self._graph,
            "continues": self._continues,
        }

    def with_dtype(self, dtype: str) -> SpanTagger:
        """The same with another dtype, or itself."""
        if dtype == self.model.dtype_policy.name:
            return self
        return type(self)(self.model.with_dtype(dtype), self.tokenizer, self.information)

    def tag(self, texts: str | Sequence[str]) -> Any:
        """The spans of texts.

        Args:
            texts: one text or several.

        Returns:
            a list of `{"begin", "end", "label", "text", "score"}` for a single text, or a list of
            such lists; an empty text has none.
        """
        rows = [texts] if isinstance(texts, str) else list(texts)
        found = [answer["spans"] for answer in self.predict([{"text": row} for row in rows])]
        return found[0] if isinstance(texts, str) else found

    def answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The spans as objects."""
        return {"spans": json.loads(plain(row["spans_json"])), "error": plain(row["error"])}

    # ------------------------------------------------------------------ in the graph

    def _spans(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        ids, begins, ends = self._graph.tokenize_with_offsets(
            text, parse_special=False, add_special=False
        )
        tags, scores = self._token_tags(ids)
        rows = tf.cast(ids.value_rowids(), tf.int32)
        begins, ends = begins.values, ends.values

        # Words: what their first pieces say, up to the end of their last.
        is_word = ~tf.gather(self._continues, ids.values)
        word = tf.cumsum(tf.cast(is_word, tf.int32)) - 1
        num_words = tf.reduce_sum(tf.cast(is_word, tf.int32))
        ends = tf.math.unsorted_segment_max(ends, word, num_words)
        tags, scores, rows, begins = (
            tf.boolean_mask(x, is_word) for x in (tags, scores, rows, begins)
        )

        # Spans: a word that is no O goes on with the span before it, or begins one.
        label = (tags + 1) // 2  # 0 is none
        is_first = (tags % 2 == 1) & (tags > 0)
        edge = tf.fill([tf.minimum(tf.size(tags), 1)], True)
        other = (label[1:] != label[:-1]) | (rows[1:] != rows[:-1])
        starts = (label > 0) & (is_first | tf.concat([edge, other], 0))
        inside = label > 0
        span = tf.boolean_mask(tf.cumsum(tf.cast(starts, tf.int32)) - 1, inside)
        num_spans = tf.reduce_sum(tf.cast(starts, tf.int32))
        ends = tf.math.unsorted_segment_max(tf.boolean_mask(ends, inside), span, num_spans)
        scores = tf.math.unsorted_segment_mean(tf.boolean_mask(scores, inside), span, num_spans)
        begins, rows, label = (tf.boolean_mask(x, starts) for x in (begins, rows, label))
        texts, ends = cut_out(tf.gather(text, rows), begins, ends)

        spans = json_objects(
            [
                ("begin", json_numbers(begins)),
                ("end", json_numbers(ends)),
                ("label", tf.gather(self._label_names, label)),
                ("text", json_strings(texts)),
                ("score", json_numbers(scores)),
            ]
        )
        batch = tf.size(text)
        is_empty = is_blank(text)
        return {
            "spans_json": json_lists(spans, rows, batch),
            "num_spans": tf.math.bincount(rows, minlength=batch, maxlength=batch),
            "error": tf.where(is_empty, "the text is empty", ""),
        }

    def _token_tags(self, ids: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Of the tokens of all texts, int32 [N], their likeliest tags, and float32 [N], how
        probable these are."""
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        room = tf.fill(tf.shape(lengths), tf.constant(_room(self.sequence_length)))
        windows = windows_in_graph(lengths, room, room // _OVERLAP)
        shown = tokens_of(windows, ids)
        number = tf.size(windows.rows)
        begin = tf.fill([number, 1], tf.constant(self._begin, tf.int32))
        end = tf.fill([number, 1], tf.constant(self._end, tf.int32))
        ids_of_windows = tf.concat([begin, shown, end], 1)
        token_ids = ids_of_windows.to_tensor()
        places = tf.range(tf.shape(token_ids)[1])
        mask = places < tf.cast(ids_of_windows.row_lengths(), tf.int32)[:, tf.newaxis]

        def tags(token_ids: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            inputs = {
                "token_ids": token_ids,
                "token_type_ids": tf.zeros_like(token_ids),
                "padding_mask": mask,
            }
            probabilities = tf.nn.softmax(self.model(inputs, training=False))
            likeliest = tf.argmax(probabilities, -1, tf.int32)
            return likeliest, tf.reduce_max(probabilities, -1)

        found, scores = in_chunks(
            tags,
            [token_ids, mask],
            [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.float32)],
        )
        token = places - 1 + windows.begins[:, tf.newaxis]
        owned = (token >= windows.own_begins[:, tf.newaxis]) & (
            token < windows.own_ends[:, tf.newaxis]
        )
        return tf.boolean_mask(found, owned), tf.boolean_mask(scores, owned)

    @property
    def _begin(self) -> int:
        given: Any = self.tokenizer
        return given.cls_token_id

    @property
    def _end(self) -> int:
        given: Any = self.tokenizer
        return given.sep_token_id


def _room(sequence_length: int) -> int:
    """Tokens of a text in a window: [CLS] and [SEP] stand around them."""
    return sequence_length - 2


def _continuing(tokenizer: Any) -> frozenset[int]:
    if not hasattr(tokenizer, "continuing_ids"):
        raise ValueError(
            "tagging needs a WordPiece tokenizer, which says where words begin; received "
            f"{type(tokenizer).__name__}"
        )
    return tokenizer.continuing_ids
