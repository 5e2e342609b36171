import itertools

import numpy as np
import pytest

from tfllm.data import rows_dataset, steps_per_epoch
from tfllm.data.shards.packing import pack_rows

LENGTH, BATCH = 16, 4
NAMES = ("token_ids", "segment_ids", "reference")


@pytest.fixture(params=["text", "examples", "pairs"])
def data(request):
    """Prepared data of every kind."""
    name = "prepared" if request.param == "text" else request.param
    return request.getfixturevalue(name)


def length_of(data):
    """Rows that hold one example or a few."""
    return LENGTH if data.records == "text" else 100


def elements(data, split="train", **options):
    options = {"sequence_length": length_of(data), "batch_size": BATCH, **options}
    return [
        (*(x[name] for name in NAMES if name in x), y, w)
        for x, y, w in rows_dataset(data, split, **options).as_numpy_iterator()
    ]


def same(a, b):
    return len(a) == len(b) and all(
        np.array_equal(p, q) for e, f in zip(a, b, strict=True) for p, q in zip(e, f, strict=True)
    )


def stream(data, split):
    """All tokens of a split, read from the files without the code under test."""
    files = sorted(data.folder.glob(f"{split}-*.bin"))
    return list(itertools.chain(*(np.fromfile(f, "<u2").tolist() for f in files)))


def test_rows_are_the_stream_cut_at_multiples_of_the_length(prepared):
    assert len(list(prepared.folder.glob("train-*.bin"))) > 2  # rows cross shards
    tokens = stream(prepared, "train")
    received = elements(prepared, shuffle=False, repeat=False)
    rows = [np.asarray(tokens[i : i + LENGTH + 1]) for i in range(0, len(tokens) - LENGTH, LENGTH)]
    rows += [np.zeros(0)] * (-len(rows) % BATCH)
    for k, element in enumerate(received):
        expected = pack_rows(
            rows[k * BATCH : (k + 1) * BATCH], LENGTH, end_token_id=prepared.end_token_id
        )
        assert same([element], [expected])
    assert len(received) == len(rows) // BATCH == steps_per_epoch(prepared, "train", LENGTH, BATCH)


@pytest.mark.parametrize("shuffle", [True, False])
def test_each_token_is_a_label_once_in_an_epoch_but_for_the_tail(prepared, shuffle):
    tokens = stream(prepared, "train")
    whole = (len(tokens) - 1) // LENGTH * LENGTH
    for separate in (True, False):
        rows = elements(prepared, shuffle=shuffle, repeat=False, separate_documents=separate)
        labels = sorted(t for _, _, y, w in rows for t in y[w > 0].tolist())
        assert labels == sorted(tokens[1 : whole + 1])


def test_validation_counts_every_label_to_the_last(prepared):
    tokens = stream(prepared, "validation")
    assert (len(tokens) - 1) % LENGTH  # else there is no tail to test
    plain = elements(prepared, "validation", shuffle=False, repeat=False, separate_documents=False)
    labels = [t for _, _, y, w in plain for t in y[w > 0].tolist()]
    assert labels == tokens[1:]
    # One row longer than the split is no error there.
    (only,) = elements(prepared, "validation", sequence_length=5000, batch_size=1, repeat=False)
    assert int(only[2].shape[1]) == 5000


def test_order_is_a_function_of_seed_and_epoch(data):
    steps = 3 * steps_per_epoch(data, "train", length_of(data), 1)
    one = elements(data, seed=1, batch_size=1, num_batches=steps)
    assert same(one, elements(data, seed=1, batch_size=1, num_batches=steps))
    two = elements(data, seed=2, batch_size=1, num_batches=steps)
    third = steps // 3
    epochs = [one[:third], one[third : 2 * third], one[2 * third :], two[:third]]
    for a, b in itertools.combinations(epochs, 2):
        assert not same(a, b)
        assert sorted(r[0].tobytes() for r in a) == sorted(r[0].tobytes() for r in b)


@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize("start", [0, 1, 7])
def test_start_step_equals_skipping(data, start, repeat):
    per_epoch = steps_per_epoch(data, "train", length_of(data), BATCH)
    count = per_epoch + 3 if repeat else None  # across the end of an epoch
    all_of_them = elements(data, repeat=repeat, num_batches=count)
    rest = elements(data, repeat=repeat, start_step=start, num_batches=count and count - start)
    assert same(all_of_them[start:], rest)
    assert len(all_of_them) == (count or per_epoch)


