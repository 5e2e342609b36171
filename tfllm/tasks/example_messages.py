"""Read texts from tf.train.Example messages in a graph, where a bad row does not affect others.

`tf.io.parse_example` refuses a whole batch if one message is damaged or has another type; but in a
server's batch the other rows belong to other clients. Therefore the wire format is parsed here, for
all messages of the batch in parallel: level by level of the nested messages (Example, Features, an
entry of its map, Feature, BytesList), and field by field within a level.

Protocol buffers' wire format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfllm.tokenizers.graph.ragged_rows import flagged

MOST_FIELDS = 1000
"""maximum number of fields in a message; a row with more is refused, to bound the time"""
_TAG_BYTES = 5
_VARINT_BYTES = 10
_LENGTH_DELIMITED = 2
_KINDS = {1: "bytes_list", 2: "float_list", 3: "int64_list"}
UNREADABLE = "inputs must be tf.train.Example messages; this one cannot be read"


class ExampleTexts(NamedTuple):
    """The texts in messages."""

    texts: list[tf.Tensor]
    """text of each feature, string [B]; "" for rows with an error"""
    error: tf.Tensor
    """error of each message, or \"\", string [B]"""


class _Fields(NamedTuple):
    """Length-delimited fields, sorted by message; each int64 [F]."""

    message: tf.Tensor
    """index of the message"""
    number: tf.Tensor
    """number of the field"""
    begin: tf.Tensor
    end: tf.Tensor


def example_texts(serialized: tf.Tensor, names: Sequence[str]) -> ExampleTexts:
    """Read the text of each named feature, which must be a single string.

    Args:
        serialized: messages, string [B].
        names: names of the features.
    """
    lengths = tf.cast(tf.strings.length(serialized), tf.int64)
    ends = tf.cumsum(lengths)
    # Followed by zeros, which belong to no field, so that reads may go beyond the end.
    joined = tf.strings.join([tf.strings.reduce_join(serialized), b"\0" * _VARINT_BYTES])
    content = tf.io.decode_raw(joined, tf.uint8)
    num_rows = tf.size(serialized, tf.int64)

    examples, good = _read_fields(content, ends - lengths, ends)
    bad = ~good
    features, rows = _chosen(examples, 1, tf.range(num_rows))
    maps, good = _read_fields(content, features.begin, features.end)
    bad |= _any(~good, rows, num_rows)
    entries, rows = _chosen(maps, 1, rows)
    parts, good = _read_fields(content, entries.begin, entries.end)
    bad |= _any(~good, rows, num_rows)
    keys, _ = _chosen(parts, 1, rows)
    values, row_of_value = _chosen(parts, 2, rows)
    kinds, good = _read_fields(content, values.begin, values.end)
    bad |= _any(~good, row_of_value, num_rows)
    lists, _ = _chosen(kinds, 1, row_of_value)
    entry_of_list = tf.gather(values.message, lists.message)
    strings, good = _read_fields(content, lists.begin, lists.end)
    bad |= _any(~good, tf.gather(rows, entry_of_list), num_rows)

    num_entries = tf.size(entries.begin, tf.int64)
    key = _last(keys, keys.message, num_entries)
    is_kind = kinds.number <= len(_KINDS)  # other fields are unknown
    numbers, numbered = flagged(is_kind, kinds.number, tf.gather(values.message, kinds.message))
    kind_of_entry = _last_value(numbers, numbered, num_entries)
    string, _ = _chosen(strings, 1, entry_of_list)
    entry_of_string = tf.gather(entry_of_list, string.message)
    count = tf.math.unsorted_segment_sum(
        tf.ones_like(entry_of_string), entry_of_string, num_entries
    )
    value = _last(string, entry_of_string, num_entries)
    row_begins = ends - lengths
    found = _Entries(rows, key, kind_of_entry, count, value)

    error = tf.where(bad, UNREADABLE, "")
    texts = []
    for name in names:
        text, problem = _feature(serialized, row_begins, found, name, num_rows)
        error = tf.where(error == "", problem, error)
        texts.append(text)
    return ExampleTexts([tf.where(error == "", text, "") for text in texts], error)


