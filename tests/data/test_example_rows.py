"""Rows of examples, split up again and compared with records worked out by hand."""

import math

import numpy as np
import pytest

from tests.data.chat_examples import by_hand, conversations, preferences, write_lines
from tests.data.documents import make_documents
from tests.rounding import about, additions_of, additions_of_sum, in_double
from tfllm.config import ModelConfig, PrepareConfig
from tfllm.data import rows_dataset
from tfllm.data.shards.splits import NO_ROW
from tfllm.tasks import prepare


def whole_epoch(data, split, length, batch_size=4):
    options = {"sequence_length": length, "batch_size": batch_size, "shuffle": False}
    batches = rows_dataset(data, split, repeat=False, **options).as_numpy_iterator()
    rows = ((x["token_ids"], x["segment_ids"], y, w) for x, y, w in batches)
    return [row for batch in rows for row in zip(*batch, strict=True)]


def taken_apart(rows):
    """The (ids, learned) of each example in the rows, as tuples."""
    found = []
    for tokens, segments, labels, weights in rows:
        numbers = [n for n in np.unique(segments) if n]
        assert numbers == list(range(1, len(numbers) + 1))
        assert not weights[segments == 0].any()
        for number in numbers:
            (places,) = np.nonzero(segments == number)
            assert (np.diff(places) == 1).all()
            ids = [*tokens[places].tolist(), int(labels[places[-1]])]
            assert labels[places].tolist() == ids[1:]
            found.append((tuple(ids), (False, *(weights[places] == 1).tolist())))
            assert set(weights[places].tolist()) <= {0.0, 1.0}
    return found


def expected(chat, length):
    made = [by_hand(chat, record["messages"]) for record in conversations(120)]
    cut = [(tuple(ids[: length + 1]), tuple(learned[: length + 1])) for ids, learned in made]
    return [(ids, learned) for ids, learned in cut if any(learned)]


@pytest.mark.parametrize("length", [24, 40, 97, 160, 2000])
def test_every_example_stands_whole_in_one_row_and_its_replies_alone_are_learned(
    examples, chat, length
):
    found = [
        example
        for split in ("train", "validation")
        for example in taken_apart(whole_epoch(examples, split, length))
    ]
    assert sorted(found) == sorted(expected(chat, length))
    train, validation = (getattr(examples, name) for name in ("train", "validation"))
    assert train.num_documents + validation.num_documents == 120
    lost = 120 - len(found)
    packings = [split.packing(length) for split in (train, validation)]
    assert sum(p.num_left_out for p in packings) == lost
    longer = [ids for ids, _ in expected(chat, 10**6) if len(ids) > length + 1]
    assert sum(p.num_truncated for p in packings) == len(longer) - lost
    if length == 24:
        assert lost > 20  # else nothing is tested


def test_rows_stand_in_the_order_of_the_files(examples, chat):
    order = {ids: i for i, (ids, _) in enumerate(expected(chat, 10**6))}
    rows = [row for row in whole_epoch(examples, "train", 200) if row[3].any()]
    numbers = [[order[ids] for ids, _ in taken_apart([row])] for row in rows]
    assert [row[0] for row in numbers] == sorted(row[0] for row in numbers)
    assert all(row == sorted(row) for row in numbers)
    assert max(map(len, numbers)) > 2