def test_the_parts_of_a_workers_devices_make_up_its_share(data):
    options = {"num_batches": 5, "seed": 3, "shard": (1, 2)}
    whole = elements(data, **options)
    parts = elements(data, parts=2, **options)
    assert len(parts) == 10
    for i, element in enumerate(whole):
        halves = zip(parts[2 * i], parts[2 * i + 1], strict=True)
        assert same([element], [tuple(np.concatenate(half) for half in halves)])


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("repeat", [True, False])
def test_the_workers_shards_make_up_the_global_batch(data, count, repeat):
    number = steps_per_epoch(data, "train", length_of(data), BATCH) + (2 if repeat else 0)
    options = {"repeat": repeat, "num_batches": number, "seed": 5}
    parts = [elements(data, shard=(i, count), **options) for i in range(count)]
    joined = [
        tuple(np.concatenate(pieces) for pieces in zip(*workers, strict=True))
        for workers in zip(*parts, strict=True)
    ]
    assert same(joined, elements(data, **options))


def test_every_kind_of_rows_has_static_shapes_and_the_same_signature(data):
    length = length_of(data)
    dataset = rows_dataset(
        data, "train", sequence_length=length, batch_size=BATCH, shard=(1, 2), parts=2
    )
    x, y, w = dataset.element_spec
    rows = (BATCH // 4, 2) if data.records == "preference" else (BATCH // 4,)
    assert {tuple(s.shape) for s in (x["token_ids"], x["segment_ids"], y, w)} == {(*rows, length)}
    assert [s.dtype.name for s in (x["token_ids"], x["segment_ids"], y, w)] == [
        *["int32"] * 3,
        "float32",
    ]
    if data.records == "preference":
        assert (tuple(x["reference"].shape), x["reference"].dtype.name) == (rows, "float32")
    assert len(x) == (3 if data.records == "preference" else 2)


def test_every_row_comes_once_an_epoch_in_any_order(data):
    length = length_of(data)
    plain, mixed = (
        [row.tobytes() for e in elements(data, shuffle=shuffle, repeat=False) for row in e[0]]
        for shuffle in (False, True)
    )
    assert plain != mixed and sorted(plain) == sorted(mixed)
    assert len(plain) == steps_per_epoch(data, "train", length, BATCH) * BATCH


def test_shapes_are_static_types_right_and_lengths_known(prepared):
    dataset = rows_dataset(
        prepared, "validation", sequence_length=LENGTH, batch_size=BATCH, shard=(1, 2), repeat=False
    )
    x, y, w = dataset.element_spec
    assert set(x) == {"token_ids", "segment_ids"}
    assert {tuple(s.shape) for s in (*x.values(), y, w)} == {(BATCH // 2, LENGTH)}
    assert [s.dtype.name for s in (*x.values(), y, w)] == ["int32", "int32", "int32", "float32"]
    assert int(dataset.cardinality()) == steps_per_epoch(prepared, "validation", LENGTH, BATCH)
    endless = rows_dataset(prepared, "train", sequence_length=LENGTH, batch_size=BATCH)
    assert endless.cardinality() == -1  # tf.data.INFINITE_CARDINALITY


def test_a_dataset_gives_the_same_elements_twice(data):
    dataset = rows_dataset(
        data, "train", sequence_length=length_of(data), batch_size=BATCH, repeat=False
    )
    first, second = (list(dataset.as_numpy_iterator()) for _ in range(2))
    assert same(
        [(e[0]["token_ids"], *e[1:]) for e in first], [(e[0]["token_ids"], *e[1:]) for e in second]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 0}, "sequence_length must be at least 1; received 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; received 0"),
        ({"start_step": -1}, "start_step must be at least 0; received -1"),
        ({"num_batches": 0}, "num_batches must be at least 1; received 0"),
        ({"shard": (0, 3)}, r"divisible by their number \(3\); received 4; try 6"),
        ({"shard": (2, 2)}, r"0 <= index < count; received \(2, 2\)"),
        ({"split": "test"}, "split must be one of train, validation; received 'test'"),
        (
            {"sequence_length": 10**6},
            r"train split is shorter than one row: it has \d+ tokens.*sequence_length 1000000 "
            r"takes 1000001; prepare more text, or set sequence_length to at most \d+",
        ),
    ],
)
def test_what_cannot_be_is_refused(prepared, options, message):
    with pytest.raises(ValueError, match=message):
        elements(prepared, **options)