class _Entries(NamedTuple):
    """Entries of the maps of features, each [E]."""

    row: tf.Tensor
    key: tuple[tf.Tensor, tf.Tensor]
    """begin and end of the name"""
    kind: tf.Tensor
    """number of the field in Feature; 0: empty"""
    count: tf.Tensor
    """number of strings"""
    value: tuple[tf.Tensor, tf.Tensor]
    """begin and end of the last string"""


def _feature(
    serialized: tf.Tensor, row_begins: tf.Tensor, entries: _Entries, name: str, num_rows: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The text of one feature, string [B], and its error, string [B]."""

    def cut(rows: tf.Tensor, place: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        begin = tf.maximum(place[0] - tf.gather(row_begins, rows), 0)  # negative if empty
        return tf.strings.substr(tf.gather(serialized, rows), begin, place[1] - place[0])

    is_named = cut(entries.row, entries.key) == name
    number = tf.range(tf.size(entries.row, tf.int64))
    # Of two entries with the same name, the later one counts.
    chosen = tf.math.unsorted_segment_max(tf.where(is_named, number, -1), entries.row, num_rows)
    there = chosen >= 0
    row, entry = flagged(there, tf.range(num_rows), chosen)
    kind = tf.gather(entries.kind, entry)
    count = tf.gather(entries.count, entry)
    good = (kind == 1) & (count == 1)
    place = (
        tf.where(good, tf.gather(entries.value[0], entry), tf.gather(row_begins, row)),
        tf.where(good, tf.gather(entries.value[1], entry), tf.gather(row_begins, row)),
    )
    rule = f"the feature {name!r} must be a bytes_list of one text; "
    kinds = tf.constant(["nothing", *_KINDS.values()])
    problem = tf.where(
        kind == 1,
        tf.strings.join([rule, "received ", tf.strings.as_string(count), " values"]),
        tf.strings.join([rule, "received ", tf.gather(kinds, kind)]),
    )
    texts = tf.where(good, cut(row, place), "")
    problems = tf.where(good, "", problem)
    absent = tf.fill([num_rows], f"{rule}the message has no such feature")
    at = row[:, tf.newaxis]
    return (
        tf.tensor_scatter_nd_update(tf.fill([num_rows], ""), at, texts),
        tf.tensor_scatter_nd_update(absent, at, problems),
    )


def _read_fields(
    content: tf.Tensor, begins: tf.Tensor, ends: tf.Tensor
) -> tuple[_Fields, tf.Tensor]:
    """Read the length-delimited fields of messages.

    Args:
        content: bytes of all messages, followed by ten more bytes, uint8 [N].
        begins, ends: positions of the messages, int64 [M].

    Returns:
        The fields, and whether each message can be read to its end, bool [M].
    """
    *columns, good = _field_columns(content, begins, ends)
    return _Fields(*columns), good


@tf.function(  # one function in a graph, which is optimized faster than five copies
    input_signature=[tf.TensorSpec([None], t) for t in (tf.uint8, tf.int64, tf.int64)],
    autograph=False,
    experimental_attributes={"_noinline": True},
)
def _field_columns(content: tf.Tensor, begins: tf.Tensor, ends: tf.Tensor) -> list[tf.Tensor]:
    types = [tf.int64] * 4
    arrays = [tf.TensorArray(t, 0, dynamic_size=True, infer_shape=False) for t in types]
    message = tf.range(tf.size(begins, tf.int64))

    def more(step: tf.Tensor, place: tf.Tensor, good: tf.Tensor, *_: tf.TensorArray) -> tf.Tensor:
        return (step < MOST_FIELDS) & tf.reduce_any(good & (place < ends))

    def read(step: tf.Tensor, place: tf.Tensor, good: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
        active = tf.where(good & (place < ends))[:, 0]
        begin, end = tf.gather(place, active), tf.gather(ends, active)
        tag, after_tag, good_tag = _varint(content, begin, end, _TAG_BYTES)
        kind = tag & 7
        # An integer, or the length of the bytes that follow.
        value, after, good_value = _varint(content, after_tag, end, _VARINT_BYTES)
        good_value &= (kind != _LENGTH_DELIMITED) | ((value >= 0) & (value <= end - after))
        is_varint, is_bytes = kind == 0, kind == _LENGTH_DELIMITED
        fixed = tf.where(kind == 1, tf.constant(8, tf.int64), 4)
        next_place = tf.where(is_bytes, after + tf.where(good_value, value, 0), after)
        next_place = tf.where(is_varint | is_bytes, next_place, after_tag + fixed)
        is_fixed = (kind == 1) | (kind == 5)
        fine = good_tag & (tag // 8 > 0) & (tag < 2**32)
        fine &= ((is_varint | is_bytes) & good_value) | (is_fixed & (next_place <= end))
        found = fine & is_bytes
        columns = flagged(found, tf.gather(message, active), tag // 8, after, next_place)
        written = [array.write(step, column) for array, column in zip(arrays, columns, strict=True)]
        at = active[:, tf.newaxis]
        place = tf.tensor_scatter_nd_update(place, at, tf.where(fine, next_place, end))
        good = tf.tensor_scatter_nd_update(good, at, fine)
        return (step + 1, place, good, *written)

    step, place, good, *arrays = tf.while_loop(
        more, read, (0, begins, tf.ones_like(begins, tf.bool), *arrays), parallel_iterations=1
    )
    arrays = [array.write(step, tf.zeros([0], tf.int64)) for array in arrays]
    columns = [tf.ensure_shape(array.concat(), [None]) for array in arrays]
    order = tf.argsort(columns[0], stable=True)
    return [*(tf.gather(column, order) for column in columns), good & (place >= ends)]


def _varint(
    content: tf.Tensor, begin: tf.Tensor, end: tf.Tensor, most: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Read varints: their values, the positions after them, and whether they are valid."""
    places = begin[:, tf.newaxis] + tf.range(most, dtype=tf.int64)
    # Bytes beyond the end of the content are not used, since they are not before `end`.
    last = tf.size(content, tf.int64) - 1
    read = tf.cast(tf.gather(content, tf.minimum(places, last)), tf.int64)
    is_last = read < 0x80
    size = tf.argmax(tf.cast(is_last, tf.int32), 1, tf.int64) + 1
    shifts = tf.range(most, dtype=tf.int64)
    within = shifts < size[:, tf.newaxis]
    parts = tf.where(within, tf.bitwise.left_shift(read & 0x7F, 7 * shifts), 0)
    value = tf.reduce_sum(parts, 1)
    good = tf.reduce_any(is_last, 1) & (begin + size <= end)
    return value, begin + size, good


def _chosen(fields: _Fields, number: int, rows: tf.Tensor) -> tuple[_Fields, tf.Tensor]:
    """The fields with a given number, and the row of each; `rows` are those of the messages."""
    chosen = fields.number == number
    found = _Fields(*flagged(chosen, *fields))
    return found, tf.gather(rows, found.message)


def _any(flags: tf.Tensor, rows: tf.Tensor, num_rows: tf.Tensor) -> tf.Tensor:
    """Whether any of each row's flags is set: bool [B]."""
    return tf.math.unsorted_segment_max(tf.cast(flags, tf.int32), rows, num_rows) > 0


def _last(fields: _Fields, groups: tf.Tensor, num_groups: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Begin and end of the last field of each group; 0 and 0 for a group without fields."""
    return (
        _last_value(fields.begin, groups, num_groups),
        _last_value(fields.end, groups, num_groups),
    )


def _last_value(values: tf.Tensor, groups: tf.Tensor, num_groups: tf.Tensor) -> tf.Tensor:
    """The last value of each group; 0 for a group without values."""
    last = tf.math.unsorted_segment_max(tf.range(tf.size(groups, tf.int64)), groups, num_groups)
    # Index of an additional value for groups without values, since there may be no value at all.
    place = tf.where(last >= 0, last, tf.size(groups, tf.int64))
    return tf.gather(tf.concat([values, [0]], 0), place)