def test_packed_and_cut_rows_have_the_loss_of_each_example_alone(examples, chat):
    """Through the model: no example sees another, and each begins at position 0."""
    from tfllm.models.causal_lm import CausalLM
    from tfllm.tasks import evaluate

    length = 97
    for positions in ("rotary", "learned"):
        config = ModelConfig(
            vocab_size=chat.vocab_size,
            embedding_dim=16,
            num_layers=2,
            num_heads=2,
            positions=positions,
            max_sequence_length=length,
        )
        model = CausalLM(config, seed=1)
        batches = rows_dataset(
            examples, "validation", sequence_length=length, batch_size=8, repeat=False
        )
        packed = [model.loss_sums(*batch, training=False) for batch in batches]
        total, count = (sum(float(s[i]) for s in packed) for i in (0, 1))
        alone = 0.0
        parts = taken_apart(whole_epoch(examples, "validation", length))
        for ids, learned in parts:
            logits = np.asarray(model(np.asarray([ids[:-1]])), np.float64)[0]
            log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            alone -= sum(log_probs[i, ids[i + 1]] for i in range(len(ids) - 1) if learned[i + 1])
        assert count == sum(sum(learned) for _, learned in parts)
        additions = additions_of_sum(count, additions_of(config, length) + chat.vocab_size)
        assert total == about(alone, additions)
    result = evaluate(model, examples, sequence_length=length, tokenizer=chat)
    assert (result.num_tokens, result.loss) == (count, about(alone / count, additions))
    per_byte = result.loss / math.log(2) / examples.validation.bytes_per_token
    assert result.bits_per_byte == in_double(per_byte)


def test_a_length_that_leaves_nothing_to_learn_says_which_would_do(examples):
    first = [learned.index(True) for _, learned in map(tuple, _train_by_hand(examples))]
    with pytest.raises(ValueError, match=rf"sequence_length to at least {min(first)}") as error:
        whole_epoch(examples, "train", 3)
    assert "none of the" in str(error.value) and "row of sequence_length 3" in str(error.value)
    assert whole_epoch(examples, "train", min(first))


def _train_by_hand(data):
    stream = data.train._stream
    for i in range(len(stream)):
        ids, learned = stream.sequence(i, 0, 10**6)
        yield ids.tolist(), (learned == 1).tolist()


def test_what_is_cut_and_left_out_is_told(examples, caplog):
    examples.train._packings.clear()
    whole_epoch(examples, "train", 24)
    whole_epoch(examples, "train", 24)
    (record,) = [r for r in caplog.records if "left out" in r.message]  # once
    packing = examples.train.packing(24)
    assert f"would remain of them: {packing.num_left_out} " in record.message
    assert f"truncated at their end: {packing.num_truncated}; left out" in examples.describe(24)
    assert "left out" not in examples.describe(2000)


def test_unigram_perplexity_counts_what_is_learned_alone(examples, chat):
    counts = examples.train.token_counts(examples.vocab_size)
    learned = [ids[i] for ids, marks in _train_by_hand(examples) for i in np.flatnonzero(marks)]
    assert counts.tolist() == np.bincount(learned, minlength=examples.vocab_size).tolist()
    assert counts[chat.token_id("<|im_start|>")] == 0
    assert 1 < examples.unigram_perplexity() < examples.vocab_size
    total = sum(
        len(message["content"].encode())
        for record in conversations(120)
        for message in record["messages"]
        if message["role"] == "assistant"
    )
    assert examples.train.num_bytes + examples.validation.num_bytes == total


def test_examples_are_never_joined_and_a_row_of_nothing_counts_nothing(examples, pairs):
    for data in (examples, pairs):
        with pytest.raises(ValueError, match="separate_documents must be true"):
            rows_dataset(data, "train", sequence_length=32, batch_size=2, separate_documents=False)
        inputs, _, weights = data.train.batch([0, NO_ROW], 64)
        assert weights[0].any() and not weights[1].any() and not inputs["segment_ids"][1].any()


# ------------------------------------------------------------------ preferences


def pair_by_hand(chat, record, length):
    """Both sides of a row of [2, length]: (ids, learned), cut as the docstring says."""
    sides = []
    for reply in (record["chosen"], record["rejected"]):
        messages = [
            {"role": "user", "content": record["prompt"]},
            {"role": "assistant", "content": reply},
        ]
        ids, learned = by_hand(chat, messages)
        start = learned.index(True)
        sides.append((ids[:start], ids[start:]))
    longest = max(len(reply) for _, reply in sides)
    room = max(length + 1 - longest, (length + 1) // 4, 1)
    rows = []
    for prompt, reply in sides:
        prompt = prompt[-room:]
        ids = (prompt + reply)[: length + 1]
        rows.append((ids, ([False] * len(prompt) + [True] * len(reply))[: length + 1]))
    return rows


@pytest.mark.parametrize("length", [1, 7, 20, 33, 64, 400])
def test_a_row_is_a_pair_whose_prompt_loses_its_beginning_first(pairs, chat, length):
    by_prompt = {}
    for record in preferences(60):
        sides = pair_by_hand(chat, record, length)
        by_prompt.setdefault(str(sides), []).append(sides)
    seen = 0
    for split in ("train", "validation"):
        rows = rows_dataset(
            pairs, split, sequence_length=length, batch_size=3, repeat=False, shuffle=False
        ).as_numpy_iterator()
        for x, labels, weights in rows:
            assert x["token_ids"].shape == labels.shape == weights.shape == (3, 2, length)
            assert x["reference"].shape == (3, 2) and not x["reference"].any()
            for row in range(3):
                if not weights[row].any():
                    continue
                seen += 1
                sides = []
                for side in (0, 1):
                    real = x["segment_ids"][row, side]
                    n = int(real.sum())
                    assert real.tolist() == [1] * n + [0] * (length - n)
                    ids = x["token_ids"][row, side, :n].tolist()
                    ids.append(int(labels[row, side, n - 1]))
                    assert labels[row, side, :n].tolist() == ids[1:]
                    assert (x["token_ids"][row, side, n:] == pairs.end_token_id).all()
                    marks = weights[row, side] == 1
                    assert not marks[n:].any()
                    sides.append((ids, [False, *marks[:n].tolist()]))
                assert str(sides) in by_prompt
                by_prompt[str(sides)].pop()
    assert seen == 60 and not any(by_prompt.values())


def test_a_reference_goes_with_its_pair_through_any_order(pairs):
    shape = (pairs.train.num_documents, 2)
    reference = np.arange(2 * shape[0], dtype=np.float64).reshape(shape)
    data = pairs.with_reference(reference)
    plain = {
        x["token_ids"].tobytes(): i
        for i, (x, _, _) in enumerate(
            rows_dataset(
                pairs, "train", sequence_length=40, batch_size=1, shuffle=False, repeat=False
            ).as_numpy_iterator()
        )
    }
    rows = rows_dataset(data, "train", sequence_length=40, batch_size=1, seed=4, repeat=False)
    received = [(x["token_ids"], x["reference"]) for x, _, _ in rows.as_numpy_iterator()]
    assert len(received) == shape[0]
    for tokens, values in received:
        assert values[0].tolist() == reference[plain[tokens.tobytes()]].tolist()
    assert pairs.train.reference is None  # the other object's
    with pytest.raises(ValueError, match=r"must have the shape \(\d+, 2\); received \(3, 2\)"):
        pairs.with_reference(reference, np.zeros((3, 2)))


def test_pairs_are_described(pairs):
    told = pairs.describe(7)
    assert "pairs" in told and "prompts truncated at their beginning: " in told
    assert "replies truncated at their end: " in told
    assert "cut" not in pairs.describe(1000)


def test_texts_among_examples_are_learned_whole(tmp_path, chat_folder, chat):
    texts = make_documents(10)
    source = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    config = PrepareConfig(tokenizer=str(chat_folder), num_processes=1, validation_fraction=0)
    data = prepare(source, tmp_path / "out", config, task="instruction", show_progress=False)
    found = taken_apart(whole_epoch(data, "train", 500))
    wanted = [
        ((*ids, chat.end_token_id), (False, *[True] * len(ids)))
        for ids in (tuple(chat.encode(text, parse_special=False)) for text in texts)
    ]
    assert sorted(found) == sorted(wanted)
